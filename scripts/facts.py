"""What `services/NAME/service.toml` says of a framework, read and checked.

Plain dataclasses, since pydantic would double the start of `modelswarm list`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from scripts.errors import UserError, nearest

OptionValue = bool | int | float | str
MEMORY = re.compile(r"([1-9]\d*)(Mi|Gi)")
"""How service.toml and the manifests write memory."""
PROTOCOL = "protocol"
"""The option that every framework has: which of its protocols is spoken."""


@dataclass(frozen=True)
class Program:
    """A program that a server needs (`needs = { java = "Java" }`, or a table of these)."""

    install: str
    """What to install where it is not there, or is too old."""
    home: str | None = None
    """A variable that names the folder whose `bin` holds it; where that is set, PATH does not count."""
    version: int | None = None
    """The first that will do, as `NAME -version` writes it: `"17.0.2"`; Java 8 calls itself `"1.8"`."""


@dataclass(frozen=True)
class Local:
    """How a server starts on this machine (`[local]` of service.toml)."""

    command: list[str] = field(default_factory=list)
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 10.0
    env: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    """Ports that the framework insists on; they are looked at before a run starts."""
    inner_ports: list[str] = field(default_factory=list)
    """Names of further ports that the server needs; `{port_NAME}` in the command is a free one."""
    key_file: str | None = None
    """A file that the server writes into its working folder, with the key that callers must send."""
    needs: dict[str, Program] = field(default_factory=dict)
    """Programs that the server needs besides its environment, by name."""
    libraries: dict[str, str] = field(default_factory=dict)
    """Shared libraries that the system must have, each with what to install where it does not."""


@dataclass(frozen=True)
class Protocol:
    """A further protocol of a framework (`[protocols.NAME]`), beside its own."""

    port: int | None = None
    """Its port in the container; None: it shares the framework's port."""
    path: str | None = None
    """Where predictions are asked for; None: the framework's `predict_path`."""
    kind: str | None = None
    """What is sent, where it is not what the framework's own protocol sends; then it is another task."""
    differs: list[str] = field(default_factory=list)
    """What differs in this protocol, beside what differs in all of the framework's."""


@dataclass(frozen=True)
class Option:
    """Something about a framework that a plan may choose (`[options.NAME]`)."""

    default: OptionValue
    help: str
    env: str
    """The environment variable that tells the server."""
    choices: list[OptionValue] = field(default_factory=list)
    not_held: str | None = None
    """What is then not equal between backends, after the variant's title; `{value}` is what was chosen."""
    needs: dict[str, Program] = field(default_factory=dict)
    """Programs that the server needs where this is not at its default."""
    local_only: str | None = None
    """Why it cannot be had in a cluster where it is not at its default."""
    memory_each: str | None = None
    """Of a number of processes: what each beyond the default adds to the pod's memory, such as `512Mi`."""

    def read(self, value: OptionValue) -> OptionValue:
        """Return a value from a plan or a command line as one of the option's kind.

        Raises:
            ValueError: it is none; the sentence ends one that names the option.

        """
        found: OptionValue | None = _READERS[type(self.default)](str(value))
        if found is None:
            raise ValueError(f"takes {_KINDS[type(self.default)]}, not {value!r}")
        if self.choices and found not in self.choices:
            raise ValueError(f"takes {' or '.join(map(text_of, self.choices))}, not {value!r}")
        return found


def text_of(value: OptionValue) -> str:
    """Write an option's value as the server and the command line have it: `true`, `2`, `fast`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


_READERS: dict[type, Any] = {
    bool: lambda text: {"true": True, "false": False}.get(text.lower()),
    int: lambda text: int(text) if re.fullmatch(r"[1-9]\d{0,8}", text) else None,
    float: _number,
    str: lambda text: text if re.fullmatch(r"[A-Za-z0-9._-]+", text) else None,
}
_KINDS = {
    bool: "true or false",
    int: "a whole number from 1",
    float: "a number",
    str: "a word of letters, digits, dots, dashes and underscores",
}


@dataclass(frozen=True)
class Facts:
    """What `service.toml` says of a framework."""

    title: str
    version: str
    protocol: str
    port: int
    predict_path: str
    ready_path: str
    local: Local
    kind: str = "image"
    """What is sent: `image`, the shared test images, or something of the framework's own, such as `text`."""
    ready_port: str | None = None
    """Name of the further port that `ready_path` is asked on; None: the framework's port."""
    metrics_path: str | None = None
    stand_in: bool = False
    stand_in_unless: str | None = None
    """A program: where it is on PATH, it is what runs on this machine, and no stand-in."""
    note: str = ""
    """What a reader of the report must know of the framework."""
    differs: list[str] = field(default_factory=list)
    python: str | None = None
    """A version or an interpreter that the environment must have; None: the one that makes it."""
    python_below: str | None = None
    """The first version that its packages have no wheels for: an older Python is taken instead."""
    image: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)

    def wanted_python(self, current: tuple[int, int]) -> str | None:
        """Return which Python the environment is to have, in uv's words; None: the current one will do."""
        if self.python or not self.python_below:
            return self.python
        below = int(self.python_below.partition(".")[2])
        return None if current < (3, below) else f">=3.11,<{self.python_below}"

    def ports(self) -> list[str]:
        """Return the names of the further ports: those of protocols, then inner ones."""
        return [name for name, each in self.protocols.items() if each.port] + self.local.inner_ports


