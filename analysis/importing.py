"""Other tools' results as a run folder, so that they can be reported, compared and gated like a run of ours.

What the other tool does not tell is not made up: it is named in ``run.json`` (``imported.cannot_tell``) and
at the head of the report. The load of such trials is called *imported*, and they are suspect by definition.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from analysis.foreign import CANNOT_TELL, NotReadable, Samples, first_line, gzipped, read_samples
from analysis.histograms import DIGITS, HIGHEST_US, LOWEST_US, Floats, Ints, bucket_low_us
from analysis.hlog import LONGEST_S
from analysis.locust_csv import FILES, RequestLine, read_locust
from analysis.records import encodable
from analysis.words import brief

LOCUST = "Locust"
LOCUST_CANNOT_TELL = (
    "Latency runs from the moment of sending, not from a planned arrival: Locust's users wait for a slow "
    "server, the wait is not in it, and percentiles may be too low.",
    "Percentiles are of Locust's buckets (whole milliseconds, two significant digits above 100 ms): they are "
    "up to a third off for the shortest; there are no others than those it wrote, and no intervals.",
    "Nothing tells whether the generator kept up: no dispatch lag, no CPU of its own.",
    "No CPU and memory of the server, no model digest, no check of the answers.",
)
LOCUST_HEADER = b"Type,Name,Request Count"
STATS = "_stats.csv"
HISTORY_OFF = 0.05
HISTORY_OFF_S = 3.0
"""The share and the seconds by which a history may span more or less than its totals tell: it is written once
a second, from before the first request to after the last."""
SHORTEST_S = 0.001
"""No trial is shorter in summary.json."""
_NAME = re.compile(r"[^A-Za-z0-9._+=-]+")


@dataclass(frozen=True)
class _Trial:
    """What is written of one imported file."""

    tool: str
    file: str
    started_s: float
    duration_s: float
    completed: int
    failed: int
    dropped: int
    failures: Counter[str]
    cannot_tell: Sequence[str]
    """What no file of the tool tells."""
    odd: Sequence[str]
    """What this one does not tell besides, or was left out of it."""


def import_files(
    files: Sequence[Path], run: Path, names: Sequence[str], scenario: str, command: str
) -> list[str]:
    """Write a run folder of other tools' files, one backend each, called ``names``.

    Return sentences on what is odd about the files; they are in the run too.

    Raises
    ------
    analysis.foreign.NotReadable
        A ``ValueError`` with a sentence for the user, if one of them cannot be read.
    OSError
        If ``run`` cannot be written.
    """
    folders = [run / name / scenario / "1" for name in names]
    trials = []
    for file, folder in zip(files, folders, strict=True):
        folder.mkdir(parents=True)
        trials.append(_import_locust(file, folder) if _is_locust(file) else _import_samples(file, folder))
        (folder / "summary.json").write_text(json.dumps(_summary(trials[-1]), indent=1) + "\n")
    content = encodable(_run_json(trials, names, scenario, command))
    (run / "run.json").write_text(json.dumps(content, indent=1) + "\n")
    return [f"{trial.file}: {sentence}" for trial in trials for sentence in trial.odd]


def name_of(file: Path) -> str:
    """A backend's name after a file: its own, without what says of which form it is."""
    if _is_locust(file):
        stem = file.name.removesuffix(STATS).removesuffix(".csv")
    else:
        stem = Path(file.name.removesuffix(".gz")).stem
    return _NAME.sub("-", stem).strip("-.") or "imported"


def _is_locust(file: Path) -> bool:
    """By its header: any file may be called so."""
    return not gzipped(file) and first_line(file).replace(b'"', b"").startswith(LOCUST_HEADER)


