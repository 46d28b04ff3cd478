"""The engine's settings as Locust options, and the one place where they are checked.

Every option is a plain string to Locust, because its web form hands strings back and because an empty
field means "use the default".  `LoadPlan.from_options` turns them into numbers or raises ValueError with
the sentence that the user sees.
"""

from __future__ import annotations

import difflib
import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locustfiles.engine import arrivals
from locustfiles.engine.arrivals import Arrivals, Shape

SHAPES = ("constant", "step", "spike", "poisson", "ramp", "replay", "closed")
BAD_INPUT, NOT_MEASURED = 2, 3
"""Exit statuses: wrong usage or input; a trial that could not be made."""
MAX_DEFAULT_USERS = 10_000
MAX_RATE_PER_S = 10_000_000
"""More than a hundred workers can send: beyond it there is a slip of the keyboard."""
MAX_COUNT = 2**63 - 1
"""The largest whole number that fits into a message to a worker."""
MAX_LEVELS = 1000
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?")


def seconds(text: str) -> float:
    """A time span in seconds: `20`, `1.5s`, `2m`, `1h20m`, `250ms`.

    Raises ValueError when it is none.
    """
    span = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", span):
        value = float(span)
    elif match := re.fullmatch(r"(\d+(?:\.\d+)?)ms", span):
        value = float(match[1]) / 1000
    elif span and (match := _SPAN.fullmatch(span)):
        hours, minutes, secs = (float(part or 0) for part in match.groups())
        value = hours * 3600 + minutes * 60 + secs
    else:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a time span: write 20, 1.5s, 250ms, 2m or 1h20m")
    return value


def rate(text: str) -> float:
    """An arrival rate per second, from 0 to `MAX_RATE_PER_S`; `50` and `50/s` are the same.

    Raises ValueError when it is none.
    """
    try:
        value = float(text.strip().removesuffix("/s"))
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_RATE_PER_S:
        raise ValueError(
            f"{text!r} is not an arrival rate: write a number of arrivals per second, such as 50 "
            f"(at most {MAX_RATE_PER_S:,})"
        )
    return value


def part_of_answer(text: str) -> str:
    """`header:NAME` or `field:NAME.NAME`; raises ValueError when it is neither."""
    kind, _, name = text.partition(":")
    if kind not in ("header", "field") or not name.strip(" ."):
        raise ValueError(f"{text!r} is no part of an answer: write header:X-Variant or field:model.version")
    return f"{kind}:{name.strip()}"


def count(text: str) -> int:
    """A whole number from 0 to `MAX_COUNT`; raises ValueError when it is none."""
    digits = text.strip()
    if not re.fullmatch(r"\d{1,19}", digits) or int(digits) > MAX_COUNT:
        raise ValueError(f"{text!r} is not a whole number that fits 63 bits: write for example 1000")
    return int(digits)


