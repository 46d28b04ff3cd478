"""What a running trial has recorded so far: its rate, p95 and errors, read from files that still grow."""

from __future__ import annotations

import csv
import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from hdrh.histogram import HdrHistogram

RECENT_S = 10
LONGEST_US = 60_000_000


@dataclass(frozen=True)
class Reading:
    """The state of a trial now."""

    rate_per_s: float | None = None
    p95_ms: float | None = None
    errors: int = 0

    def __str__(self) -> str:
        """One line for a person."""
        if self.rate_per_s is None:
            return ""
        p95 = "" if self.p95_ms is None else f", p95 {self.p95_ms:.0f} ms"
        return f"{self.rate_per_s:.0f}/s{p95}, {self.errors} error{'' if self.errors == 1 else 's'}"


def final_reading(folder: Path) -> Reading:
    """Return what an ended trial came to, from its `summary.json`; nothing where there is none."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        errors = summary["counts"]["failed"] + summary["counts"]["dropped"]
        return Reading(summary["rate"]["achieved"], summary["latency_ms"]["p95"], errors)
    except (OSError, ValueError, KeyError, TypeError):
        return Reading()


class _Tail:
    """The whole lines that a file has gained since the last look."""

    def __init__(self, file: Path) -> None:
        self._file, self._offset = file, 0

    def lines(self) -> list[str]:
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()


class LiveReading:
    """Reads one trial's folder again and again, each time only what is new."""

    def __init__(self, folder: Path) -> None:
        """Follow `generator.csv` and `latency.hlog` of a folder."""
        self._generator, self._log = _Tail(folder / "generator.csv"), _Tail(folder / "latency.hlog")
        self._header: list[str] = []
        self._completed: deque[tuple[int, int]] = deque(maxlen=64)
        self._recent: deque[str] = deque(maxlen=RECENT_S)
        self._errors = 0

    def read(self) -> Reading:
        """Return the rate of the last whole second, p95 of the last ten, and all errors so far."""
        for row in csv.reader(self._generator.lines()):
            self._take(row)
        for line in self._log.lines():
            if line.startswith("Tag=latency,"):
                self._recent.append(line.rpartition(",")[2])
        return Reading(self._rate(), self._p95_ms(), self._errors)

    def _take(self, row: list[str]) -> None:
        if not self._header:
            self._header = row
            return
        values = dict(zip(self._header, row, strict=False))
        try:
            self._completed.append((int(float(values["time"])), int(values["completed"])))
            self._errors += int(values["failed"]) + int(values["dropped"])
        except (KeyError, ValueError):
            return

    def _rate(self) -> float | None:
        if not self._completed:
            return None
        newest = max(second for second, _ in self._completed)
        whole = newest - 1 if any(second < newest for second, _ in self._completed) else newest
        return float(sum(completed for second, completed in self._completed if second == whole))

    def _p95_ms(self) -> float | None:
        total = HdrHistogram(1, LONGEST_US, 3)
        for encoded in self._recent:
            total.decode_and_add(encoded)
        return total.get_value_at_percentile(95.0) / 1000 if total.total_count else None
