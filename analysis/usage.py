"""CPU and memory of servers and load generators over the seconds of a trial, from ``pods.csv``.

Also what of a trial lies within the plan's seconds and what after them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.histograms import Floats
from analysis.runfolder import SERVER, Trial

HALF_A_SAMPLE_S = 0.5
"""A sample tells of the second that ends with it, so its values belong half a second earlier."""


@dataclass(frozen=True)
class Usage:
    """CPU and memory of all containers of a component together, one entry per second of the trial."""

    second: Floats
    cpu_cores: Floats
    memory_bytes: Floats


def start_epoch_s(trial: Trial) -> float | None:
    """Plan time 0 of a trial in seconds since the epoch."""
    if trial.log.start_epoch_s is not None:
        return trial.log.start_epoch_s
    return trial.summary.started.timestamp() if trial.summary and trial.summary.started else None


def last_answer_s(trial: Trial) -> float:
    """When the last answer had come, in seconds after plan time 0, at second's grain."""
    return float(trial.log.tag("latency").start_s.max(initial=-1.0)) + 1


def share_in_plan(trial: Trial) -> float:
    """The share of a trial's answers that came within the plan's seconds, where its server fell behind; or 1.

    A saturated server works on after the plan's end, on arrivals that waited: those answers are no part of
    the rate that it answered at. One that kept up only owes at the end what is always under way.
    """
    log = trial.log.tag("latency")
    ended = int(log.count.sum())
    if trial.summary is None or not trial.summary.saturated or not ended:
        return 1.0
    of_second = np.clip(trial.summary.duration_s - log.start_s, 0, 1)
    return float(of_second[log.row] @ log.count) / ended


def usage(trial: Trial, until_s: float | None = None, component: str = SERVER) -> Usage | None:
    """What the server's containers used from plan time 0 to its end, or ``until_s``; None without samples.

    ``component`` may name the load generator's instead.

    Containers sampled at different instants are put on whole seconds by linear interpolation, each within its
    own first and last sample, and then added up.
    """
    start = start_epoch_s(trial)
    if trial.pods is None or trial.summary is None or start is None:
        return None
    offset = trial.pods["time"] - start - HALF_A_SAMPLE_S
    inside = (offset >= 0) & (offset < (until_s or trial.summary.duration_s))
    inside &= trial.pods.texts["component"] == component
    table, offset = trial.pods.where(inside), offset[inside]
    if not len(table):
        return None
    second = np.unique(np.floor(offset)) + 0.5
    cpu, memory = np.zeros(len(second)), np.zeros(len(second))
    names = np.char.add(np.char.add(table.texts["pod"], "\0"), table.texts["container"])
    for container in np.unique(names):
        mine = names == container
        at = offset[mine]
        alive = (second > np.floor(at[0])) & (second < np.floor(at[-1]) + 1)
        cpu[alive] += np.interp(second[alive], at, table["cpu_cores"][mine])
        memory[alive] += np.interp(second[alive], at, table["memory_bytes"][mine])
    return Usage(second, cpu, memory)
