"""The project on disk: its root, and the frameworks that its folders hold.

A framework is a folder `services/NAME/` with a `service.toml`, and a file `locustfiles/NAME_user.py`. No
other code names one.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scripts.environments import Environment
from scripts.errors import UserError, nearest
from scripts.facts import PROTOCOL, Facts, OptionValue, Program, Protocol, read_facts, text_of

ROOT_VARIABLE = "MODELSWARM_ROOT"


@dataclass(frozen=True)
class Service:
    """A framework found in the project; with `options`, a variant of it that is measured as a backend."""

    name: str
    folder: Path
    facts: Facts
    environment: Environment | None
    """None when the folder has no requirements.txt: the server runs on the load side's Python."""
    user_file: Path
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """What was chosen otherwise than service.toml's defaults; `protocol` is one of them."""
    image_is_real: bool = False
    """Of one that has a stand-in: whether its image holds the framework itself."""

    @property
    def key(self) -> str:
        """How a variant is named everywhere: `bentoml`, `bentoml+batching`, `kserve+protocol=grpc`."""
        return "+".join([self.name, *(_words(name, value, "") for name, value in self.options.items())])

    @property
    def title(self) -> str:
        """How a variant is called in a report: `BentoML (batching)`."""
        chosen = ", ".join(_words(name, value, f"{PROTOCOL}=") for name, value in self.options.items())
        return f"{self.facts.title} ({chosen})" if chosen else self.facts.title

    @property
    def protocol(self) -> str:
        """The protocol that is spoken."""
        return str(self.options.get(PROTOCOL, self.facts.protocol))

    @property
    def kind(self) -> str:
        """What is sent in the protocol that is spoken."""
        return (self._further and self._further.kind) or self.facts.kind

    @property
    def differs(self) -> list[str]:
        """What is not as in production, or as in the others' work, in the protocol that is spoken."""
        return [*self.facts.differs, *(self._further.differs if self._further else [])]

    @property
    def _further(self) -> Protocol | None:
        return self.facts.protocols.get(self.protocol)

    @property
    def user_protocol(self) -> str:
        """What Locust's `--protocol` is given: nothing for the framework's own."""
        return str(self.options.get(PROTOCOL, ""))

    def is_stand_in(self, target: str = "local") -> bool:
        """Tell whether what runs there only plays the framework's part."""
        program = self.facts.stand_in_unless
        here = bool(program and shutil.which(program))
        return self.facts.stand_in and not (here if target == "local" else self.image_is_real)

    @property
    def not_held(self) -> list[str]:
        """What the chosen options make unequal between backends, a sentence each."""
        options = [(self.facts.options.get(name), value) for name, value in self.options.items()]
        return [
            f"{self.title} {option.not_held.replace('{value}', text_of(value))}."
            for option, value in options
            if option and option.not_held
        ]

    @property
    def values(self) -> dict[str, str]:
        """Every option's value as text, chosen or default."""
        options = self.facts.options.items()
        return {name: text_of(self.options.get(name, option.default)) for name, option in options}

    @property
    def variables(self) -> dict[str, str]:
        """What tells the server its options, as environment variables."""
        return {self.facts.options[name].env: text for name, text in self.values.items()}

    def variant(self, options: Mapping[str, OptionValue]) -> Service:
        """Return the framework with these options; those at their default are left out.

        Raises:
            UserError: there is no such option, or it has no such value.

        """
        chosen = {name: self._read(name, value) for name, value in options.items()}
        defaults = {name: option.default for name, option in self.facts.options.items()}
        defaults[PROTOCOL] = self.facts.protocol
        kept = {name: chosen[name] for name in defaults if chosen.get(name, defaults[name]) != defaults[name]}
        return replace(self, options=kept)

    def _read(self, name: str, value: OptionValue) -> OptionValue:
        if name == PROTOCOL:
            known = [self.facts.protocol, *self.facts.protocols]
            if value not in known:
                raise UserError(f"{self.name} does not speak {value!r}; {nearest(str(value), known)}")
            return value
        if name not in self.facts.options:
            raise UserError(
                f"{self.name} has no option {name!r}; {nearest(name, [*self.facts.options, PROTOCOL])}"
            )
        try:
            return self.facts.options[name].read(value)
        except ValueError as error:
            raise UserError(f"The option {name} of {self.name} {error}") from error

    def describe(self, target: str = "local") -> dict[str, Any]:
        """Return what `run.json` tells of the backend in a run on that target."""
        facts = self.facts
        return {
            "backend": self.name,
            "options": dict(self.options),
            "title": self.title,
            "version": facts.version,
            "protocol": self.protocol,
            "kind": self.kind,
            "stand_in": self.is_stand_in(target),
            "note": facts.note,
            "differs": self.differs,
        }

    @property
    def python(self) -> Path:
        """The interpreter that runs the server."""
        return self.environment.interpreter if self.environment else Path(sys.executable)

    def listing(self) -> dict[str, Any]:
        """Return what `modelswarm list` shows of the framework, as plain values."""
        facts = self.facts
        further = {name: each.port or facts.port for name, each in facts.protocols.items()}
        options = {
            name: {"default": text_of(option.default), "help": option.help}
            for name, option in facts.options.items()
        }
        return {
            "name": self.name,
            "title": facts.title,
            "version": facts.version,
            "protocol": facts.protocol,
            "protocols": {facts.protocol: facts.port, **further},
            "port": facts.port,
            "kind": facts.kind,
            "options": options,
            "stand_in": self.is_stand_in(),
            "note": facts.note,
            "installed": (reason := self.missing()) is None,
            "missing": reason,
        }

    def missing(self) -> str | None:
        """Return why the framework cannot be measured now, or None when it can."""
        if not self.user_file.exists():
            return f"locustfiles/{self.user_file.name} is not there"
        if self.environment is not None and (state := self.environment.state()) != "fresh":
            return f"its environment is {state}: run `modelswarm setup {self.name}`"
        chosen = [self.facts.options[name].needs for name in self.options if name in self.facts.options]
        for needs in [self.facts.local.needs, *chosen]:
            for name, program in needs.items():
                if reason := _unfit(name, program):
                    return f"{reason}: install {program.install}"
        for library, advice in self.facts.local.libraries.items():
            if not _loads(library):
                return f"{library} is not here: install {advice}"
        return None


