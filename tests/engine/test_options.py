"""What the user may write, and the sentence that answers everything else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust.argument_parser import get_parser

from locustfiles.engine.arrivals import Arrivals
from locustfiles.engine.options import (
    MAX_COUNT,
    MAX_DEFAULT_USERS,
    OPTIONS,
    SHAPES,
    LoadPlan,
    Option,
    count,
    rate,
    read_by_shape,
    seconds,
    share,
)


def plan(run_time_s: float | None = 60, **options: str) -> LoadPlan:
    return LoadPlan.from_options(options, run_time_s)


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a replay file and returns its name."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "times.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


class TestTimeSpans:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("20", 20),
            ("1.5", 1.5),
            ("1.5s", 1.5),
            ("250ms", 0.25),
            ("2m", 120),
            ("1h20m", 4800),
            ("1h2m3.5s", 3723.5),
            (" 10s ", 10),
            ("0s", 0),
        ],
    )
    def test_are_read_as_people_write_them(self, text: str, value: float) -> None:
        assert seconds(text) == value

    @pytest.mark.parametrize(
        "text",
        ["", " ", "s", "-5", "-5s", "5 s", "1,5s", "1e3", "nan", "inf", "2m1h", "5x", "1m30", "9" * 400],
    )
    def test_are_refused_with_examples_when_they_are_none(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not a time span: write 20, 1\.5s, 250ms, 2m or 1h20m"):
            seconds(text)

    @given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59_999))
    def test_add_up(self, hours: int, minutes: int, milliseconds: int) -> None:
        text = f"{hours}h{minutes}m{milliseconds / 1000}s"
        assert seconds(text) == pytest.approx(hours * 3600 + minutes * 60 + milliseconds / 1000)

    @given(st.text(alphabet="0123456789.hms -+e", max_size=12) | st.text(max_size=12))
    def test_are_finite_and_not_negative_or_refused(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            assert 0 <= seconds(text) < math.inf


class TestNumbers:
    @pytest.mark.parametrize(("text", "value"), [("50", 50), ("0.5", 0.5), ("50/s", 50), (" 1e3 ", 1000)])
    def test_rates_are_read(self, text: str, value: float) -> None:
        assert rate(text) == value

    @pytest.mark.parametrize("text", ["-1", "nan", "inf", "-inf", "1e400", "1e9", "fast", "", "50/m", "5,5"])
    def test_rates_that_are_none_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not an arrival rate: write a number .* such as 50"):
            rate(text)

    @pytest.mark.parametrize("text", ["-1", "1.5", "1e3", "", "ten", str(MAX_COUNT + 1), "9" * 5000])
    def test_counts_that_are_none_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not a whole number .* write for example 1000"):
            count(text)

    def test_the_largest_count_still_fits_into_a_message(self) -> None:
        message = plan(seed=str(MAX_COUNT)).to_message()
        assert msgpack.unpackb(msgpack.packb(message))["seed"] == MAX_COUNT

    @pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "half", ""])
    def test_shares_that_are_none_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a share: write auto or a number from 0 to 1"):
            share(text)

    def test_an_automatic_share_is_no_number(self) -> None:
        assert math.isnan(share("auto"))


class TestSteps:
    @pytest.mark.parametrize(
        ("steps", "run_time_s", "levels"),
        [
            ("1:10s,5:10s,20:1m", None, ((1, 10), (5, 10), (20, 60))),
            ("1,5,20", 30, ((1, 10), (5, 10), (20, 10))),
            ("1,5,20", None, ((1, 10), (5, 10), (20, 10))),
            ("3", 30, ((10, 10), (30, 10), (50, 10))),
            ("", 50, ((10, 10), (20, 10), (30, 10), (40, 10), (50, 10))),
            (" 1:10s , 5:10s ", None, ((1, 10), (5, 10))),
            ("1:10s,5", 40, ((1, 10), (5, 20))),
            ("7:10s", None, ((7, 10),)),
        ],
    )
    def test_are_levels_with_lengths_that_are_given_or_equal(
        self, steps: str, run_time_s: float | None, levels: tuple[tuple[float, float], ...]
    ) -> None:
        assert plan(run_time_s, shape="step", steps=steps).levels == levels

    def test_end_the_run_when_they_are_shorter_than_it(self) -> None:
        assert plan(60, shape="step", steps="1:10s,5:10s").run_time_s == 20

    def test_are_cut_by_a_run_time_that_ends_in_their_last_level(self) -> None:
        assert plan(15, shape="step", steps="1:10s,5:10s").run_time_s == 15

    @pytest.mark.parametrize(
        ("steps", "sentence"),
        [
            ("1", "--steps 1: write 2 to 1000 levels, such as --steps 5 or --steps 1,5,20"),
            ("0", "write 2 to 1000 levels"),
            ("5000000000", "write 2 to 1000 levels"),
            (",", "--steps: '' is not an arrival rate"),
            ("1,,5", "--steps: '' is not an arrival rate"),
            ("1,5,", "--steps: '' is not an arrival rate"),
            ("1,-5", "'-5' is not an arrival rate: .*; a level is RATE or RATE:SPAN, such as 5:10s"),
            ("1:10s,nan:10s", "'nan' is not an arrival rate"),
            ("up and down", "'up and down' is not an arrival rate"),
            ("1:soon", "'soon' is not a time span"),
            ("1:10s:5s", "'10s:5s' is not a time span"),
            ("1:", "'' is not a time span"),
            ("1:10s,5:0s", "every level must last longer than 0 s, such as 5:10s"),
            ("0:10s,0:10s", "would send nothing: write a rate above 0, such as --steps 1,5,20"),
            ("1:30s,5:30s,9:30s", "step 9:30s at 60 s comes after the end at 60 s: write shorter --steps or"),
        ],
    )
    def test_that_are_nonsense_are_refused_with_an_example(self, steps: str, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            plan(60, shape="step", steps=steps)

    @given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 100)), min_size=1, max_size=9))
    def test_come_back_as_they_were_written(self, levels: list[tuple[int, int]]) -> None:
        text = ",".join(f"{r}:{s}s" for r, s in levels)
        assert plan(None, shape="step", steps=text).levels == tuple(levels)

    @given(st.text(alphabet="0123456789.,:sm -", max_size=20) | st.text(max_size=20))
    def test_give_rates_and_lengths_or_a_sentence(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            levels = plan(None, shape="step", steps=text).levels
            assert all(0 <= r < math.inf and 0 < s < math.inf for r, s in levels)


class TestOptionsThatTheShapeDoesNotRead:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"replay": "/nope.csv"}, "--replay /nope.csv .* --shape constant: leave it out, or .* replay$"),
            ({"steps": "1:10s"}, "--steps 1:10s does nothing .* or choose --shape step$"),
            ({"peak_rate": "100", "shape": "poisson"}, "or choose --shape step, spike or ramp$"),
            ({"spike_for": "3s", "shape": "ramp"}, "--spike-for 3s does nothing with --shape ramp"),
            ({"rate": "100", "shape": "closed"}, "--rate 100 does nothing with --shape closed"),
            ({"gaps": "poisson", "shape": "replay"}, "--gaps poisson does nothing with --shape replay"),
            ({"gaps": "poisson", "shape": "closed"}, "--gaps poisson does nothing with --shape closed"),
        ],
    )
    def test_are_refused(self, options: dict[str, str], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            plan(**options)

    def test_may_be_given_as_their_defaults(self) -> None:
        defaults = {option.name: option.default for option in OPTIONS}
        assert plan(**defaults | {"spike_at": "10", "gaps": "even"}) == plan()
        assert plan(**defaults | {"shape": "closed", "rate": "10/s"}).closed

    def test_are_left_out_of_what_a_form_sends_that_was_not_changed(self) -> None:
        form = {"shape": "constant", "rate": "5", "steps": "1:10s", "spike_at": "3s"}
        assert read_by_shape(form) == {"shape": "constant", "rate": "5"}
        assert read_by_shape(form, keep=["rate", "steps"]) == {
            "shape": "constant",
            "rate": "5",
            "steps": "1:10s",
        }


class TestBadPlans:
    @pytest.mark.parametrize(
        ("options", "run_time_s", "sentence"),
        [
            ({"rate": "-5"}, 60, "--rate: '-5' is not an arrival rate: write"),
            ({"rate": "nan"}, 60, "--rate: 'nan' is not an arrival rate"),
            ({"peak_rate": "inf"}, 60, "--peak-rate: 'inf' is not an arrival rate"),
            ({"rate": "0"}, 60, "would send nothing: write a rate above 0, such as --rate 10"),
            ({"rate": "0", "shape": "poisson"}, 60, "such as --rate 10"),
            ({"rate": "0", "shape": "spike"}, 60, "such as --peak-rate 50"),
            ({"rate": "0", "shape": "ramp"}, 60, "such as --peak-rate 50"),
            ({}, 0, "--run-time must be longer than 0 s: write for example --run-time 30s"),
            ({}, -1, "--run-time must be longer than 0 s"),
            ({"shape": "poison"}, 60, "--shape: 'poison' is not known: did you mean poisson?"),
            ({"shape": "spke"}, 60, "did you mean spike?"),
            ({"shape": "zigzag"}, 60, f"choose one of {', '.join(SHAPES)}"),
            ({"gaps": "random"}, 60, "--gaps: 'random' is not known: choose one of even, poisson"),
            ({"payload": "smal"}, 60, "--payload: 'smal' is not known: did you mean small?"),
            ({"check": "party"}, 60, "--check: 'party' is not known: did you mean parity?"),
            ({"check_share": "2"}, 60, "--check-share: '2' is not a share"),
            ({"seed": "-1"}, 60, "--seed: '-1' is not a whole number"),
            ({"seed": "dice"}, 60, "--seed: 'dice' is not a whole number"),
            ({"arrivals": "0"}, 60, "--arrivals 0 would send nothing: write 1 or more"),
            ({"warmup": "-5s"}, 60, "--warmup: '-5s' is not a time span"),
            ({"request_timeout": "0s"}, 60, "--request-timeout must be longer than 0 s"),
            (
                {"shape": "spike", "spike_at": "60s"},
                60,
                "spike at 60 s comes after the end at 60 s: write a smaller",
            ),
            ({"shape": "spike", "spike_at": "2m"}, 60, "smaller --spike-at or a longer --run-time"),
            ({"shape": "spike", "spike_for": "0s"}, 60, "--spike-for must be longer than 0 s"),
            ({"shape": "ramp"}, None, "--shape ramp needs a --run-time to rise over, such as --run-time 60s"),
            (
                {"shape": "poisson", "rate": "0.001"},
                1,
                "no arrival comes before the end at 1 s: write a longer",
            ),
            ({"shape": "step", "steps": "0:5s,1:5s"}, 5, "comes after the end at 5 s"),
            ({"shape": "replay"}, 60, "--shape replay needs the recording: write --replay FILE.csv"),
            ({"shape": "replay", "replay": "/nowhere.csv"}, 60, "cannot read the replay file /nowhere.csv"),
        ],
    )
    def test_are_refused_with_what_to_write_instead(
        self, options: dict[str, str], run_time_s: float | None, sentence: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            plan(run_time_s, **options)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("2\n1\n", "line 2: 1 comes after 2.0: sort the times"),
            ("0\nsoon\n", "line 2: 'soon' is not a time in seconds, such as 1.25"),
            ("", "holds no times: give one time in seconds a line"),
            (b"\xff\xfe0\n", "is not a CSV in UTF-8"),
            ("1700000000\n1700000001\n", "looks like a date: times count from the start of the run"),
            ("90\n91\n", "no arrival comes before the end at 60 s: write a longer --run-time"),
        ],
    )
    def test_replay_files_that_cannot_be_used_are_refused(
        self, recording: Callable[..., str], content: str | bytes, sentence: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            plan(60, shape="replay", replay=recording(content))

    def test_are_refused_on_the_command_line_with_the_same_sentence(self) -> None:
        option = next(o for o in OPTIONS if o.flag == "--rate")
        with pytest.raises(ArgumentTypeError, match="'-5' is not an arrival rate: write"):
            option.check("-5")
        assert option.check("") == ""  # an empty field of the web form means the default


class TestPlans:
    def test_take_the_default_for_what_is_absent_or_empty(self) -> None:
        empty = {option.name: "" for option in OPTIONS}
        assert plan() == plan(**empty) == plan(shape="constant", rate="10", seed="1")

    def test_rise_to_five_times_the_rate_unless_told_otherwise(self) -> None:
        assert plan(rate="7").peak_rate == 35
        assert plan(rate="7", peak_rate="8", shape="spike").peak_rate == 8

    def test_have_no_end_without_a_run_time(self) -> None:
        endless = plan(None)
        assert math.isinf(endless.run_time_s)
        assert math.isinf(endless.limit)

    @pytest.mark.parametrize(
        ("options", "arrivals"),
        [
            ({"rate": "10"}, 600),
            ({"rate": "10", "arrivals": "7"}, 7),
            ({"shape": "step", "steps": "1,5"}, 180),
            ({"shape": "spike", "rate": "10", "peak_rate": "50"}, 800),
            ({"shape": "spike", "rate": "0", "peak_rate": "50"}, 250),
            ({"shape": "ramp", "rate": "0", "peak_rate": "10"}, 300),
        ],
    )
    def test_send_what_their_shape_says(self, options: dict[str, str], arrivals: int) -> None:
        assert len(plan(60, **options).arrivals().times()) == arrivals

    @pytest.mark.parametrize("shape", ["constant", "step", "spike", "ramp"])
    def test_take_random_gaps_for_any_shape(self, shape: str) -> None:
        even, random = plan(shape=shape), plan(shape=shape, gaps="poisson")
        assert not even.arrivals().poisson
        assert random.arrivals().poisson
        assert random.arrivals().shape == even.arrivals().shape

    def test_are_the_same_for_poisson_as_shape_and_as_gaps_of_a_constant_rate(self) -> None:
        shape, gaps = plan(shape="poisson").arrivals(), plan(gaps="poisson").arrivals()
        assert shape.times().tolist() == gaps.times().tolist()

    @pytest.mark.parametrize(
        ("options", "run_time_s", "users"),
        [
            ({"rate": "10"}, 60, 100),
            ({"rate": "0.01"}, 1000, 1),
            ({"rate": "100000"}, 60, MAX_DEFAULT_USERS),
            ({"rate": "10", "shape": "spike"}, 60, 500),
            ({"shape": "step", "steps": "1,5,20"}, 60, 200),
            ({"shape": "closed"}, 60, 1),
        ],
    )
    def test_keep_ten_seconds_of_the_peak_rate_in_flight_by_default(
        self, options: dict[str, str], run_time_s: float, users: int
    ) -> None:
        assert plan(run_time_s, **options).default_users() == users

    def test_warm_up_evenly_at_their_first_rate(self) -> None:
        warmup = plan(shape="step", gaps="poisson", steps="2,50", warmup="3s").warmup()
        assert warmup.times() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])

    @pytest.mark.parametrize(
        ("options", "run_time_s", "rate_per_s"),
        [
            ({"shape": "ramp", "rate": "0", "peak_rate": "10"}, 60, 5),
            ({"shape": "spike", "rate": "0", "peak_rate": "60", "spike_for": "5s"}, 60, 5),
            ({"shape": "spike", "rate": "0", "peak_rate": "60"}, None, 60),
        ],
    )
    def test_warm_up_at_their_mean_rate_when_they_begin_with_nothing(
        self, options: dict[str, str], run_time_s: float | None, rate_per_s: float
    ) -> None:
        warmup = plan(run_time_s, warmup="10s", **options).warmup()
        assert len(warmup.times()) == 10 * rate_per_s


class TestMessages:
    @pytest.mark.parametrize(
        ("run_time_s", "options"),
        [
            (60, {}),
            (None, {"shape": "poisson"}),
            (30, {"shape": "step", "steps": "1:10s,5"}),
            (60, {"shape": "closed", "arrivals": "100", "check_share": "0.25"}),
            (60, {"shape": "spike", "spike_at": "2.5s", "warmup": "3s", "request_timeout": "500ms"}),
        ],
    )
    def test_carry_a_plan_unchanged_to_a_worker(
        self, run_time_s: float | None, options: dict[str, str]
    ) -> None:
        sent = plan(run_time_s, **options)
        received = LoadPlan.from_message(msgpack.unpackb(msgpack.packb(sent.to_message())))
        assert received == sent  # the coordinator asks the same to see whether a plan was edited
        assert received.arrivals() == sent.arrivals()

    def test_carry_a_recording_unchanged(self, recording: Callable[..., str]) -> None:
        sent = plan(shape="replay", replay=recording("0.1\n0.30000000000000004\n"))
        received = LoadPlan.from_message(msgpack.unpackb(msgpack.packb(sent.to_message())))
        assert received.replay_times == (0.1, 0.30000000000000004)
        assert isinstance(received.arrivals(), Arrivals)

    def test_are_plain_json_with_nothing_infinite_in_it(self) -> None:
        for each in (plan(None), plan(shape="closed"), plan(shape="step")):
            json.dumps(each.to_message(), allow_nan=False)

    def test_hold_every_field(self) -> None:
        assert set(plan().to_message()) == {f.name for f in dataclasses.fields(LoadPlan)}


@pytest.fixture(scope="module")
def locust(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str, str]]:
    """A function that runs `locust -f locustfiles/fastapi_user.py …`: exit status, stdout, stderr."""
    model = tmp_path_factory.mktemp("model")
    (model / "x.jpg").write_bytes(b"jpeg")
    top5 = [{"class_id": i, "confidence": 0.2} for i in range(5)]
    (model / "images.json").write_text(json.dumps([{"file": "x.jpg", "payload": "small", "top5": top5}]))

    def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "locust", "-f", root / "locustfiles" / "fastapi_user.py", *arguments],
            env=os.environ | {"PYTHONPATH": str(root), "MODELSWARM_MODEL_DIR": str(model)} | environ,
            cwd=model,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return run


Locust = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_the_reference_names_each_option_with_its_default(root: Path, option: Option) -> None:
    rows = re.findall(
        r"^\| (.*?) \| (.*) \| (.*) \|$", (root / "docs" / "engine.md").read_text(), re.MULTILINE
    )
    ((_, _, default),) = [row for row in rows if re.search(rf"`{option.flag}[ `]", row[0])]
    assert default
    assert not option.default or f"`{option.default}`" in default


class TestLocustItself:
    def test_has_every_option_with_its_help_once_a_locustfile_is_imported(self) -> None:
        # `locust -f FILE --help` itself answers before it imports FILE: locust issue 2917.
        words = " ".join(get_parser().format_help().split())
        for option in OPTIONS:
            assert f"{option.flag} " in words
            assert option.help in words

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                ["--rate", "-5"],
                "'-5' is not an arrival rate: write a number of arrivals per second, such as 50",
            ),
            (
                ["--shape", "spike", "--spike-at", "30s"],
                "the spike at 30 s comes after the end at 10 s: write",
            ),
            (["--run-time", "0"], "--run-time must be longer than 0 s: write for example --run-time 30s"),
        ],
    )
    def test_exits_2_with_a_sentence_on_bad_input(
        self, locust: Locust, arguments: list[str], sentence: str
    ) -> None:
        status, _, err = locust("--headless", "--host", "http://127.0.0.1:9", "-t", "10s", *arguments)
        assert (status, sentence in " ".join(err.split())) == (2, True), err
        assert "Traceback" not in err

    def test_exits_2_on_a_host_that_is_no_url(self, locust: Locust) -> None:
        status, _, err = locust("--headless", "-t", "2s", "--host", "127.0.0.1:8000")
        assert (status, "is not a URL: write for example http://127.0.0.1:8000" in err) == (2, True), err

    @pytest.mark.parametrize(
        ("host", "why"),
        [("http://127.0.0.1:{closed}", "connection refused"), ("http://nowhere.invalid", "network: ")],
    )
    def test_exits_3_on_a_host_that_cannot_be_reached(
        self, locust: Locust, closed_port: int, host: str, why: str
    ) -> None:
        url = host.format(closed=closed_port)
        status, _, err = locust("--headless", "-t", "2s", "--host", url)
        assert (status, f"{url} is not reachable ({why}" in err) == (3, True), err
        assert "start the server or correct --host" in err