def _import_samples(file: Path, folder: Path) -> _Trial:
    samples = read_samples(file)
    at_s = np.array(samples.at_s)
    start = float(at_s.min())
    # An epoch time of double precision is known to a quarter of a microsecond.
    second = np.floor(at_s - start + 1e-6).astype(np.int64)
    (folder / "latency.hlog").write_text(_hlog(start, second, np.array(samples.latency_us, dtype=np.int64)))
    failed = min(sum(samples.failures.values()), len(at_s))
    return _Trial(
        samples.tool,
        file.name,
        start,
        _duration_s(at_s),
        len(at_s) - failed,
        failed,
        samples.dropped,
        samples.failures,
        CANNOT_TELL[samples.tool],
        _told(samples),
    )


def _duration_s(at_s: Floats) -> float:
    """How long requests took to come: to the last one, and as much again as lies between two of them.

    Counted in whole seconds of the clock, the rate would depend on the fraction of a second at which the
    first one came; where the file has no more than those, it cannot be told better.
    """
    span, n = float(np.ptp(at_s)), len(at_s)
    if not span or not _finer_than_seconds(at_s):
        return min(span + 1.0, LONGEST_S)
    return min(max(round(span * n / (n - 1), 3), SHORTEST_S), LONGEST_S)


def _finer_than_seconds(at_s: Floats) -> bool:
    return bool(np.any(at_s % 1.0))


def _told(samples: Samples) -> list[str]:
    more = sum(samples.failures.values()) - len(samples.at_s)
    odd = [f"It tells of {more:,} more failures than requests; they were left out."] if more > 0 else []
    coarse = "Its times are whole seconds: how long it ran, and so its rate, is known to a second only."
    return [*samples.told(), *odd, *([] if _finer_than_seconds(np.array(samples.at_s)) else [coarse])]


def _hlog(start_s: float, second: Ints, latency_us: Ints) -> str:
    """The log of a histogram per second: everything stands under the tag `latency`."""
    bucket = np.searchsorted(bucket_low_us(), np.minimum(latency_us, HIGHEST_US), side="right") - 1
    when = datetime.fromtimestamp(start_s, UTC).isoformat()
    lines = [
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {start_s:.3f} (seconds since epoch), {when}]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    order = np.argsort(second, kind="stable")
    edges = np.searchsorted(second[order], np.arange(second.max() + 2))
    for at, (first, last) in enumerate(pairwise(edges)):
        mine = order[first:last]
        if len(mine):
            largest_ms = float(latency_us[mine].max()) / 1000
            payload = encoded(bucket[mine])
            lines.append(f"Tag=latency,{at:.3f},1.000,{largest_ms:.3f},{payload}")
    return "\n".join(lines) + "\n"


def histogram_of(counts: Ints) -> HdrHistogram:
    """HdrHistogram's own object with the counts of our buckets."""
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    used = np.flatnonzero(counts)
    if len(used):
        held = np.frombuffer(histogram.counts, dtype=np.int64)
        held[: len(counts)] += counts[: len(held)]
        histogram.set_internal_tacking_values(int(used[0]), int(used[-1]), int(counts.sum()))
    return histogram


def encoded(buckets: Ints) -> str:
    """Values in these buckets as a histogram of the log, in base64."""
    counts = np.bincount(buckets, minlength=len(bucket_low_us()) - 1).astype(np.int64)
    return str(histogram_of(counts).encode().decode())


def _import_locust(file: Path, folder: Path) -> _Trial:
    """Locust's own files, taken over as they are; a histogram cannot be made of them."""
    shutil.copyfile(file, folder / FILES[0])
    prefix = file.name.removesuffix(FILES[0])
    for name in FILES[1:]:
        source = file.with_name(prefix + name)
        if source.exists():
            shutil.copyfile(source, folder / name)
    problems: list[str] = []
    found = read_locust(folder, file.name, problems)
    total, history = found.total, found.history
    if total is None:
        raise NotReadable(f"{file} is not Locust's: {' '.join(problems) or 'it has no totals.'}")
    times: Floats = history["Timestamp"] if history is not None else np.empty(0)
    failures: Counter[str] = Counter()
    for line in found.failures or ():  # requests of several names may fail alike
        failures[line.error] += line.count
    odd = [problem for problem in problems if "exceptions" not in problem]
    duration_s, unsure = _locust_duration_s(total, times)
    return _Trial(
        LOCUST,
        file.name,
        float(times[0]) if len(times) else 0.0,
        duration_s,
        total.requests - total.failures,
        total.failures,
        0,
        failures,
        LOCUST_CANNOT_TELL,
        [*odd, *unsure],
    )


