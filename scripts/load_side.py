"""The load side's own environment, `.venv`: Locust, the analysis and the `modelswarm` command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from scripts.environments import (
    BASE_PYTHON,
    Environment,
    find_uv,
    install,
    pip_settings,
    run_step,
    uv_environment,
)
from scripts.errors import CannotRun


def load_side(root: Path) -> Environment:
    """Return the environment that runs the command, its tests and its linters."""
    files = ("requirements.txt", "requirements-dev.txt", "pyproject.toml")
    return Environment("load side", root / ".venv", tuple(root / name for name in files))


def make_load_side(folder: str) -> int:
    """Make or update `.venv`; return the exit status."""
    root = Path(folder)
    environment = load_side(root)
    try:
        state = environment.state()
        if state == "fresh":
            return 0
        print(f"Setting up .venv ({state}) …", flush=True)
        variables = uv_environment(os.environ, pip_settings(os.environ))
        uv = find_uv(root) if state == "outdated" else None
        uv = uv or _make_empty(environment, variables)
        install(environment, uv, variables, _say, extra=("--editable", str(root)))
    except CannotRun as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. What is half made is made again by the next `make setup`.", file=sys.stderr)
        return 130
    return 0


def _make_empty(environment: Environment, variables: Mapping[str, str]) -> str:
    """Make the environment anew, with uv from PATH if it is there and with pip's uv inside it if not."""
    outside = shutil.which("uv", path=_path_without(environment.path / "bin"))
    environment.remove()
    if outside:
        command = [outside, "venv", "--quiet", "--python", BASE_PYTHON, str(environment.path)]
        run_step(command, variables, _say)
        return outside
    run_step([BASE_PYTHON, "-m", "venv", str(environment.path)], variables, _say)
    run_step([str(environment.interpreter), "-m", "pip", "install", "--quiet", "uv"], os.environ, _say)
    return str(environment.path / "bin" / "uv")


def _path_without(folder: Path) -> str:
    """PATH less the environment's own programs: making it anew removes them."""
    return os.pathsep.join(part for part in os.get_exec_path() if Path(part).resolve() != folder.resolve())


def _say(line: str) -> None:
    """Pass on what a tool says, less its line per package."""
    if line.strip()[:2] not in ("+ ", "- ", "~ "):
        print(f"  {line}", flush=True)