def read_facts(file: Path) -> Facts:
    """Read and check one `service.toml`.

    Raises:
        UserError: naming the file, the key and what to write instead.

    """
    where = os.path.relpath(file, file.parents[2])
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    parts: dict[str, Any] = {
        "local": _build(Local, _table(table, "local", where), f"{where} [local]"),
        "protocols": _named(Protocol, _table(table, "protocols", where), f"{where} [protocols."),
        "options": _named(Option, _table(table, "options", where), f"{where} [options."),
    }
    facts = _build(Facts, table | parts, where)
    _check(facts, where)
    return facts


def _check(facts: Facts, where: str) -> None:
    if not facts.local.command:
        raise UserError(f'{where} [local] needs `command`, for example ["{{python}}", "{{dir}}/server.py"]')
    paths = [facts.predict_path, facts.ready_path, *(p.path for p in facts.protocols.values() if p.path)]
    for path in paths:
        if not path.startswith("/"):
            raise UserError(f"{where}: the path {path!r} must begin with a slash")
    for name in [*facts.protocols, *facts.options, *facts.local.inner_ports]:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(f"{where}: the name {name!r} must be of small letters, digits and underscores")
    if facts.python_below is not None and not re.fullmatch(r"3\.\d+", facts.python_below):
        raise UserError(f'{where}: python_below = {facts.python_below!r} must be a version such as "3.13"')
    if facts.protocol in facts.protocols:
        raise UserError(f"{where} [protocols.{facts.protocol}] is the framework's own protocol: leave it out")
    if PROTOCOL in facts.options:
        raise UserError(f"{where}: every framework has the option {PROTOCOL!r}: name this one otherwise")
    if facts.ready_port is not None and facts.ready_port not in facts.ports():
        raise UserError(
            f"{where}: ready_port = {facts.ready_port!r}; {nearest(facts.ready_port, facts.ports())}"
        )
    for name, option in facts.options.items():
        if option.memory_each is not None and not (
            type(option.default) is int and MEMORY.fullmatch(option.memory_each)
        ):
            raise UserError(
                f'{where} [options.{name}]: memory_each = {option.memory_each!r} must be such as "512Mi" or '
                '"1Gi", and goes with a number only'
            )
        try:
            option.read(option.default)
        except ValueError as error:
            raise UserError(f"{where} [options.{name}] {error}") from error


def _table(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Take a table out of a table."""
    found = table.pop(key, {})
    if not isinstance(found, dict):
        raise UserError(f"{where}: {key} = {found!r} must be a table [{key}]")
    return found


T = TypeVar("T", Local, Facts, Protocol, Option, Program)
N = TypeVar("N", Protocol, Option, Program)


def _named(kind: type[N], tables: Mapping[str, Any], where: str) -> dict[str, N]:
    built = {}
    for name, given in tables.items():
        table = {"install": given} if kind is Program and isinstance(given, str) else given
        if not isinstance(table, dict):
            raise UserError(f"{where}{name}] must be a table")
        built[name] = _build(kind, table, f"{where}{name}]")
    return built


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a table, checking names and kinds."""
    known = {each.name: each for each in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{where}: there is no key {key!r}; {nearest(key, known)}")
        expected = str(known[key].type)
        if not _fits(value, expected):
            raise UserError(f"{where}: {key} = {value!r} must be of the kind {expected}")
    programs = {"needs": _named(Program, table["needs"], f"{where[:-1]}.needs.")} if "needs" in table else {}
    try:
        return kind(**(dict(table) | programs))
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ")
        raise UserError(f"{where} lacks {missing}") from error


def _fits(value: object, expected: str) -> bool:
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "OptionValue": (bool, int, float, str),
    }
    expected = expected.removesuffix(" | None")
    if expected in kinds:
        return isinstance(value, kinds[expected]) and (bool in kinds[expected] or not isinstance(value, bool))
    if expected.startswith("list"):
        return isinstance(value, list)
    return not expected.startswith("dict") or isinstance(value, dict)
