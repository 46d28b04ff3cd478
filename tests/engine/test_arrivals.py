"""Shapes and arrival processes: pure functions, so everything here is exact or a seeded statistic."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from locustfiles.engine.arrivals import (
    BLOCK,
    Arrivals,
    Cursor,
    Floats,
    PiecewiseRate,
    RecordedTimes,
    Shape,
    constant,
    ramp,
    replay,
    spike,
    steps,
)

# name: shape, end of the plan in s, arrivals in it, planned times by index.
# The counts are the integral of the rate, done by hand.
TABLE: dict[str, tuple[Shape, float, int, dict[int, float]]] = {
    "constant": (constant(10), 3, 30, {0: 0, 1: 0.1, 29: 2.9}),
    "constant, gaps of several seconds": (constant(0.25), 60, 15, {1: 4, 14: 56}),
    "constant, a gap that is no binary fraction": (constant(3), 100, 300, {1: 1 / 3, 299: 299 / 3}),
    "constant, an end at which k / rate rounds down": (constant(1.1), 30, 33, {32: 32 / 1.1}),
    "constant at nothing": (constant(0), 10, 0, {}),
    "steps": (steps([(1, 10), (5, 10), (20, 10)]), 30, 260, {9: 9, 10: 10, 11: 10.2, 60: 20, 259: 29.95}),
    "steps, the last one stays": (steps([(1, 10), (5, 10)]), 30, 110, {110 - 1: 29.8}),
    "steps, cut by the end": (steps([(1, 10), (5, 10)]), 12, 20, {19: 11.8}),
    "steps, nothing at first": (steps([(0, 5), (10, 5)]), 10, 50, {0: 5, 49: 9.9}),
    "steps, nothing in the middle": (
        steps([(4, 10), (0, 10), (4, 10)]),
        30,
        80,
        {39: 9.75, 40: 20, 79: 29.75},
    ),
    "steps, nothing in the middle, rate x time rounds up": (  # 8.3 x 30 = 249.00000000000003
        steps([(8.3, 30), (0, 10), (8.3, 30)]),
        70,
        498,
        {248: 248 / 8.3, 249: 40, 497: 40 + 248 / 8.3},
    ),
    "steps, nothing at the end": (steps([(10, 10), (0, 10)]), 20, 100, {99: 9.9}),
    "spike": (spike(10, 50, 10, 5), 30, 500, {100: 10, 101: 10.02, 350: 15, 499: 29.9}),
    "spike at the beginning": (spike(10, 50, 0, 5), 10, 300, {0: 0, 1: 0.02, 250: 5}),
    "spike that outlasts the plan": (spike(10, 50, 10, 5), 12, 200, {199: 12 - 0.02}),
    "spike over nothing": (spike(0, 50, 10, 5), 30, 250, {0: 10, 249: 14.98}),
    "spike downwards": (spike(50, 0, 10, 5), 30, 1250, {499: 9.98, 500: 15}),
    # A ramp from a to b over s: u = a t + (b - a) t²/(2 s).
    "ramp from nothing": (ramp(0, 10, 10), 10, 50, {0: 0, 1: math.sqrt(2), 32: 8}),
    "ramp to nothing": (ramp(10, 0, 10), 30, 50, {18: 2, 49: 10 - math.sqrt(2)}),
    "ramp upwards": (ramp(10, 50, 20), 20, 600, {200: 10}),
    "ramp, the last rate stays": (ramp(10, 50, 20), 21, 650, {600: 20, 601: 20.02}),
    "ramp that is flat": (ramp(10, 10, 20), 20, 200, {199: 19.9}),
    "replay": (RecordedTimes((0.5, 0.5, 2.0, 7.25)), math.inf, 4, {0: 0.5, 1: 0.5, 2: 2.0, 3: 7.25}),
    "replay, cut by the end": (RecordedTimes((0.5, 0.5, 2.0, 7.25)), 2.5, 3, {2: 2.0}),
}
rows = pytest.mark.parametrize(
    ("shape", "end_s", "count", "at"), [pytest.param(*row, id=name) for name, row in TABLE.items()]
)
piecewise = pytest.mark.parametrize(
    ("shape", "end_s"),
    [pytest.param(r[0], r[1], id=name) for name, r in TABLE.items() if isinstance(r[0], PiecewiseRate)],
)


class TestEveryShape:
    @rows
    def test_sends_as_many_as_its_integral_says(
        self, shape: Shape, end_s: float, count: int, at: dict[int, float]
    ) -> None:
        assert len(Arrivals(shape, end_s=end_s).times()) == count

    @rows
    def test_plans_the_times_that_were_worked_out_by_hand(
        self, shape: Shape, end_s: float, count: int, at: dict[int, float]
    ) -> None:
        times = Arrivals(shape, end_s=end_s).times()
        assert {k: times[k] for k in at} == pytest.approx(at, abs=1e-9)

    @rows
    def test_sends_arrival_k_when_its_integral_reaches_k(
        self, shape: Shape, end_s: float, count: int, at: dict[int, float]
    ) -> None:
        times = Arrivals(shape, end_s=end_s).times()
        first_of_its_instant = np.searchsorted(times, times)
        assert [shape.integral(t) for t in times] == pytest.approx(first_of_its_instant, abs=1e-6)

    @rows
    def test_plans_no_arrival_before_0_or_out_of_order(
        self, shape: Shape, end_s: float, count: int, at: dict[int, float]
    ) -> None:
        times = Arrivals(shape, end_s=end_s).times()
        assert (np.diff(times, prepend=0.0) >= 0).all()

    @piecewise
    def test_has_the_integral_of_its_rate(self, shape: PiecewiseRate, end_s: float) -> None:
        for t in np.linspace(0, end_s, 7):
            inner = [s for s in shape.starts_s if 0 < s < t]
            area, _ = integrate.quad(shape.rate, 0, t, points=inner or None)
            assert shape.integral(t) == pytest.approx(area, abs=1e-6)

    @piecewise
    def test_inverts_its_integral_wherever_its_rate_is_not_zero(
        self, shape: PiecewiseRate, end_s: float
    ) -> None:
        t = np.array([x for x in np.linspace(0, end_s, 101) if shape.rate(x) > 0])
        assert shape.inverse(np.array([shape.integral(x) for x in t])) == pytest.approx(t, abs=1e-6)

    @piecewise
    def test_never_exceeds_its_peak(self, shape: PiecewiseRate, end_s: float) -> None:
        rates = [shape.rate(t) for t in np.linspace(0, end_s, 1001)]
        assert max(rates) == pytest.approx(shape.peak_per_s, rel=0.01)
        assert max(rates) <= shape.peak_per_s

    def test_inverts_a_recording_at_its_own_times(self) -> None:
        shape = RecordedTimes((0.5, 1.0, 2.0, 7.25))
        u = np.array([shape.integral(t) for t in shape.times_s])
        assert shape.inverse(u).tolist() == [0.5, 1.0, 2.0, 7.25]
        assert shape.inverse(np.array([4.0, 99.0])).tolist() == [math.inf, math.inf]

    @given(
        st.lists(
            st.tuples(st.just(0.0) | st.floats(1e-3, 1e4), st.floats(1e-3, 1e4)), min_size=1, max_size=6
        ),
        st.booleans(),
        st.lists(st.just(0.0) | st.floats(1e-9, 1), min_size=1, max_size=20),
    )
    def test_inverts_its_integral_whatever_its_pieces(
        self, pieces: list[tuple[float, float]], linear: bool, shares: list[float]
    ) -> None:
        starts = (0.0, *itertools.accumulate(length for _, length in pieces[:-1]))
        if any(b <= a for a, b in itertools.pairwise(starts)):
            return  # a length too short to be seen beside the time before it
        shape = PiecewiseRate(starts, tuple(rate for rate, _ in pieces), linear)
        total = shape.integral(starts[-1])
        u = np.sort(np.array(shares)) * total
        t = shape.inverse(u)
        reached = np.isfinite(t)  # all but what is due when nothing comes any more
        back = np.array([shape.integral(x) for x in t[reached]])
        assert back == pytest.approx(u[reached], rel=1e-6, abs=1e-6 * max(1.0, total))
        assert (np.diff(t[reached]) >= -1e-9 * starts[-1]).all()
        assert u[~reached] == pytest.approx(total)

    @pytest.mark.parametrize(
        ("starts", "rates"),
        [
            ((), ()),
            ((1.0,), (5.0,)),
            ((0.0, 2.0, 2.0), (1.0, 2.0, 3.0)),
            ((0.0, 1.0), (1.0,)),
            ((0.0,), (-1.0,)),
            ((0.0,), (math.nan,)),
            ((0.0,), (math.inf,)),
            ((0.0, math.nan), (1.0, 1.0)),
            ((0.0, math.inf), (1.0, 1.0)),
        ],
    )
    def test_refuses_pieces_that_are_no_rate(
        self, starts: tuple[float, ...], rates: tuple[float, ...]
    ) -> None:
        with pytest.raises(ValueError, match="rate"):
            PiecewiseRate(starts, rates)


class TestTheEndOfAPlan:
    def test_is_at_its_limit_when_that_comes_first(self) -> None:
        assert Arrivals(constant(10), end_s=100, limit=7).times() == pytest.approx(np.arange(7) / 10)

    def test_is_at_its_end_when_that_comes_first(self) -> None:
        assert len(Arrivals(constant(10), end_s=0.5, limit=7).times()) == 5

    @pytest.mark.parametrize("limit", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1])
    def test_is_at_its_limit_also_around_the_end_of_a_block(self, limit: int) -> None:
        for poisson in (False, True):
            assert len(Arrivals(constant(1000), poisson, limit=limit).times()) == limit

    def test_comes_by_itself_when_nothing_comes_any_more(self) -> None:
        assert len(Arrivals(steps([(10, 10), (0, 10)])).times()) == 100
        assert len(Arrivals(steps([(10, 10), (0, 10)]), poisson=True).times()) > 0
        assert len(Arrivals(RecordedTimes((1.0, 2.0))).times()) == 2

    def test_does_not_depend_on_rounding_over_a_day(self) -> None:
        day_s = 86_400
        cursor = Cursor(Arrivals(constant(0.7), end_s=day_s))
        indices, times = cursor.until(math.inf)
        assert len(indices) == round(0.7 * day_s)
        assert times[-1] < day_s

    def test_leaves_the_earlier_arrivals_as_they_are(self) -> None:
        shape = spike(5, 100, 3, 2)
        for poisson in (False, True):
            whole = Arrivals(shape, poisson, 3, end_s=20).times()
            assert Arrivals(shape, poisson, 3, end_s=20, limit=50).times().tolist() == whole[:50].tolist()
            assert Arrivals(shape, poisson, 3, end_s=4).times().tolist() == whole[whole < 4].tolist()


class TestBlocks:
    def test_join_without_a_seam_when_evenly_spaced(self) -> None:
        blocks = list(Arrivals(constant(1000), end_s=50).blocks())
        assert [first for first, _ in blocks] == [0, BLOCK, 2 * BLOCK, 3 * BLOCK]
        assert [len(times) for _, times in blocks] == [BLOCK, BLOCK, BLOCK, 50_000 - 3 * BLOCK]
        assert np.concatenate([times for _, times in blocks]) == pytest.approx(np.arange(50_000) / 1000)

    def test_join_without_a_seam_when_random(self) -> None:
        times = Arrivals(constant(1), poisson=True, seed=5, limit=3 * BLOCK).times()
        at_once = np.cumsum(np.random.default_rng(5).standard_exponential(3 * BLOCK))
        assert times == pytest.approx(at_once, rel=1e-12)

    def test_are_drawn_only_when_asked_for(self) -> None:
        endless = Arrivals(constant(1000), poisson=True)
        assert len(next(iter(endless.blocks()))[1]) == BLOCK


SHAPES: dict[str, PiecewiseRate] = {
    "constant": constant(200),
    "step": steps([(50, 20), (400, 20), (150, 20)]),
    "spike": spike(50, 1000, 20, 10),
    "ramp": ramp(0, 500, 60),
}
shapes = pytest.mark.parametrize("shape", [pytest.param(s, id=name) for name, s in SHAPES.items()])
SEEDS = (1, 2, 3)
LEVEL = 1e-3
"""True hypotheses fail at this level once in a thousand; the seeds are fixed, so none does here."""


def gaps_fit_the_exponential(shape: Shape, times: Floats) -> bool:
    """Kolmogorov-Smirnov test of the gaps on operational time against the exponential of mean 1."""
    u = np.array([shape.integral(t) for t in times])
    return bool(stats.kstest(np.diff(u, prepend=0.0), "expon").pvalue > LEVEL)


class TestPoissonArrivals:
    @shapes
    @pytest.mark.parametrize("seed", SEEDS)
    def test_have_exponential_gaps_after_the_time_change(self, shape: PiecewiseRate, seed: int) -> None:
        times = Arrivals(shape, poisson=True, seed=seed, end_s=60).times()
        assert len(times) > 10_000
        assert gaps_fit_the_exponential(shape, times)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_have_exponential_gaps_on_the_clock_when_the_rate_is_constant(self, seed: int) -> None:
        times = Arrivals(constant(200), poisson=True, seed=seed, end_s=60).times()
        assert stats.kstest(np.diff(times), "expon", args=(0, 1 / 200)).pvalue > LEVEL

    @shapes
    def test_are_told_from_evenly_spaced_ones_by_the_same_test(self, shape: PiecewiseRate) -> None:
        assert not gaps_fit_the_exponential(shape, Arrivals(shape, end_s=60).times())

    def test_are_told_from_arrivals_of_another_rate_by_the_same_test(self) -> None:
        times = Arrivals(constant(220), poisson=True, seed=1, end_s=60).times()
        assert not gaps_fit_the_exponential(constant(200), times)

    @shapes
    def test_come_in_each_part_of_the_plan_as_often_as_the_rate_says(self, shape: PiecewiseRate) -> None:
        counts = np.zeros(6)
        for seed in range(20):
            times = Arrivals(shape, poisson=True, seed=seed, end_s=60).times()
            counts += np.histogram(times, bins=6, range=(0, 60))[0]
        expected = 20 * np.diff([shape.integral(t) for t in np.linspace(0, 60, 7)])
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()

    def test_vary_in_number_as_a_poisson_count_does(self) -> None:
        counts = [len(Arrivals(constant(10), poisson=True, seed=s, end_s=10).times()) for s in range(500)]
        dispersion = 499 * np.var(counts, ddof=1) / np.mean(counts)
        assert LEVEL < stats.chi2.cdf(dispersion, 499) < 1 - LEVEL

    @shapes
    def test_are_the_same_for_the_same_seed(self, shape: PiecewiseRate) -> None:
        once = Arrivals(shape, poisson=True, seed=7, end_s=60).times()
        again = Arrivals(shape, poisson=True, seed=7, end_s=60).times()
        assert once.tolist() == again.tolist()

    @shapes
    def test_are_others_for_another_seed(self, shape: PiecewiseRate) -> None:
        a, b = (Arrivals(shape, poisson=True, seed=s, limit=1000, end_s=60).times() for s in (7, 8))
        assert not set(a.tolist()) & set(b.tolist())


class TestCursor:
    @pytest.mark.parametrize("poisson", [False, True])
    @pytest.mark.parametrize("width_s", [0.0007, 0.25, 1.0, 100.0])
    def test_returns_every_arrival_once_whatever_the_windows(self, poisson: bool, width_s: float) -> None:
        arrivals = Arrivals(spike(300, 20_000, 0.5, 1.0), poisson, seed=2, end_s=2.0)
        cursor, indices, times = Cursor(arrivals), [], []
        for edge in np.arange(0.0, 2.0 + 2 * width_s, width_s):
            k, t = cursor.until(float(edge))
            assert (t < edge).all()
            indices += k.tolist()
            times += t.tolist()
        assert times == arrivals.times().tolist()
        assert indices == list(range(len(times)))
        assert cursor.exhausted

    def test_leaves_an_arrival_on_the_edge_to_the_next_window(self) -> None:
        cursor = Cursor(Arrivals(constant(10), end_s=1))
        assert cursor.until(0.5)[0].tolist() == [0, 1, 2, 3, 4]
        assert cursor.until(0.5)[0].tolist() == []
        assert cursor.until(0.6)[0].tolist() == [5]

    def test_has_nothing_before_the_first_arrival(self) -> None:
        cursor = Cursor(Arrivals(RecordedTimes((5.0,))))
        for edge in (-math.inf, -1.0, 0.0, 5.0):
            assert len(cursor.until(edge)[0]) == 0
        assert not cursor.exhausted
        assert cursor.until(5.1)[1].tolist() == [5.0]

    @pytest.mark.parametrize("poisson", [False, True])
    @pytest.mark.parametrize("since_s", [-1.0, 0.0, 1.0, 5.0, 49.999, 50.0, 119.9, 120.0, 1e9, math.inf])
    @pytest.mark.parametrize(
        "shape", [constant(1000), steps([(2000, 50), (0, 50), (500, 50)]), RecordedTimes((0.5, 119.95))]
    )
    def test_may_begin_in_the_middle_of_a_plan(self, shape: Shape, since_s: float, poisson: bool) -> None:
        arrivals = Arrivals(shape, poisson and not isinstance(shape, RecordedTimes), seed=4, end_s=120)
        times = arrivals.times()
        indices, rest = Cursor(arrivals, since_s).until(math.inf)
        assert rest.tolist() == times[times >= since_s].tolist()
        assert indices.tolist() == np.flatnonzero(times >= since_s).tolist()

    @pytest.mark.parametrize("poisson", [False, True])
    @pytest.mark.parametrize("k", [0, 1, BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK])
    def test_may_begin_at_any_arrival_also_around_the_end_of_a_block(self, k: int, poisson: bool) -> None:
        arrivals = Arrivals(constant(1000), poisson, seed=4, end_s=50)
        times = arrivals.times()
        indices, rest = Cursor(arrivals, float(times[k])).until(math.inf)
        assert (indices[0], rest[0], len(rest)) == (k, times[k], len(times) - k)

    def test_begins_late_in_an_endless_plan_without_planning_what_was_before(self) -> None:
        class Counting(PiecewiseRate):
            planned = 0

            def inverse(self, u: Floats) -> Floats:
                Counting.planned += len(u)
                return super().inverse(u)

        for poisson in (False, True):
            Counting.planned = 0
            cursor = Cursor(Arrivals(Counting((0.0,), (1000.0,)), poisson), since_s=3600.0)
            indices, times = cursor.until(3601.0)
            assert Counting.planned <= 3 * BLOCK
            assert indices[0] == pytest.approx(3_600_000, rel=0.01)
            assert 3600 <= times[0] <= times[-1] < 3601

    def test_of_an_empty_plan_is_exhausted_at_the_first_look(self) -> None:
        cursor = Cursor(Arrivals(constant(0)))
        assert cursor.until(1.0)[1].tolist() == []
        assert cursor.exhausted


class TestReplayFile:
    def write(self, folder: Path, content: str | bytes) -> Path:
        path = folder / "times.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    @pytest.mark.parametrize(
        "content",
        [
            "0\n0.5\n2\n",
            "time\n0\n0.5\n2\n",
            "time,user\r\n0,a\r\n0.5,b\r\n2,c\r\n",
            "0\n\n0.5\n\n2",
            '"0"\n"5e-1"\n"2.0"\n',
        ],
    )
    def test_holds_times_in_the_first_column_with_or_without_a_header(
        self, tmp_path: Path, content: str
    ) -> None:
        assert replay(self.write(tmp_path, content)).times_s == (0.0, 0.5, 2.0)

    def test_keeps_its_first_time_when_a_spreadsheet_put_a_byte_order_mark_before_it(
        self, tmp_path: Path
    ) -> None:
        assert replay(self.write(tmp_path, b"\xef\xbb\xbf0.25\n2\n")).times_s == (0.25, 2.0)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("0\n2\n1\n", r"line 3: 1 comes after 2.0: sort the times"),
            ("-1\n2\n", r"line 1: -1 comes after 0: .* start at 0 or later"),
            ("time\n0\nsoon\n", r"line 3: 'soon' is not a time in seconds, such as 1.25"),
            ("0\n\n\n1,5\n0,7\n", r"line 5: 0 comes after 1.0"),
            ("nan\n1\n", r"line 1: 'nan' is not a time"),
            ("0\ninf\n", r"line 2: 'inf' is not a time"),
            ("0;a\n1;b\n", r"line 2: '1;b' is not a time"),
            ("", r"holds no times: give one time in seconds a line"),
            ("time\n", r"holds no times"),
            (b"0\n\xff\xfe\n", r"is not a CSV in UTF-8"),
            (b"0\n\x001\n", r"line 2"),
        ],
    )
    def test_is_refused_with_the_line_and_what_to_write(
        self, tmp_path: Path, content: str | bytes, sentence: str
    ) -> None:
        path = self.write(tmp_path, content)
        with pytest.raises(ValueError, match=sentence) as refused:
            replay(path)
        assert str(path) in str(refused.value)

    def test_is_refused_when_it_is_not_there_or_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"cannot read the replay file .*nowhere.csv: No such file"):
            replay(tmp_path / "nowhere.csv")
        with pytest.raises(ValueError, match=r"cannot read the replay file .*: Is a directory"):
            replay(tmp_path)

    def test_peaks_where_most_arrivals_share_a_second(self) -> None:
        assert RecordedTimes((0.1, 0.2, 3.0, 3.1, 3.9, 4.0)).peak_per_s == 3.0
        assert RecordedTimes((1.7e15, 1.7e15 + 1)).peak_per_s == 1.0  # needs no memory for the time before
        assert RecordedTimes(()).peak_per_s == 0.0
