"""What `make` makes of the command's exit statuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

COMMAND = """#!/bin/sh
echo "$@"
case $1 in setup) exit {setup} ;; *) exit {run} ;; esac
"""


@pytest.mark.parametrize(
    ("setup", "run", "goes_on", "status"),
    [
        (0, 0, True, 0),
        (0, 1, True, 1),
        (3, 0, True, 3),  # one backend could not be made: the others are measured
        (3, 1, True, 3),
        (0, 2, True, 2),
        (2, 0, False, 2),
    ],
)
def test_a_loadtest_goes_on_with_what_could_be_made_and_does_not_hide_the_rest(
    root: Path, tmp_path: Path, setup: int, run: int, goes_on: bool, status: int
) -> None:
    command = tmp_path / "modelswarm"
    command.write_text(COMMAND.format(setup=setup, run=run))
    command.chmod(0o755)
    done = subprocess.run(
        ["make", "loadtest", "--old-file=env", f"bin={tmp_path}", "BACKENDS=a b", "PLAN=mine", "ARGS=--yes"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    called = ["setup a b --plan mine --target auto", "run mine --backends a b --target auto --yes"]
    assert done.stdout.splitlines() == called[: 1 + goes_on]
    assert bool(done.returncode) == bool(status)
    assert not status or f"loadtest] Error {status}\n" in done.stderr
