"""Whether a trial may be believed.

The engine's own verdict is about the generator (dispatch lag, CPU, missed arrivals). It is taken over, and
made worse, never better, by what the run folder itself shows: a trial that did not end, counts that do not
add up, a log that lacks requests, answers that were wrong before the load began, requests in flight that
Little's law has no room for.
"""

from __future__ import annotations

import re

from analysis.runfolder import Trial, Verdict, binned
from analysis.scaling import little
from analysis.stability import STEADY
from analysis.usage import usage
from analysis.words import counted, percent

# A trial's own sample size says nothing of the merged one, whose percentiles are marked where they stand.
_OF_THE_SAMPLE = re.compile(r"p\d+(\.\d+)? rests on \d+ requests")
CLOCKS_MAY_DIFFER_S = 2.0
LOG_MAY_LACK = 0.01
"""Share of the sent requests that the log may lack."""


def trial_verdict(trial: Trial) -> tuple[Verdict, list[str]]:
    """The verdict on a trial and its reasons; ``invalid`` trials are shown but never merged."""
    entry, summary = trial.entry, trial.summary
    if entry.status != "ok":
        return "invalid", [_not_ended(trial)]
    if summary is None:
        return "invalid", ["there is no readable summary.json, so nothing says whether the generator kept up"]
    verdict = summary.verdict
    reasons = [reason for reason in summary.reasons if not _OF_THE_SAMPLE.match(reason)]
    if verdict == "invalid" and not reasons:
        reasons.append("its summary gives no reason")
    found = [*_books(trial), *_log(trial), *_parity(trial)] or _in_flight(trial)
    if any(worse == "invalid" for worse, _ in found):
        verdict = "invalid"
    elif found and verdict == "valid":
        verdict = "suspect"
    return verdict, reasons + [reason for _, reason in found]


def _not_ended(trial: Trial) -> str:
    entry = trial.entry
    what = {
        "failed": "failed",
        "interrupted": "was interrupted before its end",
        "pending": "was not made",
        "running": "was still running when run.json was last written, or the run was killed in it",
    }[entry.status]
    return f"{what}: {entry.error}" if entry.error else what


def _books(trial: Trial) -> list[tuple[Verdict, str]]:
    if not trial.summary:
        return []
    counts = trial.summary.counts
    ended = counts.completed + counts.failed + counts.dropped
    if counts.planned == ended:
        return []
    return [
        (
            "invalid",
            f"the counts do not add up: {counts.planned:,} planned, but {counts.completed:,} completed + "
            f"{counts.failed:,} failed + {counts.dropped:,} dropped = {ended:,}",
        )
    ]


def _log(trial: Trial) -> list[tuple[Verdict, str]]:
    """Whether the log has the requests that the summary counts."""
    if not trial.summary or binned(trial):
        return []
    ended = max(0, trial.summary.counts.sent - trial.summary.cut_off)
    logged = int(trial.log.tag("latency").count.sum())
    if logged == ended:
        return []
    if logged > ended:
        return [("invalid", f"the log holds {counted(logged, 'request')}, the summary only {ended:,}")]
    lacking = (ended - logged) / ended
    worse: Verdict = "invalid" if lacking > LOG_MAY_LACK else "suspect"
    return [(worse, f"the log lacks {percent(lacking)} of the {counted(ended, 'request')} sent")]


def _parity(trial: Trial) -> list[tuple[Verdict, str]]:
    parity = trial.entry.parity
    if parity and parity.wrong:
        return [("invalid", f"{parity.wrong} of {parity.checked} test images were answered wrongly")]
    return []


def _in_flight(trial: Trial) -> list[tuple[Verdict, str]]:
    """Whether requests in flight are rate times service time, where the rate is one."""
    if trial.summary is None or trial.summary.shape.name not in STEADY:
        return []
    books = little(trial)
    return [("suspect", books.reason)] if books and books.reason else []


def oddities(trial: Trial) -> list[str]:
    """Sentences on what a reader should know of a trial's files although they could be read."""
    found = [*_usage_oddities(trial), *_generator_oddities(trial)]
    summary = trial.summary
    if summary is None:
        return [f"{trial.name}: {text}" for text in found]
    if summary.clamped:
        found.append(f"{counted(summary.clamped, 'value')} above 60 s recorded as 60 s.")
    if summary.lost_workers:
        found.append(f"{counted(len(summary.lost_workers), 'load worker')} was lost on the way.")
    start = trial.log.start_epoch_s
    if start is not None and summary.started is not None:
        apart_s = abs(start - summary.started.timestamp())
        if apart_s > CLOCKS_MAY_DIFFER_S:
            found.append(f"latency.hlog and summary.json put its start {apart_s:,.0f} s apart.")
    return [f"{trial.name}: {text}" for text in found]


def _usage_oddities(trial: Trial) -> list[str]:
    pods = trial.pods
    if pods is None or trial.summary is None:
        return []
    found = []
    if usage(trial) is None:
        found.append("no sample in pods.csv falls into the trial, so its CPU and memory are not known.")
    for container in set(zip(pods.texts["pod"], pods.texts["container"], strict=True)):
        mine = (pods.texts["pod"] == container[0]) & (pods.texts["container"] == container[1])
        restarts = pods["restarts"][mine]
        if restarts[-1] > restarts[0]:
            found.append(f"{container[0]} was restarted {restarts[-1] - restarts[0]:.0f} times under load.")
    return found


def _generator_oddities(trial: Trial) -> list[str]:
    if trial.generator is None or trial.summary is None:
        return []
    planned, in_seconds = trial.summary.counts.planned, int(trial.generator["planned"].sum())
    if planned == in_seconds:
        return []
    return [f"generator.csv accounts for {in_seconds:,} of {planned:,} planned arrivals."]
