"""`modelswarm ab` on recorded runs: what it says, and its exit status."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from analysis.hlog import VARIANT
from scripts.ab import compare_arms
from scripts.errors import MISSED, OK, UNMEASURED, USAGE, CannotRun, UserError
from tests.analysis.folders import (
    STATS_COLUMNS,
    TrialSpec,
    _stats_line,
    encoded,
    steady,
    write_rows,
    write_run,
)

SPEC = TrialSpec(steady(40, 20, 200), "nginx", "ab")


def recorded(path: Path, *specs: TrialSpec, failed: tuple[int, int] = (0, 0)) -> Path:
    """A run whose requests took turns between blue and green."""
    write_run(path, specs)
    for spec in specs:
        folder = path / spec.path
        with (folder / "latency.hlog").open("a") as log:
            for at_s, values in enumerate(spec.latency_ms):
                for name, mine in (("blue", values[::2]), ("green", values[1::2])):
                    payload, largest = encoded(mine * 1000)
                    log.write(f"Tag={VARIANT}{name},{at_s:.3f},1.000,{largest / 1000:.3f},{payload}\n")
        every = np.concatenate(spec.latency_ms)
        rows = [_stats_line("POST", name, every[i::2], failed[i]) for i, name in enumerate(("blue", "green"))]
        write_rows(
            folder / "stats.csv", STATS_COLUMNS, *rows, _stats_line("", "Aggregated", every, sum(failed))
        )
    return path


def compared(folder: Path, as_json: bool = False) -> tuple[int, str]:
    out = io.StringIO()
    return compare_arms(folder, "", "blue", 0.05, Console(file=out, width=200), as_json), out.getvalue()


def test_of_a_good_run_needs_no_notes(tmp_path: Path) -> None:
    status, told = compared(recorded(tmp_path, SPEC))
    assert (status, "Either will do" in told) == (OK, True)
    assert "nginx/ab/1 " not in told
    assert "Failures" not in told


def test_without_a_valid_trial_gives_the_trials_reason_and_is_unmeasured(tmp_path: Path) -> None:
    folder = recorded(tmp_path, replace(SPEC, verdict="invalid", reasons=["the generator was late"]))
    with pytest.raises(CannotRun, match="nothing can be compared: nginx/ab/1 is not valid, as the generator"):
        compared(folder)
    assert CannotRun.exit_code == UNMEASURED


def test_without_a_valid_trial_gives_a_reason_that_several_have_once(tmp_path: Path) -> None:
    late = [replace(SPEC, trial=n, verdict="invalid", reasons=["it was late"]) for n in range(1, 6)]
    lost = replace(SPEC, trial=6, verdict="invalid", reasons=["a worker was lost"])
    with pytest.raises(CannotRun) as told:
        compared(recorded(tmp_path, *late, lost))
    assert "5 trials are not valid, as it was late. nginx/ab/6 is not valid, as a worker was lost." in str(
        told.value
    )


def test_with_weights_that_are_none_is_told_so_first(tmp_path: Path) -> None:
    folder = recorded(tmp_path, replace(SPEC, verdict="invalid", reasons=["the generator was late"]))
    with pytest.raises(UserError, match="--weights x is not two shares") as told:
        compare_arms(folder, "x", "blue", 0.05, Console())
    assert told.value.exit_code == USAGE


def test_names_trials_that_were_left_out_or_are_suspect(tmp_path: Path) -> None:
    late = replace(SPEC, verdict="invalid", reasons=["the generator was late"])
    busy = replace(SPEC, trial=2, verdict="suspect", reasons=["its CPU was busy"])
    folder = recorded(tmp_path, late, busy)
    status, told = compared(folder)
    assert status == OK
    assert "nginx/ab/1 is not valid and was left out: the generator was late." in told
    assert "nginx/ab/2 is suspect: its CPU was busy." in told
    assert "nginx/ab/2 is suspect: its CPU was busy." in (folder / "ab.html").read_text()


def test_of_a_saturated_run_concludes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(tmp_path, replace(SPEC, saturated=True, dropped=4000))
    status, told = compared(folder)
    assert status == UNMEASURED
    assert "Decide nothing: the server was saturated" in told
    assert "nginx/ab/1 was saturated: 50\N{NO-BREAK SPACE}% of the arrivals were dropped" in told
    assert compared(folder, as_json=True)[0] == UNMEASURED
    assert json.loads(capsys.readouterr().out)["saturated"] is True


def test_says_that_it_does_not_know_the_failures(tmp_path: Path) -> None:
    folder = recorded(tmp_path, SPEC)
    (folder / SPEC.path / "stats.csv").unlink()
    assert "has no stats.csv that can be read, so its failures are not known." in compared(folder)[1]


@pytest.mark.parametrize("lost", [(1,), (1, 2)])
def test_decides_nothing_where_it_does_not_know_whose_the_failures_were(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    specs = [replace(SPEC, trial=number, failed=800) for number in (1, 2)]
    folder = recorded(tmp_path, *specs, failed=(0, 800))
    for number in lost:
        (folder / specs[number - 1].path / "stats.csv").unlink()
    status, told = compared(folder)
    assert status == UNMEASURED
    assert f"Decide nothing: {800 * len(lost):,} requests failed, and without stats.csv nothing tells" in told


def test_of_a_variant_that_fails_shows_both_shares(tmp_path: Path) -> None:
    folder = recorded(tmp_path, replace(SPEC, failed=120), failed=(20, 100))
    status, told = compared(folder)
    assert status == MISSED
    assert "Keep blue: 5\N{NO-BREAK SPACE}% of the requests to green failed, but 1\N{NO-BREAK SPACE}%" in told
    assert "by Fisher's exact test of more failures; with 97.5 % confidence the odds are at least" in told


def test_of_a_control_that_fails_takes_the_other(tmp_path: Path) -> None:
    folder = recorded(tmp_path, replace(SPEC, failed=120), failed=(100, 20))
    status, told = compared(folder)
    assert status == OK
    assert "Take green: 1\N{NO-BREAK SPACE}% of its requests failed, but 5\N{NO-BREAK SPACE}%" in told
    assert '<li class="good">fails less</li>' in (folder / "ab.html").read_text()


def test_of_two_that_both_fail_is_unmeasured(tmp_path: Path) -> None:
    status, told = compared(recorded(tmp_path, replace(SPEC, failed=1520), failed=(760, 760)))
    assert (status, "Decide nothing: 38" in told) == (UNMEASURED, True)
