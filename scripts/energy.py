"""Energy of the whole processor, where it counts it: Intel's and AMD's RAPL through Linux' powercap.

The counters are of packages, not of processes: the server shares them with the load generator and with
whatever else runs, so that the figure is an upper bound of what the server took. Most systems let only root
read them.
"""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.background import in_background

POWERCAP = Path("/sys/class/powercap")
COLUMNS = ("time", "zone", "joules")
PERIOD_S = 1.0
MICRO = 1e-6


@dataclass
class _Zone:
    """A package's counter, which starts from 0 again after `range_uj`."""

    name: str
    file: Path
    range_uj: int
    before_uj: int
    total_uj: int = 0

    def advance(self) -> float:
        """Return the joules since the first reading."""
        now_uj = int(self.file.read_text())
        self.total_uj += (now_uj - self.before_uj) % (self.range_uj + 1)
        self.before_uj = now_uj
        return self.total_uj * MICRO


def find_zones(powercap: Path = POWERCAP) -> list[_Zone]:
    """Return the packages whose counters can be read; parts of a package are counted with it."""
    found = []
    for folder in sorted(powercap.glob("*-rapl:*")):
        if folder.name.count(":") != 1:  # intel-rapl:0:1 is a part of intel-rapl:0
            continue
        try:
            name = (folder / "name").read_text().strip()
            range_uj = int((folder / "max_energy_range_uj").read_text())
            counter = folder / "energy_uj"
            found.append(_Zone(f"{folder.name} {name}", counter, range_uj, int(counter.read_text())))
        except (OSError, ValueError):
            continue
    return found


@contextmanager
def metered(file: Path, powercap: Path = POWERCAP, clock: Callable[[], float] = time.time) -> Iterator[None]:
    """Write a row per second and package into `file` while the block lasts; no file if nothing counts."""
    zones = find_zones(powercap)
    if not zones:
        yield
        return
    with in_background("energy", lambda done: _write(file, zones, done, clock)):
        yield


def _write(file: Path, zones: list[_Zone], done: threading.Event, clock: Callable[[], float]) -> None:
    with file.open("w", newline="") as output:
        writer = csv.writer(output)
        writer.writerow(COLUMNS)
        while True:
            try:
                writer.writerows([f"{clock():.3f}", zone.name, f"{zone.advance():.6f}"] for zone in zones)
            except (OSError, ValueError):  # a counter that can no longer be read ends the file
                return
            output.flush()
            if done.is_set():
                return
            done.wait(PERIOD_S)
