"""The project on disk: its root, and the frameworks that its folders hold.

A framework is a folder `services/NAME/` with a `service.toml`, and a file `locustfiles/NAME_user.py`. Nothing
else in the project names one.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from scripts.environments import Environment
from scripts.errors import UserError, nearest

ROOT_VARIABLE = "MODELSWARM_ROOT"
T = TypeVar("T", "Local", "Facts")


@dataclass(frozen=True)
class Local:
    """How a server starts on this machine (`[local]` of service.toml)."""

    command: list[str] = field(default_factory=list)
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 10.0
    env: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    """Ports that the framework insists on; they are looked at before a run starts."""


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
    metrics_path: str | None = None
    stand_in: bool = False
    differs: list[str] = field(default_factory=list)
    python: str | None = None
    image: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Service:
    """A framework found in the project."""

    name: str
    folder: Path
    facts: Facts
    environment: Environment | None
    """None when the folder has no requirements.txt: the server runs on the load side's Python."""
    user_file: Path

    @property
    def python(self) -> Path:
        """The interpreter that runs the server."""
        return self.environment.interpreter if self.environment else Path(sys.executable)

    def missing(self) -> str | None:
        """Return why the framework cannot be measured now, or None when it can."""
        if not self.user_file.exists():
            return f"locustfiles/{self.user_file.name} is not there"
        if self.environment is not None and (state := self.environment.state()) != "fresh":
            return f"its environment is {state}: run `modelswarm setup {self.name}`"
        return None


@dataclass(frozen=True)
class Project:
    """The folder that holds `services/` and `locustfiles/`."""

    root: Path

    @property
    def model_dir(self) -> Path:
        """Where the one shared export lies."""
        return self.root / "artifacts" / "model"

    @property
    def results(self) -> Path:
        """Where runs go unless `--out` says otherwise."""
        return self.root / "results"

    def services(self) -> dict[str, Service]:
        """Return every framework by name, in alphabetical order.

        Raises:
            UserError: a service.toml cannot be read or lacks something.

        """
        files = sorted((self.root / "services").glob("*/service.toml"))
        return {file.parent.name: self._service(file) for file in files}

    def select(self, names: Iterable[str]) -> list[Service]:
        """Return the frameworks of those names, in that order.

        Raises:
            UserError: one of them is not there.

        """
        found = self.services()
        for name in names:
            if name not in found:
                raise UserError(f"There is no backend {name!r}; {nearest(name, found)}")
        return [found[name] for name in dict.fromkeys(names)]

    def model_environment(self) -> Environment | None:
        """Return the environment that makes the export, or None in a project without one."""
        return self._environment(self.root / "services" / "model", None)

    def _service(self, file: Path) -> Service:
        folder, facts = file.parent, read_facts(file)
        return Service(
            name=folder.name,
            folder=folder,
            facts=facts,
            environment=self._environment(folder, facts.python),
            user_file=self.root / "locustfiles" / f"{folder.name}_user.py",
        )

    def _environment(self, folder: Path, python: str | None) -> Environment | None:
        requirements = folder / "requirements.txt"
        if not requirements.exists():
            return None
        return Environment(folder.name, self.root / ".venvs" / folder.name, (requirements,), python)


def find_root(option: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Return the project's root: `option`, the variable, the nearest parent of `cwd`, else the package's own.

    Raises:
        UserError: the option or the variable names a folder that is no project.

    """
    named = option or (Path(environ[ROOT_VARIABLE]) if environ.get(ROOT_VARIABLE) else None)
    if named is not None:
        if not _is_project(named):
            raise UserError(
                f"{named} is no modelswarm project: it must hold the folders services and locustfiles."
            )
        return named.resolve()
    own = Path(__file__).resolve().parent.parent
    return next((folder for folder in [cwd, *cwd.parents] if _is_project(folder)), own)


def _is_project(folder: Path) -> bool:
    return (folder / "services").is_dir() and (folder / "locustfiles").is_dir()


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
    local = _build(Local, dict(table.pop("local", {})), f"{where} [local]")
    if not local.command:
        raise UserError(f'{where} [local] needs `command`, for example ["{{python}}", "{{dir}}/server.py"]')
    facts = _build(Facts, table | {"local": local}, where)
    for path in (facts.predict_path, facts.ready_path):
        if not path.startswith("/"):
            raise UserError(f"{where}: the path {path!r} must begin with a slash")
    return facts


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a table, checking names and kinds; pydantic would double the start of `list`."""
    known = {each.name: each for each in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{where}: there is no key {key!r}; {nearest(key, known)}")
        expected = str(known[key].type)
        if not _fits(value, expected):
            raise UserError(f"{where}: {key} = {value!r} must be of the kind {expected}")
    try:
        return kind(**table)
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ")
        raise UserError(f"{where} lacks {missing}") from error


def _fits(value: object, expected: str) -> bool:
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "str | None": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
    }
    if expected in kinds:
        return isinstance(value, kinds[expected]) and (expected == "bool" or not isinstance(value, bool))
    if expected.startswith("list"):
        return isinstance(value, list)
    return not expected.startswith("dict") or isinstance(value, dict)
