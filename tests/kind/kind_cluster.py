"""kubectl and kustomize, as the tests in kind use them."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from scripts.cluster import kind
from tests.kind.kube_files import Object
from tests.projects import ROOT

NAMESPACE = "modelswarm-test"


def run(*command: str, text: str | None = None, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=ROOT
    )


def rendered(folder: Path) -> list[Object]:
    done = run("kubectl", "kustomize", str(folder))
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def in_namespace(objects: Sequence[Object], namespace: str = NAMESPACE) -> list[Object]:
    """The same objects elsewhere."""
    found = copy.deepcopy(list(objects))
    for each in found:
        if each["kind"] == "Namespace":
            each["metadata"]["name"] = namespace
        elif "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = namespace
    return found


@dataclass(frozen=True)
class Cluster:
    """The kind cluster, through kubectl, in one namespace."""

    namespace: str = NAMESPACE

    def kubectl(self, *words: str, text: str | None = None, timeout_s: float = 300) -> str:
        done = self.attempt(*words, text=text, timeout_s=timeout_s)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def attempt(
        self, *words: str, text: str | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        place = ("--namespace", self.namespace) if self.namespace else ()
        context = ("--context", kind.CONTEXT, *place)
        return run("kubectl", *context, *words, text=text, timeout_s=timeout_s)

    def apply(self, objects: Sequence[Object], *options: str) -> str:
        return self.kubectl("apply", "-f", "-", *options, text=yaml.safe_dump_all(objects))

    def wait(self, deployment: str, timeout_s: int = 240) -> None:
        """Wait until it is ready; fail with what its pods and their events say."""
        done = self.attempt(
            "rollout",
            "status",
            f"deployment/{deployment}",
            f"--timeout={timeout_s}s",
            timeout_s=timeout_s + 30,
        )
        if done.returncode:
            pods = f"app.kubernetes.io/name={deployment}"
            said = self.attempt("logs", "-l", pods, "--tail=30", "--all-containers").stdout
            events = self.attempt("get", "events", "--sort-by=.lastTimestamp").stdout[-2000:]
            pytest.fail(f"{deployment} is not ready: {done.stderr}\n{said}\n{events}")
