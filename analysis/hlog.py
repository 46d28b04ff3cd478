"""Reading ``latency.hlog``: HdrHistogram's interval log, a line per second and tag.

The package's own ``HistogramLogReader`` stops at the first line it cannot read and says nothing. A log of a
crashed run ends in the middle of a line, and everything before it counts: so the lines are taken apart here,
and the package decodes the histogram in each (its checksum tells a damaged one from a whole one).
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

from analysis.histograms import DIGITS, LOWEST_US, Intervals, Ints, bucket_low_us, bucket_middle_ms

LONGEST_S = 31 * 24 * 3600.0  # offsets beyond a month are damage, not measurements
LATEST_EPOCH_S = 1e11  # some thousand years from now
LONGEST_LINE_BYTES = 1 << 18
TAGS = ("latency", "service", "lag")

_START = re.compile(rb"#\[StartTime: *(\d+(?:\.\d+)?)")
_LINE = re.compile(rb"(?:Tag=([^,]*),)?([-+.\deE]+),([-+.\deE]+),([-+.\deE]+),([A-Za-z0-9+/=]+)")
_UNREADABLE = (
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    HdrCookieException,
    HdrLengthException,
    HdrHistogramSettingsException,
)


@dataclass(frozen=True)
class HistogramLog:
    """One trial's log. ``start_epoch_s`` is plan time 0 in seconds since the epoch, None if not told."""

    start_epoch_s: float | None = None
    tags: dict[str, Intervals] = field(default_factory=dict)

    def tag(self, name: str) -> Intervals:
        """The intervals of a tag, none if the log has no such tag."""
        return self.tags.get(name, Intervals.empty())


@dataclass
class _Line:
    start_s: float
    largest_ms: float
    bucket: Ints
    count: Ints


def read_hlog(path: Path, name: str, problems: list[str]) -> HistogramLog:
    """Read all that is whole in the log at ``path``; what is not is named in ``problems`` as ``name``."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror}): there are no percentiles of this trial.")
        return HistogramLog()
    start: float | None = None
    read: dict[str, list[_Line]] = {}
    seen: set[bytes] = set()
    bad: list[str] = []
    repeated = 0
    for number, line in enumerate(lines, 1):
        if line.startswith(b"#"):
            if found := _START.match(line):
                start = float(found[1])
                if start > LATEST_EPOCH_S:
                    start = None
                    bad.append(f"line {number} has an impossible start")
        elif line.strip() and not line.startswith(b'"'):  # the legend is quoted
            if line in seen:
                repeated += 1
                continue
            seen.add(line)
            try:
                tag, parsed = _parse(line)
                read.setdefault(tag, []).append(parsed)
            except _Refused as refusal:
                cut = number == len(lines)
                bad.append(f"line {number} {'is cut off' if cut else refusal}")
    _name_bad(name, bad, sum(map(len, read.values())), problems)
    if repeated:
        problems.append(f"{name}: {_twice(repeated)}.")
    tags = {tag: _assemble(lines, f"{name} ({tag})", problems) for tag, lines in read.items()}
    log = HistogramLog(start, tags)
    missing = [tag for tag in TAGS if tag not in log.tags]
    if missing:
        problems.append(f"{name}: holds nothing of {' or '.join(missing)}.")
    return log


class _Refused(Exception):
    """A line that cannot be used; its text continues 'line 7 …'."""


def _parse(line: bytes) -> tuple[str, _Line]:
    if len(line) > LONGEST_LINE_BYTES:
        raise _Refused(f"is {len(line):,} bytes long")
    found = _LINE.fullmatch(line.rstrip(b"\r"))
    if not found:
        raise _Refused("is not an interval of a histogram log")
    try:
        start_s, largest_ms = float(found[2]), float(found[4])
    except ValueError:
        raise _Refused("has a time that is not a number") from None
    if not (math.isfinite(start_s) and 0 <= start_s < LONGEST_S):
        raise _Refused(f"has an impossible time ({start_s:g} s)")
    bucket, count = _decode(found[5])
    tag = (found[1] or b"latency").decode("utf-8", "replace")
    return tag, _Line(start_s, _largest_ms(bucket, largest_ms), bucket, count)


def _largest_ms(bucket: Ints, told_ms: float) -> float:
    """The largest value as the line tells it, if it lies in the highest bucket (other writers round it)."""
    if not len(bucket):
        return 0.0
    low, next_low = bucket_low_us()[bucket[-1] : bucket[-1] + 2] / 1000.0
    return told_ms if low <= told_ms < next_low else float(bucket_middle_ms(bucket[-1:])[0])


def _decode(payload: bytes) -> tuple[Ints, Ints]:
    try:
        histogram = HdrHistogram.decode(payload)
    except _UNREADABLE as error:
        raise _Refused(f"holds a damaged histogram ({str(error) or type(error).__name__})") from None
    if (histogram.lowest_trackable_value, histogram.significant_figures) != (LOWEST_US, DIGITS):
        raise _Refused("holds a histogram of another layout than 1 µs and 3 significant digits")
    top = histogram.get_counts_array_index(histogram.max_value)
    counts = np.frombuffer(histogram.counts, dtype=np.int64)[: top + 1]
    bucket = np.flatnonzero(counts)
    count = counts[bucket]
    if len(bucket) and (bucket[-1] >= len(bucket_low_us()) - 1 or count.min() < 0):
        raise _Refused("holds impossible values or counts")
    return bucket, count


def _assemble(lines: list[_Line], name: str, problems: list[str]) -> Intervals:
    start = np.array([line.start_s for line in lines])
    if np.any(np.diff(start) < 0):
        problems.append(f"{name}: its lines are not in the order of time; they were sorted.")
    order = np.argsort(start, kind="stable")
    ordered = [lines[i] for i in order]
    return Intervals(
        start[order],
        np.array([line.largest_ms for line in ordered]),
        np.repeat(np.arange(len(ordered)), [len(line.bucket) for line in ordered]),
        np.concatenate([line.bucket for line in ordered]),
        np.concatenate([line.count for line in ordered]),
    )


def _name_bad(name: str, bad: list[str], used: int, problems: list[str]) -> None:
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        problems.append(f"{name}: {bad[0]}{others}; the other {used} lines were used.")
    elif not used:
        problems.append(f"{name}: is empty: there are no percentiles of this trial.")


def _twice(lines: int) -> str:
    if lines == 1:
        return "1 line stands there twice and was counted once"
    return f"{lines} lines stand there twice and were counted once"
