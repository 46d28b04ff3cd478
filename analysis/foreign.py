"""Reading what other load tools wrote of each request: k6 (CSV and JSON) and vegeta (encoded as CSV or JSON).

Each tells when a request was sent or answered, and how long that took, never when it was *planned*: a
generator that waited for a stalled server hides the wait. What that means for the numbers is told in
``CANNOT_TELL``.

References
----------
.. [1] Grafana k6, "CSV output" and "JSON output",
https://grafana.com/docs/k6/latest/results-output/real-time/
.. [2] vegeta, ``vegeta encode``, https://github.com/tsenart/vegeta
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from analysis.hlog import LATEST_EPOCH_S, LONGEST_S

NOT_PLANNED = (
    "Latency runs from the moment of sending, not from a planned arrival: if the generator waited for a slow "
    "server, the wait is not in it, and percentiles may be too low.",
    "Nothing tells whether the generator kept up: no dispatch lag, no CPU of its own.",
    "No CPU and memory of the server, no model digest, no check of the answers.",
)
CANNOT_TELL = {
    "k6": (
        *NOT_PLANNED,
        "k6's http_req_duration leaves out waiting for a connection, connecting and TLS; a request that "
        "could not connect stands in it with 0 ms.",
        "Iterations that k6 dropped count as dropped requests, one each. It drops them for want of VUs too: "
        "whether the server kept up is not known, and percentiles are lower bounds where some were dropped.",
    ),
    "vegeta": (*NOT_PLANNED, "Requests that vegeta did not send in time are not in its results."),
}
MOST_LATENCY_S = 3600.0
LONGEST_LINE_BYTES = 1 << 26
"""A line may hold an answer's whole body; a file whose first is longer is none of these."""


class NotReadable(ValueError):
    """The file is of no form that is read here; the message says which there are."""


@dataclass
class Samples:
    """Requests of one file: when each began or ended (epoch seconds), latencies in µs, failures by name."""

    tool: str
    at_s: array[float] = field(default_factory=lambda: array("d"))
    latency_us: array[int] = field(default_factory=lambda: array("q"))
    failures: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    rows: int = 0
    bad: int = 0
    repeated: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, at_s: float, latency_s: float) -> None:
        """Take a request, unless its numbers are not possible."""
        if not (0 <= at_s < LATEST_EPOCH_S and 0 <= latency_s <= MOST_LATENCY_S):
            raise ValueError("not possible")
        self.at_s.append(at_s)
        self.latency_us.append(max(1, round(latency_s * 1e6)))

    def told(self) -> list[str]:
        """What a reader must know of what was left out."""
        of = f"of {self.rows:,} lines"
        bad = f"{self.bad:,} {of} are cut off or not what {self.tool} writes; left out."
        repeated = f"{self.repeated:,} {of} repeat an earlier one (same attack, seq and timestamp); left out."
        return [*self.notes, *([bad] if self.bad else []), *([repeated] if self.repeated else [])]


