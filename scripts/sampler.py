"""CPU and memory of a server's processes, once a second, into `pods.csv`."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from scripts.background import in_background
from scripts.family import Family

COLUMNS = ["time", "pod", "container", "cpu_cores", "memory_bytes", "restarts", "ready"]
PERIOD_S = 1.0
EXACT_EVERY = 10


@dataclass
class _Seen:
    """CPU seconds of one process: its own, and those of the children it has reaped; and its parent."""

    own_s: float
    reaped_s: float
    parent: int


class CpuClock:
    """CPU seconds that a changing set of processes has used, counted once each.

    A child's seconds appear twice: as its own while it lives, and in its parent's reaped total after it has
    ended. What was counted while it lived is taken off the parent's increase, so that a child that lives less
    than a sample period counts in full, and one that ends between samples counts to its end.
    """

    def __init__(self) -> None:
        """Start from processes that have used nothing."""
        self._seen: dict[int, _Seen] = {}

    def advance(self, now: dict[int, _Seen]) -> float:
        """Return the CPU seconds used since the last call."""
        used_s = 0.0
        ended_s: dict[int, float] = {}
        for pid, before in self._seen.items():
            if pid not in now:
                ended_s[before.parent] = ended_s.get(before.parent, 0.0) + before.own_s + before.reaped_s
        for pid, seen in now.items():
            before = self._seen.get(pid, _Seen(0.0, 0.0, seen.parent))
            used_s += max(0.0, seen.own_s - before.own_s)
            used_s += max(0.0, seen.reaped_s - before.reaped_s - ended_s.get(pid, 0.0))
        self._seen = now
        return used_s


def read_cpu(processes: Sequence[psutil.Process]) -> dict[int, _Seen]:
    """Read the CPU seconds of those that still answer."""
    found = {}
    for process in processes:
        try:
            with process.oneshot():
                times = process.cpu_times()
                found[process.pid] = _Seen(
                    own_s=times.user + times.system,
                    reaped_s=getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0),
                    parent=process.ppid(),
                )
        except psutil.Error:
            continue
    return found


class Memory:
    """The bytes that processes hold together, pages that they share counted once.

    The exact figure, each page's share (PSS), makes the kernel walk the server's page tables: some
    milliseconds per process, in which it cannot map memory. So it is read where processes came or went and
    every `EXACT_EVERY` samples, and gives what to take off the cheap counters in between: they cannot tell
    pages that a forked process still shares with its parent.
    """

    def __init__(self) -> None:
        """Start without processes."""
        self._pids: set[int] = set()
        self._reads = self._counted_twice = 0

    def read(self, processes: Sequence[psutil.Process]) -> int:
        """Return the bytes of these processes now."""
        cheap, pids = read_cheaply(processes), {process.pid for process in processes}
        if pids != self._pids or not self._reads % EXACT_EVERY:
            self._counted_twice = cheap - read_exactly(processes) if len(processes) > 1 else 0
        self._reads += 1
        self._pids = pids
        return max(0, cheap - self._counted_twice)


def read_exactly(processes: Sequence[psutil.Process]) -> int:
    """Return the processes' shares of all pages, added up; the cheap figure where the system has none."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        except (psutil.AccessDenied, AttributeError):  # another user's, or macOS
            return read_cheaply(processes)
    return total


def read_cheaply(processes: Sequence[psutil.Process]) -> int:
    """Return what each process has for itself and the largest shared part once, from cheap counters."""
    private, shared = 0, 0
    for process in processes:
        try:
            memory: Any = process.memory_info()
        except psutil.Error:
            continue
        its_shared = getattr(memory, "shared", 0)  # macOS does not tell
        private += memory.rss - its_shared
        shared = max(shared, its_shared)
    return private + shared


def busy_s(cores: Sequence[int]) -> float:
    """Return the seconds that any process, or another machine's (steal), has kept `cores` busy since boot."""
    if not cores:
        return 0.0
    every: list[Any] = psutil.cpu_times(percpu=True)
    return sum(
        getattr(every[core], kind, 0.0) for core in cores for kind in ("user", "nice", "system", "steal")
    )


class Sampler:
    """Writes a row of `pods.csv` per second for the processes of `family`."""

    def __init__(
        self,
        family: Family,
        file: Path,
        pod: str,
        alive: Callable[[], bool],
        cores: Sequence[int] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sample `family` as pod `pod` into `file`; `cores` are those that it is pinned to."""
        self._family, self._file, self._pod, self._alive, self._clock = family, file, pod, alive, clock
        self._cpu, self._memory, self._cores = CpuClock(), Memory(), cores
        self._before_s: float | None = None
        self._busy_s = 0.0
        self._others: list[tuple[float, float, float]] = []

    def row(self) -> list[object] | None:
        """Return the values of one row; None on the first call, when there is no interval yet."""
        members = self._family.members()
        now_s = self._clock()
        used_s = self._cpu.advance(read_cpu(members))
        before_s, self._before_s = self._before_s, now_s
        busy_before_s, self._busy_s = self._busy_s, busy_s(self._cores)
        if before_s is None or now_s <= before_s:
            return None
        self._others.append((before_s, now_s, self._busy_s - busy_before_s - used_s))
        cores = used_s / (now_s - before_s)
        ready = int(self._alive())
        return [f"{now_s:.3f}", self._pod, "server", f"{cores:.4f}", self._memory.read(members), 0, ready]

    def others_cores(self, since_s: float) -> float | None:
        """Return how many of the server's cores other processes used on average since a time."""
        spans = [(end - begin, used) for begin, end, used in self._others if begin >= since_s]
        if not self._cores or not spans:
            return None
        return round(max(0.0, sum(used for _, used in spans) / sum(span for span, _ in spans)), 3)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample in a thread of its own while the block runs."""
        with in_background("sampler", self._sample_until):
            yield

    def _sample_until(self, done: threading.Event) -> None:
        with self._file.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            due_s = time.monotonic()
            while True:
                if row := self.row():
                    writer.writerow(row)
                file.flush()
                due_s += PERIOD_S
                if done.wait(max(0.0, due_s - time.monotonic())):
                    return
