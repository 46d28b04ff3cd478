"""Reading ``latency.hlog``: HdrHistogram's interval log, a line per second and tag.

The package's own ``HistogramLogReader`` stops at the first line it cannot read and says nothing. A log of a
crashed run ends in the middle of a line, and everything before it counts: so the lines are taken apart here
(the checksum in each tells a damaged histogram from a whole one).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np

from analysis.hdr_payload import Damaged, decoded, unpacked
from analysis.histograms import Floats, Intervals, Ints, bucket_low_us, bucket_middle_ms
from analysis.words import brief

LONGEST_S = 31 * 24 * 3600.0  # offsets beyond a month are damage, not measurements
LONGEST_PAUSE_S = 3600.0
"""No answer takes an hour: what follows a longer pause than that, and than all before it, was dated by a
clock that had been set."""
LATEST_EPOCH_S = 1e11  # some thousand years from now
LONGEST_LINE_BYTES = 1 << 18
TAGS = ("latency", "service", "lag")
VARIANT = "variant:"
"""Begins the tags that hold the latencies of one of several variants behind an address."""

_START = re.compile(rb"#\[StartTime: *(\d+(?:\.\d+)?)")
_LINE = re.compile(rb"(?:Tag=([^,]*),)?([-+.\deE]+),([-+.\deE]+),([-+.\deE]+),([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class HistogramLog:
    """One trial's log. ``start_epoch_s`` is plan time 0 in seconds since the epoch, None if not told.

    Latencies, those of a variant too, keep their seconds; every other tag is one interval of all its values.
    """

    start_epoch_s: float | None = None
    tags: dict[str, Intervals] = field(default_factory=dict)

    def tag(self, name: str) -> Intervals:
        """The intervals of a tag, none if the log has no such tag."""
        return self.tags.get(name, Intervals.empty())


@dataclass(frozen=True)
class _Line:
    number: int
    start_s: float
    largest_ms: float
    varints: bytes


def read_hlog(path: Path, name: str, problems: list[str], expected: Sequence[str] = TAGS) -> HistogramLog:
    """Read all that is whole in the log at ``path``; what is not is named in ``problems`` as ``name``."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror}): there are no percentiles of this trial.")
        return HistogramLog()
    start: float | None = None
    read: dict[str, list[_Line]] = {}
    seen: set[bytes] = set()
    bad: dict[int, str] = {}
    repeated = 0
    for number, line in enumerate(lines, 1):
        if line.startswith(b"#"):
            if found := _START.match(line):
                start = float(found[1])
                if start > LATEST_EPOCH_S:
                    start = None
                    bad[number] = "has an impossible start"
        elif line.strip() and not line.startswith(b'"'):  # the legend is quoted
            if line in seen:
                repeated += 1
                continue
            seen.add(line)
            try:
                tag, parsed = _parse(number, line)
                read.setdefault(tag, []).append(parsed)
            except Damaged as damage:
                bad[number] = "is cut off" if number == len(lines) else str(damage)
    if repeated:
        problems.append(f"{name}: {_twice(repeated)}.")
    if "lag" in expected:  # results of other tools have none, and may be of several attacks
        read = _without_far(read, bad)
    whole = {tag: _assemble(lines, f"{name} ({tag})", bad, problems) for tag, lines in read.items()}
    tags = {tag: intervals for tag, intervals in whole.items() if len(intervals.start_s)}
    _name_bad(name, bad, sum(len(one.start_s) for one in tags.values()), problems)
    log = HistogramLog(
        start, {tag: one if _keeps_seconds(tag) else one.summed() for tag, one in tags.items()}
    )
    missing = [tag for tag in expected if tag not in log.tags]
    if missing:
        problems.append(f"{name}: holds nothing of {' or '.join(missing)}.")
    return log


def _keeps_seconds(tag: str) -> bool:
    return tag == "latency" or tag.startswith(VARIANT)


def _parse(number: int, line: bytes) -> tuple[str, _Line]:
    if len(line) > LONGEST_LINE_BYTES:
        raise Damaged(f"is {len(line):,} bytes long")
    found = _LINE.fullmatch(line.rstrip(b"\r"))
    if not found:
        raise Damaged("is not an interval of a histogram log")
    try:
        start_s, largest_ms = float(found[2]), float(found[4])
    except ValueError:
        raise Damaged("has a time that is not a number") from None
    if not (math.isfinite(start_s) and 0 <= start_s < LONGEST_S):
        raise Damaged(f"has an impossible time ({start_s:g} s)")
    tag = (found[1] or b"latency").decode("utf-8", "replace")
    return tag, _Line(number, start_s, largest_ms, unpacked(found[5]))


def _without_far(read: dict[str, list[_Line]], bad: dict[int, str]) -> dict[str, list[_Line]]:
    """The lines without those that lie too long after all others, which are added to ``bad``."""
    times = sorted({line.start_s for lines in read.values() for line in lines})
    far = (pair for pair in pairwise(times) if pair[1] - pair[0] > max(LONGEST_PAUSE_S, pair[0]))
    last_s, first_far_s = next(far, (math.inf, math.inf))
    for line in (line for lines in read.values() for line in lines if line.start_s > last_s):
        bad[line.number] = (
            f"lies at {brief(line.start_s)} s, later than any answer can come after the one before "
            f"(at {brief(last_s)} s)"
        )
    return {tag: [line for line in lines if line.start_s < first_far_s] for tag, lines in read.items()}


def _assemble(lines: list[_Line], name: str, bad: dict[int, str], problems: list[str]) -> Intervals:
    """The intervals of a tag, without those that are not possible, which are added to ``bad``."""
    if any(after.start_s < before.start_s for before, after in pairwise(lines)):
        problems.append(f"{name}: its lines are not in the order of time; they were sorted.")
    lines = sorted(lines, key=attrgetter("start_s"))
    found = decoded([line.varints for line in lines])
    for i in np.flatnonzero(~found.possible):
        bad[lines[i].number] = "holds impossible values or counts"
    number = np.cumsum(found.possible) - 1  # of the lines that are kept
    kept = np.flatnonzero(found.possible)
    told_ms = np.array([line.largest_ms for line in lines])[kept]
    row, bucket = number[found.row], found.bucket
    start_s = np.array([line.start_s for line in lines])[kept]
    return Intervals(start_s, _largest_ms(row, bucket, told_ms), row, bucket, found.count)


def _largest_ms(row: Ints, bucket: Ints, told_ms: Floats) -> Floats:
    """The largest value of each line as it tells it, if it lies in the highest bucket (others round it)."""
    largest_ms = np.zeros(len(told_ms))
    last = np.flatnonzero(np.diff(row, append=-1))  # of each row that has any bucket
    highest = bucket[last]
    low, next_low = bucket_low_us()[highest] / 1000.0, bucket_low_us()[highest + 1] / 1000.0
    told = told_ms[row[last]]
    largest_ms[row[last]] = np.where((low <= told) & (told < next_low), told, bucket_middle_ms(highest))
    return largest_ms


def _name_bad(name: str, bad: dict[int, str], used: int, problems: list[str]) -> None:
    if bad:
        first = min(bad)
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        problems.append(f"{name}: line {first} {bad[first]}{others}; the other {used} lines were used.")
    elif not used:
        problems.append(f"{name}: is empty: there are no percentiles of this trial.")


def _twice(lines: int) -> str:
    if lines == 1:
        return "1 line stands there twice and was counted once"
    return f"{lines} lines stand there twice and were counted once"
