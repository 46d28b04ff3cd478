"""What the tests of images and manifests read: folders under services/, and Kubernetes objects in files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.projects import ROOT

SERVICES = sorted(file.parent.name for file in ROOT.glob("services/*/service.toml"))
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile*")) + sorted(ROOT.glob("k8s/*/Dockerfile"))
MANIFESTS = [
    file
    for file in sorted([*ROOT.glob("services/*/manifest.yaml"), *ROOT.glob("k8s/**/*.yaml")])
    if file.name != "kustomization.yaml"
]
Object = dict[str, Any]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def facts(service: str) -> Object:
    return tomllib.loads((ROOT / "services" / service / "service.toml").read_text())


def k8s_name(service: str) -> str:
    return service.replace("_", "-")


def objects(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


@cache
def manifest(service: str) -> dict[str, Object]:
    """A framework's objects by kind; each kind comes once."""
    found = objects(ROOT / "services" / service / "manifest.yaml")
    kinds = [each["kind"] for each in found]
    assert len(set(kinds)) == len(kinds), f"{service}: {kinds}"
    return dict(zip(kinds, found, strict=True))


def pod_of(workload: Object) -> Object:
    return workload["spec"]["template"]["spec"]


def tracked() -> list[Path]:
    """The project's files as git has them."""
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and arguments, with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]
