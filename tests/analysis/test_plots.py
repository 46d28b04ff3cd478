import math
from xml.etree import ElementTree

import numpy as np
import pytest

from analysis.histograms import Histogram, bucket_low_us
from analysis.plots import Bar, Mark, Track, as_locust_saw_it, distribution, over_time, side_by_side
from analysis.svg import Scale, latency_scale


class TestAScale:
    def test_maps_its_range_onto_pixels_and_nothing_beyond(self) -> None:
        scale = Scale(0, 10, 100, 0)
        assert [scale(v) for v in (-5, 0, 5, 10, 99)] == [100, 100, 50, 0, 0]

    def test_spaces_factors_equally_when_logarithmic(self) -> None:
        scale = Scale(1, 100, 0, 100, log=True)
        assert [scale(v) for v in (0, 1, 10, 100)] == pytest.approx([0, 0, 50, 100])

    @pytest.mark.parametrize(
        ("low", "high", "about", "log", "ticks"),
        [
            (0, 10, 5, False, [0, 2, 4, 6, 8, 10]),
            (0, 83, 5, False, [0, 20, 40, 60, 80]),
            (0, 0.7, 5, False, [0, 0.2, 0.4, 0.6]),
            (3, 120, 7, True, [5, 10, 20, 50, 100]),
            (3, 9000, 7, True, [3, 10, 30, 100, 300, 1000, 3000]),
            (6, 9, 5, True, [6, 9]),
        ],
    )
    def test_has_round_ticks(
        self, low: float, high: float, about: int, log: bool, ticks: list[float]
    ) -> None:
        assert Scale(low, high, 0, 1, log).ticks(about) == pytest.approx(ticks)

    def test_of_latencies_turns_logarithmic_over_a_factor_of_thirty(self) -> None:
        assert not latency_scale([10, 290], 0, 1).log
        assert latency_scale([10, 310], 0, 1).log
        assert latency_scale([math.nan], 0, 1).high > 0


def test_a_second_without_answers_is_a_gap_and_not_a_number() -> None:
    nan, one = math.nan, np.ones(4)
    gap = np.array([10.0, nan, nan, 30.0])
    answers = np.array([200, 0, 0, 200])
    track = Track("FastAPI", 1, np.arange(4.0), gap, gap * 2, answers, one, *[one * nan] * 9)
    drawing = str(over_time(track, [track], 1))
    assert "nan" not in drawing
    told = [title.text for title in ElementTree.fromstring(drawing).iter("title")]
    assert told[0] == "FastAPI: latency, arrivals, CPU and memory over time. Highest p95 of 1 s: 60.0 ms."
    assert told[1] == "0 to 1 s: p50 10.0 ms, p95 20.0 ms, 1 answers/s"
    assert told[2] == "1 to 2 s: no answer, 1 answers/s"


class TestSecondsOfFewAnswers:
    def drawn(self, *answers: int) -> list[ElementTree.Element]:
        ms, none = np.full(len(answers), 10.0), np.full(len(answers), math.nan)
        at, counts = np.arange(float(len(answers))), np.array(answers)
        track = Track("FastAPI", 1, at, ms, ms * 2, counts, none, *[none] * 9)
        return list(ElementTree.fromstring(over_time(track, [track], 1)).iter())

    def told(self, *answers: int) -> list[str]:
        return [str(one.text) for one in self.drawn(*answers) if one.tag == "title"]

    def lines(self, *answers: int) -> list[str]:
        drawn = [str(one.get("class")) for one in self.drawn(*answers) if one.tag == "polyline"]
        return [look.removesuffix(" s1 b1") for look in drawn]

    def test_have_no_p95_in_words(self) -> None:
        told = self.told(199, 30)
        assert told[0].endswith("No second has the 200 answers that p95 needs.")
        assert told[2] == "1 to 2 s: p50 10.0 ms, p95 20.0 ms of only 30 answers"

    def test_do_not_make_the_highest_p95(self) -> None:
        assert self.told(30, 200)[0].endswith("Highest p95 of 1 s: 20.0 ms.")

    def test_are_dotted(self) -> None:
        assert self.lines(19, 19) == ["line thin dotted", "line dotted"]
        assert self.lines(20, 20) == ["line thin dotted", "line"]
        assert self.lines(200, 200) == ["line thin", "line"]

    def test_leave_a_gap_in_the_line_of_the_others(self) -> None:
        assert self.lines(200, 200, 30, 200, 200) == ["line thin dotted", "line thin", "line thin", "line"]


