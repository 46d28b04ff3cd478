"""Who uses a namespace: a Lease that names the run, renewed for as long as a command drives it."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.background import in_background
from scripts.cluster.kube import Kube, Object
from scripts.errors import CannotRun
from scripts.family import lives

NAME = "modelswarm"
SPAN_S = 30
RENEW_EVERY_S = 10.0
WATCH_S = 2 * RENEW_EVERY_S
LOOK_S = 2.0
_PREFIX = "modelswarm/"
_BOOT, _PROCESSES = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Holder:
    """Who holds a namespace."""

    run: str
    """The name of the run's folder."""
    who: str
    """user@machine, for a person to read."""
    whose: str
    """Among which processes its pid is one: see `ours`."""
    pid: int
    folder: str
    """Where on that machine the run is written."""
    detached: bool
    """Whether the run is meant to outlive the command that drives it."""
    renewed_s: float
    """When it was last renewed, in seconds since the epoch."""

    @classmethod
    def of(cls, lease: Object) -> Holder:
        """Read a Lease."""
        notes = lease["metadata"].get("annotations", {})
        renewed = datetime.fromisoformat(lease["spec"]["renewTime"])
        return cls(
            run=lease["spec"]["holderIdentity"],
            who=notes.get(f"{_PREFIX}who", "somebody"),
            whose=notes.get(f"{_PREFIX}whose", ""),
            pid=int(notes.get(f"{_PREFIX}pid", 0)),
            folder=notes.get(f"{_PREFIX}folder", ""),
            detached=notes.get(f"{_PREFIX}detached") == "true",
            renewed_s=renewed.timestamp(),
        )

    @property
    def here(self) -> bool:
        """Whether its process is one that this command can see, if it runs."""
        return self.whose == ours()

    @property
    def is_me(self) -> bool:
        """Whether it is this very process."""
        return self.here and self.pid == os.getpid()


def driven(kube: Kube, holder: Holder, now_s: float, pause: Callable[[float], object] = time.sleep) -> bool:
    """Tell whether the command that holds a namespace is still there.

    That its process has ended is known at once where it would be seen. Everything else goes by renewals: the
    API server may have been away for longer than `SPAN_S`, and another machine's clock may differ from ours,
    so where none lies within the last `SPAN_S` the Lease is watched for `WATCH_S`: a new renewal counts
    whatever time it names (client-go's leader election goes by changes only, too).
    """
    if holder.here and not lives(holder.pid):
        return False
    recent = 0 <= now_s - holder.renewed_s < SPAN_S
    if not recent:
        said = (
            f"Looking for {WATCH_S:.0f} s whether anybody still drives the run {holder.run} of {holder.who} …"
        )
        Console(stderr=True).print(said, markup=False, highlight=False, soft_wrap=True)
    for _ in range(0 if recent else round(WATCH_S / LOOK_S)):
        pause(LOOK_S)
        found = kube.lease(NAME)
        if found is None:
            return False
        if Holder.of(found) != holder:
            return True
    return recent


class Taken(CannotRun):
    """Another run uses the namespace."""

    def __init__(self, namespace: str, holder: Holder, driven: bool) -> None:
        """Say by whom, and what can be done."""
        since = datetime.fromtimestamp(holder.renewed_s, UTC).strftime("%H:%M:%S UTC")
        use = f"The namespace {namespace} is used by the run {holder.run} of {holder.who}"
        if driven:
            advice = f"last heard of at {since}: wait for it, or name another with --namespace."
        else:
            advice = (
                f"which nobody drives since {since}: `modelswarm attach {holder.run}` finishes it, "
                f"`modelswarm clean --target kind` (or cluster, with --namespace {namespace}) drops it."
            )
        super().__init__(f"{use}, {advice}")
        self.holder, self.driven = holder, driven


def refuse_driven(kube: Kube) -> None:
    """Look whether anybody's run is going on in a namespace.

    Raises:
        Taken: one is.

    """
    found = kube.lease(NAME)
    if found is not None:
        holder = Holder.of(found)
        if driven(kube, holder, time.time()):
            raise Taken(kube.namespace, holder, driven=True)


def me() -> str:
    """Return this user on this machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def ours() -> str:
    """Return what tells the processes that this command sees from all others.

    A name does not: containers and cloned machines share one, and after a restart a machine gives the same
    pids again. Linux has an id of each boot and of each container's processes; elsewhere the name has to do.
    """
    try:
        return f"{_BOOT.read_text().strip()} {_PROCESSES.readlink()} {os.getuid()}"
    except OSError:
        return me()


def now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)


class Lease:
    """The Lease of one run in its namespace."""

    def __init__(
        self,
        kube: Kube,
        folder: Path,
        detached: bool,
        clock: Callable[[], datetime] = now,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Nothing is held yet for the run of that folder."""
        self._kube, self._folder, self._detached = kube, folder, detached
        self._run = folder.name
        self._clock, self._pause = clock, pause
        self._left = False

    def leave(self) -> None:
        """Keep the namespace for the run when the block ends: something of it is still there."""
        self._left = self._detached = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the namespace while the block lasts; afterwards it is free, unless it is left to the run.

        Raises:
            Taken: another run holds it.

        """
        self.take()
        try:
            with in_background("lease", self._renew_until):
                yield
        finally:
            with suppress(CannotRun):  # it runs out by itself
                if self._left:
                    self._renew()
                else:
                    self._kube.delete("lease", NAME)

    def take(self) -> None:
        """Take the namespace, also over from a command that is gone.

        Raises:
            Taken: another run holds it.

        """
        found = self.refuse_taken()
        if not self._kube.put_lease(NAME, self._body(found), found is None):
            self.take()  # somebody was quicker: look who

    def refuse_taken(self) -> Object | None:
        """Return the Lease that is there, if any.

        Raises:
            Taken: another run holds it.

        """
        found = self._kube.lease(NAME)
        if found is not None:
            holder = Holder.of(found)
            there = driven(self._kube, holder, self._clock().timestamp(), self._pause)
            mine = holder.run == self._run and (not there or holder.is_me)
            if not mine and (there or holder.detached):
                raise Taken(self._kube.namespace, holder, there)
        return found

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(RENEW_EVERY_S):
            try:
                if not self._renew():
                    return
            except CannotRun:
                continue  # the trial meets what is wrong, and says it

    def _renew(self) -> bool:
        """Renew the Lease; return whether it is still this run's."""
        found = self._kube.lease(NAME)
        if found is None:
            return True
        holder = Holder.of(found)
        if holder.run != self._run or not holder.is_me:
            # This machine slept for longer than the Lease holds, and somebody went on with the work.
            what = f"the namespace {self._kube.namespace} was taken over meanwhile"
            self._kube.let_go(f"{what} by {holder.who} for the run {holder.run}")
            return False
        self._kube.put_lease(NAME, self._body(found), False)
        return True

    def _body(self, before: Object | None) -> Object:
        stamp = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        notes = {
            "who": me(),
            "whose": ours(),
            "pid": str(os.getpid()),
            "folder": str(self._folder.resolve()),
            "detached": str(self._detached).lower(),
        }
        metadata: dict[str, Any] = {
            "name": NAME,
            "annotations": {f"{_PREFIX}{key}": value for key, value in notes.items()},
        }
        if before is not None:
            metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
        spec = {
            "holderIdentity": self._run,
            "leaseDurationSeconds": SPAN_S,
            "acquireTime": before["spec"].get("acquireTime", stamp) if before else stamp,
            "renewTime": stamp,
        }
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
