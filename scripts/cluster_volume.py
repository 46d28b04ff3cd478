"""The volume on which Locust's master records, reached through a pod that does nothing else."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path

from scripts.cluster_objects import RESULTS
from scripts.errors import CannotRun
from scripts.kube import Kube

RECORDS = "/results"
INSIDE = ("exec", f"deployment/{RESULTS}", "-c", RESULTS, "--")
_TRIES = 3
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


def fetch(kube: Kube, trial: str, into: Path) -> None:
    """Copy a trial's folder from the volume; what was mirrored meanwhile is replaced.

    What `kubectl exec` prints may lack its end although it says that all went well (kubernetes#124571), which
    gzip's checksum and length show.

    Raises:
        CannotRun: it came damaged again and again, or cannot be written here.

    """
    folder = f"{RECORDS}/{trial}"
    pack = f"mkdir -p '{folder}' && tar -C '{folder}' -czf - ."
    for _ in range(_TRIES):
        packed = kube.kubectl(*INSIDE, "sh", "-c", pack)
        try:
            _unpack(packed, into)
        except _DAMAGED as error:
            damage = str(error)
        except OSError as error:
            raise CannotRun(f"{trial} cannot be written to {into}: {error.strerror}") from error
        else:
            return
    raise CannotRun(f"{trial} came damaged from the volume, {_TRIES} times in a row: {damage}")


def _unpack(packed: bytes, into: Path) -> None:
    """Unpack a trial's folder; its summary comes last, so that where it is, all is."""
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        members = sorted(archive, key=lambda member: Path(member.name).name == "summary.json")
        archive.extractall(into, members, filter="data")