def read_samples(path: Path) -> Samples:
    """Read a file of k6 or vegeta, whichever it is.

    Raises
    ------
    NotReadable
        If it is neither.
    """
    reader = _reader(first_line(path))
    if reader is None:
        raise NotReadable(
            f"{path} is not of a form that is read here. There are: k6 run --out csv=FILE or "
            "json=FILE, vegeta encode --to csv or json, and Locust's --csv PREFIX (name PREFIX_stats.csv)."
        )
    with _opened(path) as file, _long_cells():
        samples = reader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
    if not samples.at_s:
        raise NotReadable(f"{path} has no request that can be read; {' '.join(samples.told())}".rstrip("; "))
    if max(samples.at_s) - min(samples.at_s) > LONGEST_S:
        raise NotReadable(f"{path}: its times lie more than a month apart.")
    return samples


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a CSV cell be as long as a line; the limit is the whole process's."""
    before = csv.field_size_limit(LONGEST_LINE_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def first_line(path: Path) -> bytes:
    """The first line of a file, unpacked, without the spaces around it and a byte-order mark."""
    with _opened(path) as file:
        return file.readline(LONGEST_LINE_BYTES).removeprefix(codecs.BOM_UTF8).strip()


def gzipped(path: Path) -> bool:
    """Whether a file is, as k6 writes those whose name ends in `.gz`; by its beginning."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, which may be gzipped."""
    if not gzipped(path):
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as unpacked:
            yield cast(BinaryIO, unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise NotReadable(
            f"{path} is gzipped, and damaged or cut off: `gunzip` it, and import what comes of it."
        ) from error


def _reader(first: bytes) -> Callable[[io.TextIOBase], Samples] | None:
    if first.split(b",")[:3] == [b"metric_name", b"timestamp", b"metric_value"]:
        return k6_csv
    if first.startswith(b"{"):
        try:
            keys = json.loads(first)
        except (ValueError, RecursionError):
            return None
        if "metric" in keys and "type" in keys:
            return k6_json
        return vegeta_json if {"latency", "timestamp", "code"} <= keys.keys() else None
    cells = first.split(b",")
    if len(cells) >= 9 and all(cell.isdigit() for cell in cells[:5]) and len(cells[0]) >= 18:
        return vegeta_csv
    return None


def k6_csv(text: io.TextIOBase) -> Samples:
    """k6's CSV: a row per metric and request; times are those of the answer."""
    k6 = _K6()
    rows = _rows(text)
    header = next(rows, [])
    column = {name: header.index(name) for name in ("metric_name", "timestamp", "metric_value")}
    tags = {name: header.index(name) for name in _K6_TAGS if name in header}

    def take(row: Sequence[str]) -> None:
        if len(row) != len(header):
            raise ValueError("cut off")
        told: dict[str, str] = {name: row[i] for name, i in tags.items()}
        at_s = _epoch_s(row[column["timestamp"]])
        k6.take(row[column["metric_name"]], at_s, float(row[column["metric_value"]]), told)

    _each(k6.samples, rows, take)
    return k6.whole()


def k6_json(text: io.TextIOBase) -> Samples:
    """k6's JSON: a line per metric and request, and others that tell of the metrics themselves."""
    k6 = _K6()

    def take(line: str) -> None:
        point = json.loads(line)
        if point["type"] != "Point":
            return
        data = point["data"]
        at_s = datetime.fromisoformat(data["time"]).timestamp()
        k6.take(point["metric"], at_s, float(data["value"]), data.get("tags") or {})

    _each(k6.samples, text, take)
    return k6.whole()


@dataclass
class _K6:
    """Requests of k6, whose scripts may turn off its own count of failures (``setResponseCallback(null)``).

    ``likely`` are then those that look so: k6 did not expect the answer, or its status is 0, 400 or above.
    """

    samples: Samples = field(default_factory=lambda: Samples("k6"))
    tells_failed: bool = False
    likely: Counter[str] = field(default_factory=Counter)
    unsure: int = 0

    def take(self, metric: str, at_s: float, value: float, tags: Mapping[str, Any]) -> None:
        """Take one value of a metric, if it is of those that tell of requests."""
        if metric == "http_req_duration":
            self.samples.add(at_s, value / 1000)
            looks_failed = _looks_failed(tags)
            self.unsure += looks_failed is None
            if looks_failed:
                self.likely[_failure(tags)] += 1
        elif metric == "http_req_failed":
            self.tells_failed = True
            if value:
                self.samples.failures[_failure(tags)] += 1
        elif metric == "dropped_iterations" and math.isfinite(value) and 0 <= value < 1e12:
            self.samples.dropped += round(value)

    def whole(self) -> Samples:
        """All requests, when the file has been read."""
        if self.tells_failed or not self.samples.at_s:
            return self.samples
        self.samples.failures = self.likely
        told = "It has no http_req_failed: failures were counted by expected_response or else by status"
        unsure = f"; of {self.unsure:,} of {len(self.samples.at_s):,} requests nothing tells if they failed"
        self.samples.notes.append(told + (unsure if self.unsure else "") + ".")
        return self.samples


_K6_TAGS = ("error", "error_code", "status", "name", "expected_response")


def _looks_failed(tags: Mapping[str, Any]) -> bool | None:
    """Whether a request failed by what its other tags tell; None where they tell nothing."""
    expected, status = (str(tags.get(name) or "").lower() for name in ("expected_response", "status"))
    if expected in ("true", "false"):
        return expected == "false"
    if tags.get("error") or tags.get("error_code"):
        return True
    return not 0 < int(status) < 400 if status.isdecimal() else None


def _failure(tags: Mapping[str, Any]) -> str:
    status = tags.get("status")
    code = f"HTTP {status}" if status not in (None, "", "0") else f"k6 error {tags.get('error_code')}"
    return str(tags.get("error") or code)


def _epoch_s(text: str) -> float:
    """A time of k6's CSV, whose unit its user chose: seconds, milli-, micro- or nanoseconds, or RFC 3339."""
    if not text.replace(".", "", 1).isdigit():
        return datetime.fromisoformat(text).timestamp()
    value = float(text)
    for unit in (1.0, 1e3, 1e6, 1e9):
        if value / unit < LATEST_EPOCH_S / 10:
            return value / unit
    raise ValueError("not a time")


def vegeta_csv(text: io.TextIOBase) -> Samples:
    """vegeta's CSV: no header; nanoseconds since the epoch, code, latency in ns, sizes, error, and more."""
    vegeta = _Vegeta()

    def take(row: Sequence[str]) -> None:
        if len(row) < 9:
            raise ValueError("cut off")
        at_s, code, latency_s = int(row[0]) / 1e9, int(row[1]), int(row[2]) / 1e9
        vegeta.take((row[7], row[8], row[0]), at_s, code, latency_s, row[5])

    _each(vegeta.samples, _rows(text), take)
    return vegeta.samples


def vegeta_json(text: io.TextIOBase) -> Samples:
    """vegeta's JSON: a line per request."""
    vegeta = _Vegeta()

    def take(line: str) -> None:
        one = json.loads(line)
        at_s = datetime.fromisoformat(one["timestamp"]).timestamp()
        key = (str(one.get("attack") or ""), str(one.get("seq", "")), one["timestamp"])
        vegeta.take(key, at_s, int(one["code"]), float(one["latency"]) / 1e9, str(one.get("error") or ""))

    _each(vegeta.samples, text, take)
    return vegeta.samples


@dataclass
class _Vegeta:
    """Requests of vegeta, each once: files that were put together may overlap.

    ``seen`` has hashes of attack, seq and timestamp: the texts of millions of rows would take gigabytes.
    """

    samples: Samples = field(default_factory=lambda: Samples("vegeta"))
    seen: set[int] = field(default_factory=set)

    def take(self, key: tuple[str, str, str], at_s: float, code: int, latency_s: float, error: str) -> None:
        """Take a request, if it has not been taken; without a sequence number none is a repetition."""
        if key[1] and hash(key) in self.seen:
            self.samples.repeated += 1
            return
        self.samples.add(at_s, latency_s)
        self.seen.add(hash(key))
        if error or not 200 <= code < 400:
            self.samples.failures[error or f"HTTP {code}"] += 1


def _rows(text: io.TextIOBase) -> Iterator[list[str]]:
    """Rows of a CSV file, of which one that is not CSV is empty."""
    reader = csv.reader(line.replace("\0", "") for line in text)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield []


def _each(samples: Samples, rows: Iterator[Any] | io.TextIOBase, take: Callable[[Any], None]) -> None:
    """Give every row to ``take``, and count those that it cannot read."""
    for row in rows:
        samples.rows += 1
        try:
            take(row)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            samples.bad += 1
