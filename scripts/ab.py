"""An A/B comparison on the terminal: two variants behind one address, as a recorded run tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from analysis.ab import ABResult, compare_variants, notes_on, variants_of
from analysis.ab_report import level, write_ab_report
from analysis.runfolder import NotARunFolder, Trial, read_run
from analysis.validity import trial_verdict
from analysis.words import NONE, ms, number, percent
from scripts.errors import MISSED, OK, UNMEASURED, CannotRun, UserError
from scripts.reporting import plain_table


def shares(text: str) -> dict[str, float]:
    """Return the share of each variant of `blue=90,green=10`.

    Raises:
        UserError: it is not of that form.

    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[name.strip()] = 0.0
    if len(found) != 2 or not all(0 < share < float("inf") for share in found.values()):
        raise UserError(f"--weights {text} is not two shares: write for example --weights blue=90,green=10.")
    return found


def compare_arms(
    folder: Path, weights: str, control: str, margin: float, console: Console, as_json: bool = False
) -> int:
    """Compare the variants of a run and write a page; return 1 if the new one is worse, 3 if nothing holds.

    Raises:
        UserError: it is no run, or does not tell two variants apart.
        CannotRun: none of its trials is valid.

    """
    asked_for = shares(weights) if weights else {}
    try:
        run = read_run(folder)
        notes = notes_on(run.trials)
        trials = [one for one in run.trials if trial_verdict(one)[0] != "invalid"]
        if run.trials and not trials:
            raise CannotRun(f"{folder}: nothing can be compared: {_why_not(run.trials)} Record it again.")
        wanted = asked_for or dict.fromkeys(variants_of(trials), 1.0)
        result = compare_variants(trials, wanted, control, margin, [*run.problems, *notes])
    except NotARunFolder as error:
        raise UserError(str(error)) from error
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    if as_json:
        print(result.model_dump_json(by_alias=True, indent=1))
    else:
        _print(result, console)
        page = write_ab_report(result, trials, run.facts, folder)
        console.print(escape(str(page)), soft_wrap=True)
    return {"not valid": UNMEASURED, "slower": MISSED, "fails": MISSED}.get(result.verdict, OK)


def _why_not(trials: Sequence[Trial]) -> str:
    """Why none of the trials is valid, each reason once."""
    names: dict[str, list[str]] = {}
    for trial in trials:
        names.setdefault("; ".join(trial_verdict(trial)[1]), []).append(trial.name)
    who = {why: f"{of[0]} is" if len(of) == 1 else f"{len(of)} trials are" for why, of in names.items()}
    return " ".join(f"{some} not valid, as {why}." for why, some in who.items())


def _print(result: ABResult, console: Console) -> None:
    table = plain_table("variant", "requests", "share", "asked for", "failed", "mean", "p50", "p95", "p99")
    for arm in (result.control, result.treatment):
        times = [ms(arm.quantiles_ms.get(name)) for name in ("p50", "p95", "p99")]
        parts = (f"{arm.requests:,}", percent(arm.share), percent(arm.wanted), f"{arm.failures:,}")
        table.add_row(escape(arm.name), *parts, ms(arm.mean_ms), *times)
    console.print(table)
    lines = [
        f"Difference of the means: {result.difference_ms:+.3g} ms ({level(result.confidence)} interval "
        f"{result.low_ms:+.3g} to {result.high_ms:+.3g} ms; p = {result.t_p:.2g}, or "
        f"{result.mann_whitney_p:.2g} by Mann-Whitney).",
        f"Cohen's d {result.cohen_d:+.2f}; a request to {result.treatment.name} takes longer with a "
        f"probability of {percent(result.superiority)}.",
        *_failures(result),
        *(
            f"{one.name}: {one.ratio:.3f} times as long ("
            + (f"{one.low:.3f} to {one.high:.3f})." if one.low and one.high else f"interval {NONE}).")
            for one in result.quantiles
        ),
        f"Power to show {percent(result.margin)} of the mean: {percent(result.power)}; the split has "
        f"p = {result.split_p:.2g}.",
    ]
    if result.stop_after_s is not None:
        lines.append(f"Looked at all the time, it was settled after {number(result.stop_after_s)} s.")
    for line in [*lines, *result.notes, result.recommendation]:
        console.print(escape(line), soft_wrap=True)


def _failures(result: ABResult) -> list[str]:
    """How the failures compare, where there are any."""
    control, treatment = result.control, result.treatment
    if not control.failures + treatment.failures:
        return []
    return [
        f"Failures: {percent(treatment.failing)} of {treatment.name}, {percent(control.failing)} of "
        f"{control.name} (p = {result.fails_p:.2g} by Fisher's exact test of more failures; with "
        f"{level(result.fails_confidence)} confidence the odds are at least {number(result.fails_low)} times "
        f"as high; p = {result.fails_less_p:.2g} of fewer)."
    ]
