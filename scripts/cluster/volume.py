"""The volume on which Locust's master records, reached through a pod that does nothing else."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path

from scripts.cluster.kube import Away, Kube
from scripts.cluster.objects import RESULTS
from scripts.errors import CannotRun

RECORDS = "/results"
_INSIDE = (f"deployment/{RESULTS}", "-c", RESULTS, "--")
_TRIES = 3
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


class Volume:
    """Holds the trials' folders; `owed` are those that were measured and are not here yet."""

    def __init__(self, kube: Kube) -> None:
        """Begin with nothing to fetch."""
        self._kube = kube
        self.owed: dict[str, Path] = {}
        """By a trial's folder on the volume, where it belongs here."""

    def run(self, *command: str) -> bytes:
        """Run a command beside the volume."""
        return self._kube.kubectl("exec", *self.inside(*command))

    def inside(self, *command: str) -> list[str]:
        """Return what `kubectl exec` is to be told for a command beside the volume."""
        return [*_INSIDE, *command]

    def write(self, file: str, data: bytes) -> None:
        """Write a file, and make its folder."""
        command = self.inside("sh", "-c", f"mkdir -p $(dirname '{file}') && cat > '{file}'")
        self._kube.kubectl("exec", "-i", *command, data=data)

    def fetch(self, trial: str, into: Path) -> None:
        """Copy a trial's folder from the volume; what was mirrored meanwhile is replaced.

        What `kubectl exec` prints may lack its end although it says that all went well (kubernetes#124571),
        which gzip's checksum and length show.

        Raises:
            CannotRun: it came damaged again and again, or cannot be written here.

        """
        folder = f"{RECORDS}/{trial}"
        pack = f"mkdir -p '{folder}' && tar -C '{folder}' -czf - ."
        for _ in range(_TRIES):
            packed = self.run("sh", "-c", pack)
            try:
                _unpack(packed, into)
            except _DAMAGED as error:
                damage = str(error)
            except OSError as error:
                raise CannotRun(f"{trial} cannot be written to {into}: {error.strerror}") from error
            else:
                self.owed.pop(trial, None)
                return
        raise CannotRun(f"{trial} came damaged from the volume, {_TRIES} times in a row: {damage}")

    def fetch_owed(self) -> None:
        """Fetch everything that is owed.

        Raises:
            CannotRun: not everything can be had; the sentence tells why of the last that cannot.

        """
        wrong: CannotRun | None = None
        for trial, into in list(self.owed.items()):
            try:
                self.fetch(trial, into)
            except Away:
                raise
            except CannotRun as error:
                wrong = error
        if wrong is not None:
            raise wrong


def _unpack(packed: bytes, into: Path) -> None:
    """Unpack a trial's folder; its summary comes last, so that where it is, all is."""
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        members = sorted(archive, key=lambda member: Path(member.name).name == "summary.json")
        archive.extractall(into, members, filter="data")
