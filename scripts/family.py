"""All processes that belong to a run: found by a mark in their environment, and by descent.

A server's processes are more than its children: Ray's daemons leave the tree, others start sessions of their
own or overwrite their environment with a title. The mark (an environment variable that every child inherits)
finds the first kind, descent from a marked process the second, and what was seen once is remembered.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "MODELSWARM_MARK"
SHARED_MEMORY = Path("/dev/shm")
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, OSError)


class Family:
    """The processes whose environment holds `MODELSWARM_MARK=<mark>…`, and their descendants.

    A mark is matched from its beginning: a run's mark finds all its trials' processes. Where a `folder` is
    given, those that work inside it belong too: an orphan that has written a title over its environment is
    found by nothing else.
    """

    def __init__(self, mark: str, folder: Path | None = None) -> None:
        """Follow the processes that carry `mark`, or work in `folder`."""
        self.mark, self._folder = mark, folder.resolve() if folder else None
        self._members: dict[int, psutil.Process] = {}
        self._strangers: dict[int, float] = {}

    def members(self) -> list[psutil.Process]:
        """Return those alive now; zombies too, until their parent has reaped them."""
        alive = {pid: process for pid, process in self._members.items() if process.is_running()}
        for process in psutil.process_iter(["ppid", "create_time"]):
            if process.pid not in alive and self._belongs(process, alive):
                alive[process.pid] = process
        self._members = alive
        return list(alive.values())

    def _belongs(self, process: psutil.Process, alive: dict[int, psutil.Process]) -> bool:
        """Look at the parent each time (it may have joined since), at the environment once per process."""
        info = process.info
        if info["ppid"] in alive:
            return True
        if self._strangers.get(process.pid) == info["create_time"]:
            return False
        marked = self._is_marked(process) or self._works_inside(process)
        # A process that has just been forked shows its parent's environment until it has called exec.
        if not marked and time.time() - info["create_time"] > 1.0:
            self._strangers[process.pid] = info["create_time"]
        return marked

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK, "").startswith(self.mark)
        except _GONE:
            return False

    def _works_inside(self, process: psutil.Process) -> bool:
        try:
            return self._folder is not None and Path(process.cwd()).is_relative_to(self._folder)
        except _GONE:
            return False

    def kill(self, patience_s: float = 5.0) -> list[str]:
        """Kill every member until none is left; return a line for each that had to be killed.

        Shared memory and semaphores that they made have files that only they would have removed.

        Raises:
            TimeoutError: something outlived SIGKILL for `patience_s`.

        """
        killed: dict[int, str] = {}
        shared: set[Path] = set()
        deadline = time.monotonic() + patience_s
        while members := living(self.members()):
            shared |= _shared_files(members)
            for process in members:
                with contextlib.suppress(*_GONE):
                    killed.setdefault(process.pid, f"{process.pid} {process.name()}")
                    process.kill()
            psutil.wait_procs(members, timeout=0.2)
            if time.monotonic() > deadline:
                raise TimeoutError(f"still running after SIGKILL: {', '.join(killed.values())}")
        for file in shared:
            with contextlib.suppress(OSError):
                file.unlink()
        return list(killed.values())


def _shared_files(processes: Iterable[psutil.Process]) -> set[Path]:
    """Return the files of shared memory that processes map and that were made since this process began."""
    found, began_s = set(), psutil.Process().create_time()
    for process in processes:
        with contextlib.suppress(*_GONE):
            for each in process.memory_maps():
                path = Path(each.path)
                if path.is_relative_to(SHARED_MEMORY) and _made_at(path) >= began_s:
                    found.add(path)
    return found


def _made_at(path: Path) -> float:
    return path.stat().st_ctime


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Leave out zombies: they hold nothing but an exit status."""
    found = []
    for process in processes:
        with contextlib.suppress(*_GONE):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def lives(pid: int) -> bool:
    """Tell whether a process of this machine runs; a zombie does not."""
    try:
        return bool(living([psutil.Process(pid)]))
    except psutil.Error:
        return False
