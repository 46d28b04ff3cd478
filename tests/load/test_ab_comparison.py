"""Two variants behind one address, told apart by a real Locust and compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from analysis.ab import compare_variants
from analysis.runfolder import read_run
from tests.load.processes import HERE, Locusts, Server


@pytest.fixture
def split_server() -> Iterator[Server]:
    """Green takes 50 % longer than blue."""
    command = [sys.executable, str(HERE / "split_server.py"), "--green-delay", "0.015"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield Server(process, int(process.stdout.readline()))
    process.kill()
    process.wait()


@pytest.mark.e2e
@pytest.mark.parametrize(
    "how", [("header:X-Variant", "--processes", "2"), ("field:model.version",)], ids=["header", "field"]
)
def test_variants_are_recorded_by_name_and_compared(
    locusts: Locusts, split_server: Server, how: tuple[str, ...]
) -> None:
    load = ("--rate", "60", "--run-time", "8s", "--check", "status")
    summary = locusts.run(split_server, *load, "--variant-by", *how)
    (trial,) = read_run(locusts.record).trials
    found = compare_variants([trial], {"blue": 1, "green": 1}, "blue")
    assert found.control.requests + found.treatment.requests == summary["counts"]["sent"]
    assert (found.verdict, found.split_is_wrong) == ("slower", False)
    assert found.low_ms < 5.1 < found.high_ms + 1  # half of 10 ms, as a mean of the log-normal law
    names = {line.name: line.requests for line in trial.locust.requests}
    assert names == {"blue": found.control.requests, "green": found.treatment.requests}
    assert trial.log.tag("latency").count.sum() == summary["counts"]["sent"]