def share(text: str) -> float:
    """A share: `auto` (NaN) or a number from 0 to 1; raises ValueError when it is none."""
    if text == "auto":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a share: write auto or a number from 0 to 1, such as 0.1")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """A parser that takes one of `names` and suggests the nearest for anything else."""

    def parse(text: str) -> str:
        if text in names:
            return text
        near = difflib.get_close_matches(text, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
        raise ValueError(f"{text!r} is not known: {hint}")

    return parse


@dataclass(frozen=True)
class Option:
    """One Locust option: `flag` on the command line, its default, its parser and its help text."""

    flag: str
    default: str
    parse: Callable[[str], Any]
    help: str
    choices: tuple[str, ...] | None = None
    shapes: tuple[str, ...] = SHAPES
    """Those that read it; with another one only the default is taken."""

    @property
    def name(self) -> str:
        """Its name in Locust's parsed options."""
        return self.flag.removeprefix("--").replace("-", "_")

    def check(self, text: str) -> str:
        """The text as given, for argparse; raises ArgumentTypeError when `parse` refuses it."""
        try:
            if text != "":
                self.parse(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
        return text


OPTIONS = (
    Option("--shape", "constant", one_of(*SHAPES), "How the arrival rate goes over time", SHAPES),
    Option(
        "--gaps",
        "even",
        one_of("even", "poisson"),
        "Spread of arrivals: evenly, or at random, as with --shape poisson always",
        ("even", "poisson"),
        shapes=("constant", "step", "spike", "poisson", "ramp"),
    ),
    Option(
        "--rate",
        "10",
        rate,
        "Arrivals per second (where step, spike and ramp start)",
        shapes=("constant", "step", "spike", "poisson", "ramp"),
    ),
    Option(
        "--peak-rate",
        "",
        rate,
        "Arrivals per second at the top of step, spike and ramp (5 x --rate)",
        shapes=("step", "spike", "ramp"),
    ),
    Option(
        "--steps",
        "",
        str,
        "Levels of --shape step: 1:10s,5:10s,20:10s, or 1,5,20, or how many",
        shapes=("step",),
    ),
    Option("--spike-at", "10s", seconds, "When the spike begins", shapes=("spike",)),
    Option("--spike-for", "5s", seconds, "How long the spike lasts", shapes=("spike",)),
    Option("--replay", "", str, "CSV with arrival times in seconds, for --shape replay", shapes=("replay",)),
    Option("--seed", "1", count, "Seed of random gaps and payloads: same seed, same arrivals"),
    Option("--arrivals", "", count, "End after this many arrivals"),
    Option(
        "--warmup", "0s", seconds, "Load at the first rate before the clock starts, kept out of the record"
    ),
    Option(
        "--payload",
        "mix",
        one_of("small", "medium", "large", "mix"),
        "Which images are sent",
        ("small", "medium", "large", "mix"),
    ),
    Option(
        "--variant-by",
        "",
        part_of_answer,
        "For A/B: what in an answer names the variant, header:X-Variant or field:model.version",
    ),
    Option("--protocol", "", str, "Which of the server's protocols is spoken (its default one)"),
    Option(
        "--check",
        "parity",
        one_of("parity", "status"),
        "What makes an answer right: the stored top-5, or HTTP status 2xx",
        ("parity", "status"),
    ),
    Option(
        "--check-share",
        "auto",
        share,
        "Share of answers checked for parity, 0 to 1 (auto: all up to 200/s, then 200/s)",
    ),
    Option("--request-timeout", "30s", seconds, "A request without a whole answer by then has failed"),
    Option("--record", "", str, "Folder for the trial's record (latency.hlog, summary.json, CSVs)"),
)


def _levels(text: str, first: float, peak: float, run_time_s: float) -> tuple[tuple[float, float], ...]:
    """The (rate, seconds) levels that `--steps` means.

    Lengths that are not given are equal parts of the run time, or 10 s each when there is none.
    """
    text = text.strip() or "5"
    if re.fullmatch(r"\d+", text):
        n = int(text[:9])
        if not 2 <= n <= MAX_LEVELS:
            raise ValueError(
                f"--steps {text}: write 2 to {MAX_LEVELS} levels, such as --steps 5 or --steps 1,5,20"
            )
        items = [f"{first + (peak - first) * i / (n - 1)}" for i in range(n)]
    else:
        items = text.split(",")
    length = run_time_s / len(items) if math.isfinite(run_time_s) else 10.0
    levels = []
    starts_s = 0.0
    for item in items:
        level, colon, span = item.partition(":")
        try:
            levels.append((rate(level), seconds(span) if colon else length))
        except ValueError as error:
            raise ValueError(f"--steps: {error}; a level is RATE or RATE:SPAN, such as 5:10s") from error
        if levels[-1][1] <= 0:
            raise ValueError("--steps: every level must last longer than 0 s, such as 5:10s")
        if starts_s >= run_time_s:
            raise ValueError(
                f"the step {item.strip()} at {starts_s:g} s comes after the end at {run_time_s:g} s: "
                "write shorter --steps or a longer --run-time"
            )
        starts_s += levels[-1][1]
    return tuple(levels)


@dataclass(frozen=True)
class LoadPlan:
    """What one trial sends, checked: rates in 1/s, times in seconds, infinite where there is no end."""

    shape: str
    gaps: str
    rate: float
    peak_rate: float
    levels: tuple[tuple[float, float], ...]
    spike_at: float
    spike_for: float
    replay_times: tuple[float, ...]
    seed: int
    run_time_s: float
    limit: float
    warmup_s: float
    payload: str
    check: str
    check_share: float
    request_timeout_s: float
    protocol: str
    variant_by: str = ""

    @classmethod
    def from_options(cls, given: Mapping[str, Any], run_time_s: float | None) -> LoadPlan:
        """The plan that parsed options mean; `run_time_s` is Locust's own `--run-time`.

        Raises ValueError, with a sentence that says what to write instead.
        """
        v = {option.name: _value(option, given.get(option.name)) for option in OPTIONS}
        _refuse_unread(v, given)
        if run_time_s is not None and run_time_s <= 0:
            raise ValueError("--run-time must be longer than 0 s: write for example --run-time 30s")
        run_time = math.inf if run_time_s is None else float(run_time_s)
        peak = v["peak_rate"] if v["peak_rate"] is not None else 5 * v["rate"]
        levels = _levels(v["steps"] or "", v["rate"], peak, run_time) if v["shape"] == "step" else ()
        plan = cls(
            shape=v["shape"],
            gaps="poisson" if v["shape"] == "poisson" else v["gaps"],
            rate=v["rate"],
            peak_rate=peak,
            levels=levels,
            spike_at=v["spike_at"],
            spike_for=v["spike_for"],
            replay_times=_recorded(v["replay"]) if v["shape"] == "replay" else (),
            seed=v["seed"],
            run_time_s=min(run_time, sum(span for _, span in levels)) if levels else run_time,
            limit=math.inf if v["arrivals"] is None else v["arrivals"],
            warmup_s=v["warmup"],
            payload=v["payload"],
            check=v["check"],
            check_share=v["check_share"],
            request_timeout_s=v["request_timeout"],
            protocol=v["protocol"] or "",
            variant_by=v["variant_by"] or "",
        )
        plan._refuse_nonsense()
        return plan

    def _refuse_nonsense(self) -> None:
        if self.shape == "spike" and self.spike_at >= self.run_time_s:
            raise ValueError(
                f"the spike at {self.spike_at:g} s comes after the end at {self.run_time_s:g} s: "
                "write a smaller --spike-at or a longer --run-time"
            )
        if self.shape == "spike" and self.spike_for <= 0:
            raise ValueError("--spike-for must be longer than 0 s: write for example --spike-for 5s")
        if self.shape == "ramp" and not math.isfinite(self.run_time_s):
            raise ValueError("--shape ramp needs a --run-time to rise over, such as --run-time 60s")
        if self.request_timeout_s <= 0:
            raise ValueError("--request-timeout must be longer than 0 s: write for example 30s")
        if self.limit == 0:
            raise ValueError("--arrivals 0 would send nothing: write 1 or more")
        if not self.closed:
            self._refuse_to_send_nothing()

    def _refuse_to_send_nothing(self) -> None:
        if self._shape().peak_per_s <= 0:
            flag = {"step": "--steps 1,5,20", "spike": "--peak-rate 50", "ramp": "--peak-rate 50"}
            raise ValueError(
                f"this --shape {self.shape} would send nothing: write a rate above 0, "
                f"such as {flag.get(self.shape, '--rate 10')}"
            )
        if next(iter(self.arrivals().blocks()), None) is None:
            raise ValueError(
                f"no arrival comes before the end at {self.run_time_s:g} s: "
                "write a longer --run-time or a higher rate"
            )

    @property
    def closed(self) -> bool:
        """Whether callers wait for their answer (concurrency) instead of arriving by a plan."""
        return self.shape == "closed"

    def _shape(self) -> Shape:
        match self.shape:
            case "step":
                return arrivals.steps(self.levels)
            case "spike":
                return arrivals.spike(self.rate, self.peak_rate, self.spike_at, self.spike_for)
            case "ramp":
                return arrivals.ramp(self.rate, self.peak_rate, self.run_time_s)
            case "replay":
                return arrivals.RecordedTimes(self.replay_times)
            case _:
                return arrivals.constant(self.rate)

    def arrivals(self) -> Arrivals:
        """The measured arrivals of an open plan."""
        return Arrivals(self._shape(), self.gaps == "poisson", self.seed, self.run_time_s, self.limit)

    def warmup(self) -> Arrivals:
        """The arrivals of the warm-up, on a time axis of their own that ends at `warmup_s`.

        A plan that begins with nothing is warmed up at its mean rate, or its peak when it has no end.
        """
        shape, end_s = self._shape(), self.run_time_s
        mean = shape.integral(end_s) / end_s if math.isfinite(end_s) else shape.peak_per_s
        return Arrivals(arrivals.constant(shape.rate(0.0) or mean), end_s=self.warmup_s)

    def default_users(self) -> int:
        """In-flight cap when the user gives none: enough for 10 s of the peak rate, at most 10,000."""
        if self.closed:
            return 1
        return max(1, min(MAX_DEFAULT_USERS, math.ceil(10 * self._shape().peak_per_s)))

    def to_message(self) -> dict[str, Any]:
        """The plan as plain values, for a message to a worker or for JSON; infinities become None."""
        return {key: None if _infinite(value) else value for key, value in vars(self).items()}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> LoadPlan:
        """The plan that `to_message` wrote."""
        values = dict(message)
        values["levels"] = tuple((float(r), float(s)) for r, s in values["levels"])
        values["replay_times"] = tuple(values["replay_times"])
        for name in ("run_time_s", "limit"):
            values[name] = math.inf if values[name] is None else values[name]
        values["check_share"] = math.nan if values["check_share"] is None else values["check_share"]
        return cls(**values)


def _value(option: Option, text: object) -> Any:
    """The parsed value; the default when the option is absent or empty, None when that is empty too."""
    text = option.default if text is None or text == "" else str(text)
    if text == "":
        return None
    try:
        return option.parse(text)
    except ValueError as error:
        raise ValueError(f"{option.flag}: {error}") from error


def read_by_shape(given: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
    """`given` without the options that its shape does not read, those named in `keep` apart.

    A form sends every field, also those that are left from another shape.
    """
    shape = given.get("shape") or OPTIONS[0].default
    unread = {option.name for option in OPTIONS if shape not in option.shapes}.difference(keep)
    return {name: value for name, value in given.items() if name not in unread}


def _refuse_unread(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the shape does not read; its default may have come by itself."""
    shape = values["shape"]
    for option in OPTIONS:
        if shape not in option.shapes and values[option.name] != _value(option, None):
            last = option.shapes[-1]
            others = f"{', '.join(option.shapes[:-1])} or {last}" if option.shapes[:-1] else last
            raise ValueError(
                f"{option.flag} {given[option.name]} does nothing with --shape {shape}: "
                f"leave it out, or choose --shape {others}"
            )


def _recorded(path: str | None) -> tuple[float, ...]:
    if not path:
        raise ValueError("--shape replay needs the recording: write --replay FILE.csv")
    return arrivals.replay(Path(path)).times_s


def _infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
