"""The project's own example: a run's report with pictures of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from scripts.errors import UserError
from scripts.example_report import PICTURES, keep
from tests.analysis.folders import TrialSpec, steady, write_run

pytestmark = pytest.mark.e2e
PNG = b"\x89PNG\r\n"


def test_keeps_the_report_with_its_pictures_and_the_command(tmp_path: Path, browser: object) -> None:
    run = write_run(tmp_path / "run", [TrialSpec(steady(40)), TrialSpec(steady(60), "bentoml")])
    assert keep(run, tmp_path / "example", tmp_path / "project", Console(quiet=True)) == 0
    names = {path.name for path in (tmp_path / "example").iterdir()}
    assert {"report.html", "report.md", "report.json", "run.json", "README.md"} < names
    for picture in PICTURES:
        content = (tmp_path / "example" / picture.name).read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 10_000
    assert "modelswarm run quick --seed 1" in (tmp_path / "example" / "README.md").read_text()


def test_refuses_a_run_that_names_folders_of_this_machine(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [TrialSpec(steady(40))], command=f"modelswarm run {tmp_path}/plan.toml")
    with pytest.raises(UserError, match="make the run with paths relative to the project"):
        keep(run, tmp_path / "example", tmp_path, Console(quiet=True))
    assert not (tmp_path / "example").exists()