class TestSideBySide:
    def bar(self, p50: float | None, p95: float | None, p99: float | None, requests: int) -> str:
        interval = (20.0, 90.0) if p95 else None
        return str(side_by_side("constant", [Bar("FastAPI", 1, p50, p95, p99, interval, True, requests)]))

    def test_shows_no_percentile_that_has_too_few_requests(self) -> None:
        drawn = self.bar(10, 30, None, 448)
        assert "FastAPI: p50 10.0 ms, p95 30.0 ms, 448 requests, too few for p99" in drawn
        assert 'class="end"' not in drawn
        assert 'class="mark' in drawn
        assert "p95" not in self.bar(10, None, None, 30).replace("too few for p95 and p99", "")

    def test_tells_of_a_lower_bound_that_it_is_one(self) -> None:
        bar = Bar("FastAPI", 1, 10.0, 30.0, None, None, False, 448, lower_bound=True)
        drawn = str(side_by_side("constant", [bar]))
        assert "FastAPI: p50 at least 10.0 ms, p95 at least 30.0 ms, 448 requests, too few for p99" in drawn
        assert "\N{RIGHTWARDS ARROW}" in drawn

    def test_of_no_requests_to_speak_of_is_a_name_and_a_sentence(self) -> None:
        drawn = self.bar(None, None, None, 3)
        assert "FastAPI: 3 requests, too few for p50, p95 and p99" in drawn
        assert 'class="range"' not in drawn


def test_the_curve_by_percentile_tells_nothing_beyond_what_is_carried() -> None:
    histogram = Histogram(np.bincount([200], [100], len(bucket_low_us()) - 1).astype(np.int64), 0.2)
    drawn = str(distribution("constant", [("FastAPI", 1, histogram)]))
    titles = [str(title.text) for title in ElementTree.fromstring(drawn).iter("title")]
    told = [float(title.partition(" %:")[0]) for title in titles[1:] if " %:" in title]
    assert 85 < max(told) <= 90
    assert "p95: FastAPI \N{EN DASH}." in titles[0]
    assert not any("p95" in title for title in titles[1:])


def test_the_axis_of_percentiles_says_what_it_is_and_has_one_unit() -> None:
    histogram = Histogram(np.bincount([200], [1000], len(bucket_low_us()) - 1).astype(np.int64), 0.2)
    drawn = ElementTree.fromstring(distribution("constant", [("FastAPI", 1, histogram)]))
    texts = [str(one.text) for one in drawn.iter("text")]
    assert "percentile" in texts
    assert [one for one in texts if one.endswith("%")] == ["0%", "50%", "90%", "99%", "99.9%"]


def test_pointing_at_a_second_tells_what_every_file_says_of_it() -> None:
    p50, p95, answered, planned, dropped, cpu, memory, load_cpu, load_memory, users, rate, failed = (
        np.full(2, value) for value in (10, 20, 30, 31, 1, 0.5, 300 * 2**20, 0.1, 1e6, 100, 29, 2)
    )
    at, used = np.arange(2.0), (cpu, memory, load_cpu, load_memory)
    marks = [Mark(0.4, "pod Killed", "bad"), Mark(9, "after the end")]
    many = np.full(2, 300)
    track = Track(
        "FastAPI", 1, at, p50, p95, many, answered, planned, dropped, *used, users, rate, failed, marks
    )
    for drawing in (over_time(track, [track], 1), as_locust_saw_it(track, [track], 1)):
        told = [t.text for t in ElementTree.fromstring(drawing).iter("title") if " s: p50" in str(t.text)]
        assert told[0] == (
            "0 to 1 s: p50 10.0 ms, p95 20.0 ms, 30 answers/s, 1 dropped/s, 0.5 CPU cores, 0.1 of the "
            "generator, 29 requests/s by Locust, 2 failures/s by Locust, 100 users, 300 MiB, pod Killed"
        )
        assert "after the end" not in drawing