def _words(name: str, value: OptionValue, unsaid: str) -> str:
    """Write a chosen option: `batching`, `workers=2`; without the beginning `unsaid`."""
    return name if value is True else f"{name}={text_of(value)}".removeprefix(unsaid)


def _unfit(name: str, program: Program) -> str | None:
    """Return why a program cannot be used, None when it can."""
    home = os.environ.get(program.home) if program.home else None
    path = shutil.which(f"{home}/bin/{name}" if home else name)
    if path is None:
        return f"{program.home}={home} has no `bin/{name}`" if home else f"`{name}` is not on PATH"
    if program.version is None:
        return None
    found = _version_of(path)
    if found is None:
        return f"`{path} -version` names no version"
    return f"`{path}` is of version {found}" if found < program.version else None


def _version_of(path: str) -> int | None:
    """Return the first number of the version that a program names in quotes, as Java does."""
    try:
        told = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'"(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(found[1]) if found else None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def split_key(key: str) -> tuple[str, dict[str, OptionValue]]:
    """Take a backend's name with its options apart: `bentoml+batching+workers=2`."""
    name, *options = key.split("+")
    split = [option.partition("=") for option in options]
    return name, {option: text if equals else True for option, equals, text in split}


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
        """Return the frameworks of those names, in that order, each with the options after its name.

        Raises:
            UserError: one of them is not there.

        """
        found, chosen = self.services(), dict[str, Service]()
        for key in names:
            name, options = split_key(key)
            if name not in found:
                raise UserError(f"There is no backend {name!r}; {nearest(name, found)}")
            variant = found[name].variant(options)
            chosen.setdefault(variant.key, variant)
        return list(chosen.values())

    def model_environment(self) -> Environment | None:
        """Return the environment that makes the export, or None in a project without one."""
        return self._environment(self.root / "services" / "model", None)

    def _service(self, file: Path) -> Service:
        folder, facts = file.parent, read_facts(file)
        return Service(
            name=folder.name,
            folder=folder,
            facts=facts,
            environment=self._environment(folder, facts.wanted_python(sys.version_info[:2])),
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
