"""What happened to each arrival, in one buffer that numpy folds into histograms.

A request costs five doubles packed into a buffer and its share of a fold.  `take()` gives an `Increment`:
histograms per second and tag, and what Locust's statistics need per request name.  Increments add up, so
workers send them and the master merges; nothing here grows with the number of requests.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from locustfiles.engine.histogram import HIGHEST_US, Histogram, Ints, bucket_of
from locustfiles.engine.pacing import Arrival

TAGS = ("latency", "service", "lag")
UNFINISHED = "unfinished: stopped before the answer"
OUTCOMES = 500
"""So many ways to end are told apart; a user's own messages may all differ, and memory must not grow."""
OTHER_FAILURE = f"another failure: {OUTCOMES} kinds are told apart"
Floats = npt.NDArray[np.float64]


class Outcome(NamedTuple):
    """How a request ended: Locust's method and name, and the error or None when the answer was right.

    `in_locust` says whether Locust's own statistics are filled from here; not for users whose client
    fires Locust's request event itself.
    """

    method: str
    name: str
    error: str | None
    in_locust: bool = True


class Second:
    """The three histograms of what ended in one second of plan time, and one of each variant's latencies."""

    def __init__(self, histograms: Mapping[str, Histogram] | None = None) -> None:
        self.histograms = dict(histograms or {tag: Histogram() for tag in TAGS})

    def merge(self, other: Second) -> None:
        """Add another worker's share of the same second."""
        for tag, histogram in other.histograms.items():
            self.histograms.setdefault(tag, Histogram()).merge(histogram)

    def to_message(self) -> dict[str, Any]:
        """The second as plain values for Locust's msgpack."""
        return {tag: h.to_message() for tag, h in self.histograms.items()}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Second:
        """The second that `to_message` wrote."""
        return cls({tag: Histogram.from_message(entry) for tag, entry in message.items()})


@dataclass
class NameIncrement:
    """Latencies of one outcome, their exact sum in µs, and the bytes of its answers."""

    latency: Histogram = field(default_factory=Histogram)
    total_us: int = 0
    bytes: float = 0.0

    @property
    def requests(self) -> int:
        """How many ended so."""
        return self.latency.count

    def add(self, buckets: Ints, latency_us: Ints, lengths: Floats) -> None:
        """Record requests (n,), n > 0: their latencies, the buckets of those, and their answers' lengths."""
        self.latency.add_buckets(buckets, int(latency_us.min()), int(latency_us.max()))
        self.total_us += int(latency_us.sum())
        self.bytes += float(lengths.sum())

    def merge(self, other: NameIncrement) -> None:
        """Add what another worker, or the same one later, recorded of the outcome."""
        self.latency.merge(other.latency)
        self.total_us += other.total_us
        self.bytes += other.bytes

    def times_ms(self) -> dict[float, int]:
        """Counts by response time in ms: Locust's table of response times."""
        values, counts = self.latency.buckets()
        times, where = np.unique(to_percent_steps(values / 1000), return_inverse=True)
        return dict(zip(times.tolist(), np.bincount(where, counts).astype(np.int64).tolist(), strict=True))


