"""Real runs of a server that was made slower: is it found, and is nothing found where nothing changed?

Trials are 8 s long, which makes it harder. As long as they should be: MODELSWARM_TRIAL_S=30 pytest FILE.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.echo import HERE, EchoProject, echo_project

pytestmark = [pytest.mark.e2e, pytest.mark.long]
PLAN = f"""
trials = 5
warmup = "1s"
[[scenario]]
name = "light"
shape = "poisson"
rate = 80
run_time = "{os.environ.get("MODELSWARM_TRIAL_S", "8")}s"
"""
TIMES = {"base": "1", "again": "1", "near": "1.01", "slower": "1.1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProject]:
    """A project whose server takes 100 ms, more or less."""
    with echo_project(tmp_path_factory.mktemp("detection")) as made:
        shutil.copy(HERE / "mmc_server.py", made.root / "services" / "echo_x" / "server.py")
        yield made


@pytest.fixture(scope="module")
def runs(project: EchoProject) -> dict[str, Path]:
    """A run for each of the servers."""
    found = {}
    for name, times in TIMES.items():
        done = project.call("run", project.plan(PLAN), "--target", "local", MMC_STEADY="1", MMC_TIMES=times)
        assert done.returncode == 0, done.stderr
        found[name] = project.run_folder()
    return found


def verdicts(project: EchoProject, base: Path, new: Path) -> tuple[int, dict[str, str]]:
    """The exit status of a comparison, and the verdict on each metric."""
    done = project.call("compare", str(base), str(new), "--json")
    rows = json.loads(done.stdout)["rows"]
    return done.returncode, {row["metric"]: row["verdict"] for row in rows}


def test_a_server_made_10_percent_slower_is_found_slower(project: EchoProject, runs: dict[str, Path]) -> None:
    status, found = verdicts(project, runs["base"], runs["slower"])
    assert "slower" in (found["p50"], found["p95"])
    assert status == 1


def test_a_server_made_1_percent_slower_is_equivalent_within_5(
    project: EchoProject, runs: dict[str, Path]
) -> None:
    status, found = verdicts(project, runs["base"], runs["near"])
    assert (status, found["p50"]) == (0, "equivalent")


def test_the_same_server_again_is_neither_faster_nor_slower(
    project: EchoProject, runs: dict[str, Path]
) -> None:
    status, found = verdicts(project, runs["base"], runs["again"])
    assert status == 0
    assert not {"faster", "slower"} & set(found.values())
