"""A side of a comparison: the trials of one run or of several, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.effects import ALPHA
from analysis.histograms import Floats
from analysis.metrics import cells
from analysis.runfolder import Backend, Run, Trial
from analysis.validity import trial_verdict


def on_both_sides(base: Sequence[Path], new: Sequence[Path]) -> list[str]:
    """A sentence for each run that is compared with itself, whatever way it is named."""
    again = {path.resolve() for path in new}
    return [
        f"{path} is on both sides: it is compared with itself." for path in base if path.resolve() in again
    ]


class Side:
    """All runs of a side as one; where there are several, sentences say of which one they are."""

    def __init__(self, name: str, runs: Sequence[Run]) -> None:
        self.name = name
        self._runs = runs if len(runs) == 1 else [_with_its_name(run) for run in runs]
        trials = [trial for run in self._runs for trial in run.trials]
        problems = [problem for run in self._runs for problem in run.problems]
        facts = runs[0].facts.model_copy(update={"backends": _backends(runs)})
        self.run = replace(runs[0], facts=facts, trials=trials, problems=problems)
        self.cells = {(cell.row.scenario, cell.row.backend): cell for cell in cells(self.run)}
        self.not_valid = _not_valid(trials)
        self.complete = (
            not any(run.lost_trials or run.lost_gate for run in runs)
            and all(trial.entry.status == "ok" for trial in trials)
            and all(cell.row.verdict != "invalid" for cell in self.cells.values())
        )

    def suspect(self) -> list[str]:
        """A sentence for each cell that rests on suspect trials."""
        return [
            f"{backend} in {scenario} is suspect in the {self.name} run: {'; '.join(cell.row.reasons)}."
            for (scenario, backend), cell in self.cells.items()
            if cell.row.verdict == "suspect"
        ]

    def far_apart(self) -> list[str]:
        """A sentence for each cell whose runs differ by more than their trials do."""
        from scipy.stats import f_oneway  # imported late: the command must start fast

        if len(self._runs) < 2:
            return []
        found = []
        for (scenario, backend), cell in self.cells.items():
            groups = [group for run in self._runs if len(group := _logs(cell.trials, run)) > 1]
            spread = sum(float(group.var()) for group in groups)
            if len(groups) > 1 and spread and (p := float(f_oneway(*groups).pvalue)) < ALPHA:
                found.append(
                    f"{backend} in {scenario}: the {self.name} runs lie further apart than their trials "
                    f"(p = {p:.2g}), so the intervals below are too narrow."
                )
        return found


def _with_its_name(run: Run) -> Run:
    """The run with its folder's name before each trial's, and before each problem."""
    name = run.path.resolve().name
    return replace(
        run,
        trials=[replace(trial, name=f"{name}/{trial.name}") for trial in run.trials],
        problems=[f"{name}: {problem}" for problem in run.problems],
    )


def _backends(runs: Sequence[Run]) -> dict[str, Backend]:
    """The backends of all runs; one that was played by a stand-in in any of them is none of the servers."""
    known: dict[str, Backend] = {}
    for run in runs:
        for name, one in run.facts.backends.items():
            played = one.stand_in or (name in known and known[name].stand_in)
            known[name] = one.model_copy(update={"stand_in": played})
    return known


def _not_valid(trials: Sequence[Trial]) -> list[str]:
    """A sentence for each trial that could not be used."""
    judged = [(trial.name, *trial_verdict(trial)) for trial in trials]
    return [
        f"{name} is not valid, and is left out: {'; '.join(reasons)}."
        for name, verdict, reasons in judged
        if verdict == "invalid"
    ]


def _logs(trials: Sequence[Trial], run: Run) -> Floats:
    """Logarithms of the medians of those trials that are of the run."""
    mine = {id(trial) for trial in run.trials}
    medians = [trial.log.tag("latency").merged().quantile_ms(0.5) for trial in trials if id(trial) in mine]
    return np.log([median for median in medians if median])
