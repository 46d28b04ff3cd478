"""The frameworks' folders and environments, and code that tests run in one."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.projects import ROOT

SERVICES = ROOT / "services"
MODEL = ROOT / "artifacts" / "model"


def facts_of(name: str) -> dict[str, Any]:
    return tomllib.loads((SERVICES / name / "service.toml").read_text(encoding="utf-8"))


def names() -> list[str]:
    return sorted(path.parent.name for path in SERVICES.glob("*/service.toml"))


def interpreter_of(name: str) -> Path:
    """The Python of a framework's environment; skips the test where it is not installed."""
    python = ROOT / ".venvs" / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"the environment .venvs/{name} is not installed; `make setup` makes it")
    return python


def run_in(
    name: str, code: str, *arguments: object, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run code in a framework's environment, from the project's root."""
    return subprocess.run(
        [interpreter_of(name), "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