@dataclass
class Increment:
    """What a worker recorded since its last report: by second of its end, and by outcome.

    `dropped` includes the `late`, which the worker itself was too late to send.
    """

    seconds: dict[int, Second] = field(default_factory=dict)
    outcomes: dict[Outcome, NameIncrement] = field(default_factory=dict)
    dropped: int = 0
    late: int = 0

    def merge_outcomes(self, other: Increment) -> None:
        """Add another's outcomes and dropped arrivals, not its seconds."""
        for outcome, ended in other.outcomes.items():
            if outcome not in self.outcomes:
                self.outcomes[outcome] = NameIncrement()
            self.outcomes[outcome].merge(ended)
        self.dropped += other.dropped
        self.late += other.late

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return sum(n.requests for outcome, n in self.outcomes.items() if outcome.error is not None)

    @property
    def completed(self) -> int:
        """Requests that were answered right."""
        return sum(n.requests for outcome, n in self.outcomes.items() if outcome.error is None)

    def to_message(self) -> dict[str, Any]:
        """The increment as plain values for Locust's msgpack."""
        return {
            "seconds": {second: entry.to_message() for second, entry in self.seconds.items()},
            "outcomes": [
                (tuple(outcome), entry.latency.to_message(), entry.total_us, entry.bytes)
                for outcome, entry in self.outcomes.items()
            ],
            "dropped": self.dropped,
            "late": self.late,
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Increment:
        """The increment that `to_message` wrote."""
        return cls(
            seconds={int(second): Second.from_message(entry) for second, entry in message["seconds"].items()},
            outcomes={
                Outcome(*outcome): NameIncrement(Histogram.from_message(latency), total_us, length)
                for outcome, latency, total_us, length in message["outcomes"]
            },
            dropped=message["dropped"],
            late=message["late"],
        )


def to_percent_steps(values: Floats) -> Floats:
    """Positive values rounded to steps of 1 %, so that Locust's table of response times stays small.

    Locust walks that table for each percentile that it shows: thousands of entries would cost it, and a
    single process makes load too, tens of milliseconds a second.
    """
    stepped = np.exp(np.round(np.log(np.maximum(values, 1e-3)) / 0.01) * 0.01)
    magnitude = 10.0 ** (2 - np.floor(np.log10(stepped)))
    return np.asarray(np.round(stepped * magnitude) / magnitude)


class Recorder:
    """Collects the outcomes of one worker; times are those of one monotonic clock, in seconds.

    Batches are small, so that a fold (a third of a millisecond) does not make the next arrival late, and
    packed: to make an array of as many Python floats would take longer than all the rest of it.
    """

    BATCH = 2048
    _ROW = struct.Struct("=5d")

    def __init__(self) -> None:
        self._batch = bytearray()
        self._keys: dict[Outcome, int] = {}
        self._outcomes: list[Outcome] = []
        self._clear()
        self.start = math.inf  # plan time 0, from which seconds are counted
        self.since = math.inf  # what was planned before it is left out: warm-up, or counted as lost already

    def _clear(self) -> None:
        self._seconds: dict[int, Second] = {}
        self._by_key: dict[int, NameIncrement] = {}
        self._dropped = self._late = 0

    def key(self, outcome: Outcome) -> int:
        """A number that stands for `outcome` in `record`."""
        key = self._keys.get(outcome)
        if key is None:
            if len(self._outcomes) >= OUTCOMES and outcome.error not in (None, OTHER_FAILURE):
                return self.key(outcome._replace(error=OTHER_FAILURE))
            key = self._keys[outcome] = len(self._outcomes)
            self._outcomes.append(outcome)
        return key

    def record(self, planned: float, sent: float, done: float, key: int, length: int) -> None:
        """An arrival that was sent; `length` is that of the answer's body in bytes."""
        batch = self._batch
        batch += self._ROW.pack(planned, sent, done, key, length)
        if len(batch) >= self.BATCH * self._ROW.size:
            self._fold()

    def drop(self, arrival: Arrival) -> None:
        """An arrival that found no free user."""
        if arrival[0] >= self.since:
            self._dropped += 1

    def drop_late(self, arrival: Arrival) -> None:
        """An arrival that this process was too late to send; it counts as dropped, too."""
        self.drop(arrival)
        if arrival[0] >= self.since:
            self._late += 1

    def take(self) -> Increment:
        """What was recorded since the last call, without what belongs to the warm-up."""
        self._fold()
        outcomes = {self._outcomes[key]: entry for key, entry in self._by_key.items()}
        increment = Increment(self._seconds, outcomes, self._dropped, self._late)
        self._clear()
        return increment

    def _fold(self) -> None:
        # A buffer that an array looks at cannot be emptied: the next batch gets one of its own.
        rows = np.frombuffer(self._batch, dtype=np.float64).reshape(-1, 5).T
        self._batch = bytearray()
        if (rows[0] < self.since).any():
            rows = rows[:, rows[0] >= self.since]
        planned, sent, done, keys, lengths = rows
        if not len(planned):
            return
        spans_us = (np.stack([done - planned, done - sent, sent - planned]) * 1e6 + 0.5).astype(np.int64)
        within = np.clip(spans_us, 0, HIGHEST_US)
        buckets = bucket_of(within)
        for second, here in _groups(np.floor(done - self.start).astype(np.int64)):
            entry = self._seconds.setdefault(second, Second())
            for row, tag in enumerate(TAGS):
                histogram, values = entry.histograms[tag], within[row][here]
                histogram.add_buckets(buckets[row][here], int(values.min()), int(values.max()))
                histogram.clamped += int(np.count_nonzero(spans_us[row][here] > HIGHEST_US))
        for key, mine in _groups(keys.astype(np.int64)):
            self._by_key.setdefault(key, NameIncrement()).add(
                buckets[0][mine], within[0][mine], lengths[mine]
            )


def _groups(values: Ints) -> Iterator[tuple[int, slice | npt.NDArray[np.bool_]]]:
    """Yield each distinct value of a short range and where it is; most batches hold a single one."""
    first, last = int(values.min()), int(values.max())
    if first == last:
        yield first, slice(None)
    else:
        for value in np.flatnonzero(np.bincount(values - first)) + first:
            yield int(value), values == value