def _locust_duration_s(total: RequestLine, times: Floats) -> tuple[float, list[str]]:
    """How long Locust ran, and what is not sure about it.

    Its own rate goes before its history: rows go on while it stands idle, and follow a clock that is set.
    """
    told_s = _as_told_s(total)
    if not len(times):
        unsure = ["It has no history: neither when it was, nor its rates over time."]
        if not told_s:
            unsure.append(
                "It does not tell how long it ran: its rates are reckoned as if that was one second."
            )
        return told_s or 1.0, unsure
    span_s = float(times[-1] - times[0])
    if not told_s:
        return max(1.0, span_s), []
    if abs(span_s - told_s) <= max(HISTORY_OFF_S, HISTORY_OFF * told_s):
        return told_s, []
    return told_s, [
        f"Its history spans {brief(span_s)} s, but {total.requests:,} requests at {brief(total.per_s)}/s, "
        f"as its totals say, take {brief(told_s)} s: rates are those of the totals, and their course over "
        "time may be wrong (Locust stood idle, its statistics were reset, or a clock was set)."
    ]


def _as_told_s(total: RequestLine) -> float | None:
    """How long it took for so many requests to be so many a second; None where that is not told."""
    if not (total.per_s and total.requests):
        return None
    duration_s = total.requests / total.per_s
    return duration_s if SHORTEST_S <= duration_s <= LONGEST_S else None


def _summary(trial: _Trial) -> dict[str, Any]:
    sent = trial.completed + trial.failed
    failures = dict(trial.failures) if sum(trial.failures.values()) == trial.failed else {}
    return {
        "schema": 1,
        "model": "imported",
        "shape": {"name": "imported"},
        "counts": {
            "planned": sent + trial.dropped,
            "sent": sent,
            "completed": trial.completed,
            "failed": trial.failed,
            "dropped": trial.dropped,
        },
        "verdict": "suspect",
        "reasons": [f"imported from {trial.tool}: nothing tells whether its generator kept up"],
        "saturated": False,  # nothing tells whether server or generator was too slow for what was dropped
        "started": _utc(trial.started_s),
        "duration_s": trial.duration_s,
        "failures": failures or ({"not told": trial.failed} if trial.failed else {}),
    }


def _utc(epoch_s: float) -> str | None:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat() if epoch_s else None


def _run_json(trials: Sequence[_Trial], names: Sequence[str], scenario: str, command: str) -> dict[str, Any]:
    tools = " and ".join(dict.fromkeys(trial.tool for trial in trials))
    return {
        "schema": 1,
        "plan_name": f"imported from {tools}",
        "command": command,
        "started": _utc(min(trial.started_s for trial in trials)),
        "ended": _utc(
            max((trial.started_s + trial.duration_s for trial in trials if trial.started_s), default=0.0)
        ),
        "status": "complete",
        "imported": {
            "tool": tools,
            "file": ", ".join(trial.file for trial in trials),
            "cannot_tell": list(
                dict.fromkeys(told for trial in trials for told in (*trial.cannot_tell, *trial.odd))
            ),
        },
        "backends": {name: {"title": name, "protocol": "other"} for name in names},
        "trials": [
            {"backend": name, "scenario": scenario, "trial": 1, "order": order, "status": "ok",
             "path": f"{name}/{scenario}/1", "started": _utc(trial.started_s)}
            for order, (name, trial) in enumerate(zip(names, trials, strict=True), 1)
        ],
    }  # fmt: skip
