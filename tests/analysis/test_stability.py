from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.histograms import Floats
from analysis.runfolder import Trial, read_run
from analysis.stability import Stability, _drift_of_memory, stability, warm_up, warm_up_s
from tests.analysis.folders import TrialSpec, write_run
from tests.analysis.simulated import Kind, autocorrelated


def seconds(level_ms: Floats, seed: int = 1) -> list[Floats]:
    """Forty requests a second around the level of each second (n,)."""
    rng = np.random.default_rng(seed)
    return [rng.lognormal(np.log(level), 0.3, 40) for level in level_ms]


def found(tmp_path: Path, level_ms: Floats, **others: object) -> Stability:
    spec = TrialSpec(seconds(level_ms))
    for name, value in others.items():
        setattr(spec, name, value)
    return stability(read_run(write_run(tmp_path / "run", [spec])).trials[0])


def test_mser_cuts_what_widens_the_error_of_the_mean() -> None:
    rng = np.random.default_rng(2)
    steady = rng.normal(3, 0.1, 200)
    assert warm_up(steady) < 60
    assert 20 <= warm_up(np.concatenate([4 - np.arange(25) / 25, steady])) < 40


class TestASteadyTrial:
    def test_has_nothing_to_tell(self, tmp_path: Path) -> None:
        calm = found(tmp_path, np.full(60, 40.0))
        assert calm.sentences == []
        assert calm.warmup_s is not None

    def test_that_wanders_as_queues_do_is_seldom_marked(self, tmp_path: Path) -> None:
        trial = read_run(write_run(tmp_path / "run", [TrialSpec(seconds(np.full(60, 40.0)))])).trials[0]
        rng, marked = np.random.default_rng(3), 0
        for _ in range(200):
            marked += bool(stability(with_latency(trial, rng)).sentences)
        assert marked <= 10

    @pytest.mark.parametrize("memory", [0.6, 0.8, 0.95])
    def test_of_memory_that_comes_and_goes_is_seldom_marked(self, memory: float) -> None:
        rng, at_s, marked = np.random.default_rng(5), np.arange(60) + 0.5, 0
        for _ in range(200):
            level = 0.1 * wandering(rng, memory, 60)
            marked += _drift_of_memory(at_s, level) is not None
        assert marked <= (10 if memory < 0.9 else 24)

    def test_of_memory_that_grows_between_collections_is_marked(self) -> None:
        at_s = np.arange(60) + 0.5
        level = np.log(1 + 0.1 * (at_s % 8) / 8) + 0.15 * at_s / 60
        drift = _drift_of_memory(at_s, level)
        assert drift is not None
        assert 1.05 < drift.per_minute < 1.3


def wandering(rng: np.random.Generator, correlation: float, seconds: int) -> Floats:
    """An autoregression of first order of variance 1 (seconds,)."""
    from scipy.signal import lfilter

    steps = rng.normal(size=200 + seconds) * np.sqrt(1 - correlation**2)
    return np.asarray(lfilter([1.0], [1.0, -correlation], steps)[200:])


def with_latency(trial: Trial, rng: np.random.Generator) -> Trial:
    """The trial with other latencies, correlated from second to second."""
    tags = trial.log.tags | {"latency": Kind(autocorrelated(0.6)).trial(rng, 60, 40)}
    return replace(trial, log=replace(trial.log, tags=tags))


class TestATrial:
    def test_that_warms_up_tells_for_how_long(self, tmp_path: Path) -> None:
        level = np.concatenate([np.linspace(120, 45, 8), np.full(52, 40.0)])
        late = found(tmp_path, level)
        assert late.warmup_s is not None
        assert 6 <= late.warmup_s <= 20
        assert late.steady
        assert warm_up_s(read_run(tmp_path / "run").trials[0]) == late.warmup_s
        assert f"still warmed up for {late.warmup_s} s" in late.sentences[0]

    def test_whose_level_jumps_tells_where(self, tmp_path: Path) -> None:
        jumped = found(tmp_path, np.where(np.arange(60) < 33, 40.0, 60.0))
        (change,) = jumped.changes
        assert change.at_s == pytest.approx(33, abs=1)
        assert change.before_ms == pytest.approx(40, rel=0.05)
        assert change.after_ms == pytest.approx(60, rel=0.05)
        assert jumped.drift is None
        assert any("its median went from" in told for told in jumped.sentences)

    def test_that_creeps_tells_how_fast(self, tmp_path: Path) -> None:
        crept = found(tmp_path, 40 * 1.08 ** (np.arange(180) / 60))
        assert crept.drift is not None
        assert crept.drift.low < 1.08 < crept.drift.high
        assert crept.drift.per_minute == pytest.approx(1.08, abs=0.02)
        assert crept.changes == []

    def test_whose_rate_changes_has_no_level_to_keep(self, tmp_path: Path) -> None:
        level = np.where(np.arange(60) < 33, 40.0, 60.0)
        assert found(tmp_path, level, shape={"name": "step"}) == Stability()

    def test_of_a_few_seconds_is_too_short(self, tmp_path: Path) -> None:
        assert found(tmp_path, np.full(15, 40.0)).warmup_s is None

    def test_of_the_very_same_latencies_is_steady(self, tmp_path: Path) -> None:
        spec = TrialSpec([np.full(20, 10.0)] * 30)
        assert stability(read_run(write_run(tmp_path / "run", [spec])).trials[0]).sentences == []
