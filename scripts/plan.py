"""A plan: which backends, under which load, how often. The shipped ones are in `scripts/plans/`.

A scenario's keys are the load engine's own options with underscores, checked by the engine itself, so that an
option added there can be used in a plan at once.
"""

from __future__ import annotations

import math
import os
import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from analysis import objectives
from analysis.compare import MARGIN
from scripts.engine_options import OPTIONS, LoadPlan, count, seconds
from scripts.errors import UserError, nearest
from scripts.facts import OptionValue, text_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PLANS = Path(__file__).parent / "plans"
SEEDS_APART = 1000
"""Between the trials' seeds of plans whose seeds are neighbours: they share no arrivals."""
MOST_SEED = (2**63 - 1) // SEEDS_APART - 1
"""So that every trial's seed fits the engine's 63 bits."""
CEILING = 20
"""Trials of each that a sequential run ends with: enough to show 5 % or its absence if they lie 3 % apart."""
# The command sets these itself: seeds and folders differ per trial, warm-up is the plan's, the protocol a
# backend's.
_NOT_IN_SCENARIO = {"seed", "record", "warmup", "protocol"}
SCENARIO_KEYS = {option.name for option in OPTIONS} - _NOT_IN_SCENARIO | {"users", "run_time"}
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]


class Scenario(BaseModel):
    """One kind of load, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    options: dict[str, str]
    """The engine's options, written as on Locust's command line without the dashes."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, table: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(table, Mapping):
            raise ValueError("write it as a [[scenario]] table")
        if "name" not in table:
            raise ValueError('`name` is missing: write for example name = "constant"')
        options = (
            dict(table["options"]) if "options" in table else {k: v for k, v in table.items() if k != "name"}
        )
        for key, value in options.items():
            if key not in SCENARIO_KEYS:
                raise ValueError(f"there is no key {key!r}; {nearest(key, SCENARIO_KEYS)}")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise ValueError(f"{key} = {value!r} must be a number or a text")
        return {"name": table["name"], "options": {key: str(value) for key, value in options.items()}}

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        load = self.load(seed=1)
        if math.isinf(load.run_time_s) and (load.closed or math.isinf(load.limit)):
            raise ValueError('it would never end: write run_time = "30s"')
        if self.run_time_s is not None and self.run_time_s != int(self.run_time_s):
            raise ValueError("run_time must be whole seconds, as Locust takes no parts of one")
        if "users" in self.options and count(self.options["users"]) < 1:
            raise ValueError("users must be 1 or more")
        return self

    @property
    def run_time_s(self) -> float | None:
        """Seconds of load, or None when only the number of arrivals ends it."""
        try:
            return seconds(self.options["run_time"]) if "run_time" in self.options else None
        except ValueError as error:
            raise ValueError(f"run_time: {error}") from error

    def load(self, seed: int) -> LoadPlan:
        """Return what the engine makes of the options.

        Raises:
            ValueError: they make no sense; the sentence is the engine's, in the plan's spelling.

        """
        try:
            return LoadPlan.from_options(self.options | {"seed": str(seed)}, self.run_time_s)
        except ValueError as error:
            raise ValueError(_as_key(str(error))) from error

    def length_s(self) -> float:
        """Return how long the load lasts at most."""
        load = self.load(seed=1)
        if load.closed or math.isinf(load.limit):
            return load.run_time_s
        return load.arrivals().last_s()

    def arguments(self, seed: int, warmup: str) -> list[str]:
        """Return the options as Locust's command line takes them."""
        options = self.options | {"seed": str(seed), "warmup": warmup}
        if self.run_time_s is not None:
            options["run_time"] = f"{self.run_time_s:.0f}s"
        return [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", value)]


def _as_key(sentence: str) -> str:
    """Spell Locust's options as the plan spells them: `--run-time 30s` is `run_time = "30s"` there."""
    options = re.sub(r"--([a-z][a-z-]*) (\d\S*)", lambda m: f'{m[1].replace("-", "_")} = "{m[2]}"', sentence)
    return re.sub(r"--([a-z][a-z-]*)", lambda m: m[1].replace("-", "_"), options)


class Plan(BaseModel):
    """A whole plan; see `scripts/plans/quick.toml` for one with comments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    description: str = ""
    backends: tuple[str, ...] = ()
    """None named: every backend that is installed. Options follow a name: `bentoml+batching`; in a file, the
    same may be written as a table `{backend = "bentoml", options = {batching = true}}`."""
    trials: int = Field(default=1, ge=1, le=SEEDS_APART)
    """Of each. The most, where the run is sequential; 20 then, if nothing else is said."""
    sequential: bool = False
    """Look after every block of trials, and stop when every pair of backends is settled."""
    margin: float = Field(default=MARGIN, gt=0, lt=1)
    """The difference that does not matter then, as a share."""
    seed: int = Field(default=1, ge=0, le=MOST_SEED)
    threads: int = Field(default=1, ge=1, le=1024)
    """Intra-op threads of the server, and the number of cores it gets."""
    warmup: str = "3s"
    """Load at the scenario's first rate before the measurement, kept out of every record."""
    warmup_requests: int = Field(default=0, ge=0, le=100_000)
    """Requests sent one after the other before that."""
    objectives: tuple[str, ...] = ()
    baseline: str = ""
    """The run that objectives such as `p99 < 1.2 * baseline` hold this one against."""
    price_cpu: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What an hour of a vCPU costs, in any currency."""
    price_memory: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What an hour of a GiB of memory costs."""
    scenario: tuple[Scenario, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _ceiling(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and table.get("sequential") and "trials" not in table:
            return {**table, "trials": CEILING}
        return table

    @field_validator("backends", mode="before")
    @classmethod
    def _keys(cls, entries: object) -> object:
        return [_key(each) for each in entries] if isinstance(entries, list | tuple) else entries

    @field_validator("margin", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        from scripts.comparing import share

        try:
            return share(value) if isinstance(value, str) else value
        except UserError as error:
            raise ValueError(f'{value!r} is not a share: write for example "5%"') from error

    @field_validator("warmup", mode="before")
    @classmethod
    def _span(cls, value: object) -> object:
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if isinstance(text, str):
            seconds(text)
        return text

    @field_validator("objectives")
    @classmethod
    def _parsed(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            objectives.parse(value)
        return values

    @model_validator(mode="after")
    def _check(self) -> Plan:
        for objective in self.objectives:
            if objectives.parse(objective).relative and not self.baseline:
                raise ValueError(
                    f'{objective!r} needs a run to be held against: write baseline = "results/RUN", or '
                    "--baseline RUN on the command line"
                )
        names = [scenario.name for scenario in self.scenario]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two scenarios are called {name!r}")
        return self

    @property
    def warmup_s(self) -> float:
        """Seconds of load before the measurement."""
        return seconds(self.warmup)

    def with_scenarios(self, names: Sequence[str]) -> Plan:
        """Keep the scenarios of those names.

        Raises:
            UserError: one of them is not in the plan.

        """
        known = {scenario.name: scenario for scenario in self.scenario}
        for name in names:
            if name not in known:
                raise UserError(f"Plan {self.name} has no scenario {name!r}; {nearest(name, known)}")
        return self.model_copy(update={"scenario": tuple(known[name] for name in names)}) if names else self


def _key(entry: object) -> object:
    """Write a backend that is given as a table as its name with its options."""
    if not isinstance(entry, Mapping):
        return entry
    example = 'write for example {backend = "bentoml", options = {batching = true}}'
    for key in entry:
        if key not in ("backend", "options"):
            raise ValueError(f"there is no key {key!r} in a backend; {example}")
    name, options = entry.get("backend"), entry.get("options", {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ValueError(f"a backend has a name and a table of options; {example}")
    for option, value in options.items():
        if not isinstance(value, OptionValue):
            raise ValueError(f"the option {option} = {value!r} must be a number, a text, true or false")
    return "+".join([name, *(f"{option}={text_of(value)}" for option, value in options.items())])


@dataclass(frozen=True)
class Step:
    """One trial to make: a backend under a scenario, the n-th time; `seed` is that of its arrivals."""

    backend: str
    scenario: Scenario
    trial: int
    order: int
    seed: int

    @property
    def path(self) -> str:
        """The trial's folder inside the run's."""
        return f"{self.backend}/{self.scenario.name}/{self.trial}"


def steps(plan: Plan, backends: Sequence[str]) -> list[Step]:
    """Return the trials in the order they are made: blocks of one trial of everything, each block shuffled.

    Blocks keep a slow drift of the machine from looking like a difference between backends; the same plan,
    seed and backends give the same order. In a block all backends get the same arrivals.
    """
    randomness = random.Random(plan.seed)
    ordered: list[Step] = []
    for trial in range(1, plan.trials + 1):
        block = [(backend, scenario) for backend in backends for scenario in plan.scenario]
        randomness.shuffle(block)
        for backend, scenario in block:
            seed = SEEDS_APART * plan.seed + trial
            ordered.append(Step(backend, scenario, trial, len(ordered) + 1, seed))
    return ordered


def shipped_plans() -> dict[str, Path]:
    """Return the plans that come with the project, by name."""
    return {file.stem: file for file in sorted(PLANS.glob("*.toml"))}


def read_plan(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Plan:
    """Read a plan by its shipped name or its path, with `changes` from the command line over it.

    Raises:
        UserError: it is not there, or something in it is wrong: which key, and what to write instead.

    """
    file = _find(name_or_path)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Plan {name_or_path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"Plan {name_or_path} cannot be read: {error}") from error
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    if given.get("sequential") and not table.get("sequential"):
        table.pop("trials", None)  # meant as a fixed number, not as a ceiling
    try:
        return Plan.model_validate({"name": file.stem} | _with_recordings(table, file.parent) | given)
    except ValidationError as error:
        raise UserError("\n".join(_sentences(error, name_or_path, table, given))) from error


def _with_recordings(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the paths of recordings from the plan's own folder, wherever a command is called from."""
    scenarios = table.get("scenario")
    if not isinstance(scenarios, list):
        return table
    return table | {"scenario": [_with_recording(each, folder) for each in scenarios]}


def _with_recording(scenario: object, folder: Path) -> object:
    if isinstance(scenario, dict) and isinstance(path := scenario.get("replay"), str) and path:
        return scenario | {"replay": str((folder / path).resolve())}
    return scenario


def _find(name_or_path: str) -> Path:
    shipped = shipped_plans()
    if name_or_path in shipped:
        return shipped[name_or_path]
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        if os.path.isfile(name_or_path):  # unlike pathlib's, False of a name that is too long
            return Path(name_or_path)
        raise UserError(
            f"There is no plan file {name_or_path}. Name one of {', '.join(shipped)}, or a .toml file."
        )
    if os.path.isfile(f"{name_or_path}.toml"):
        raise UserError(f"There is no plan {name_or_path!r}; did you mean the file {name_or_path}.toml?")
    raise UserError(f"There is no plan {name_or_path!r}; {nearest(name_or_path, shipped)}")


_TO_WRITE = {
    "greater_than_equal": "write {ge} or more",
    "greater_than": "write more than {gt}",
    "less_than_equal": "write {le} or less",
    "less_than": "write less than {lt}",
    "finite_number": "write a number that is finite",
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "write a whole number"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "write a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "write true or false"),
    "string_type": "write a text in quotes",
    "string_too_long": "write {max_length} characters or fewer",
    "string_pattern_mismatch": "write letters, digits, `.`, `_` and `-`, the first a letter or a digit",
    "tuple_type": 'write a list: ["…"]',
    "too_short": "write a [[scenario]] table",
    "missing": "write a [[scenario]] table",
}
"""What to write instead, by pydantic's name for what is wrong."""
_OPTIONS = {"objectives": "--objective"}
"""Options that are not called as their key is."""


def _sentences(
    error: ValidationError, plan: str, table: Mapping[str, Any], given: Mapping[str, Any]
) -> list[str]:
    """Say of each thing that is wrong where it is, in the plan or on the command line, and what to write."""
    found = error.errors(include_url=False)
    in_scenarios = any(each["loc"][:1] == ("scenario",) and len(each["loc"]) > 1 for each in found)
    # It counts the good scenarios only.
    told = [each for each in found if not (each["type"] == "too_short" and in_scenarios)]
    return [_sentence(each, plan, table, given) for each in told]


def _sentence(each: ErrorDetails, plan: str, table: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    key = str(each["loc"][0]) if each["loc"] else ""
    if each["type"] == "extra_forbidden":
        return f"Plan {plan}: there is no key {key!r}; {nearest(key, Plan.model_fields)}"
    if key in given:
        place, value = _OPTIONS.get(key, f"--{key.replace('_', '-')}"), f" {each['input']}"
    else:
        where = _where(each["loc"], table)
        place, value = f"Plan {plan}: {where}".removesuffix(": "), f" = {each['input']!r}"
    if each["type"] == "value_error":
        return f"{place}: {each['msg'].removeprefix('Value error, ')}"
    if each["type"] == "missing":
        value = " is missing"
    to_write = "write it as a [[scenario]] table" if (key, each["type"]) == ("scenario", "tuple_type") else ""
    to_write = to_write or _TO_WRITE.get(each["type"], each["msg"])
    return f"{place}{value}: {to_write.format(**each.get('ctx', {}))}"


def _where(loc: tuple[int | str, ...], table: Mapping[str, Any]) -> str:
    if len(loc) >= 2 and loc[0] == "scenario" and isinstance(loc[1], int):
        tables = table.get("scenario")
        found = tables[loc[1]] if isinstance(tables, list) else {}
        name = (
            found.get("name", f"number {loc[1] + 1}") if isinstance(found, dict) else f"number {loc[1] + 1}"
        )
        return " ".join(["scenario", str(name), *map(str, loc[2:])])
    return ".".join(map(str, loc))
