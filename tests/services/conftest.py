"""What tests of the frameworks share: the export, and a matrix of what conforms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.services.environments import MODEL


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "server: starts a framework's real server from its environment")


CASES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the conformance tests of one backend together, so that it is started once."""
    ours = [index for index, item in enumerate(items) if item.path.stem == "test_conformance"]
    config.stash[CASES] = list(dict.fromkeys(items[index].cls.__name__ for index in ours))
    ordered = sorted((items[index] for index in ours), key=lambda item: item.callspec.params["name"])
    for index, item in zip(ours, ordered, strict=True):
        items[index] = item


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what the conformance tests found: a row for each backend and protocol, a column for each case."""
    looks = {"passed": "ok", "skipped": "-", "error": "FAILED", "failed": "FAILED"}
    cells: dict[tuple[str, str], str] = {}
    for outcome, look in looks.items():  # the worst is written last
        for report in terminalreporter.stats.get(outcome, []):
            if found := re.search(r"test_conformance\.py::(\w+)::\w+\[(.+)\]", report.nodeid):
                cells[found[2], found[1]] = look
    if not cells:
        return
    whole = {row for row, _ in cells if "-" not in row}
    rows = [["", *(case.removeprefix("Test") for case in config.stash[CASES])]]
    for row in sorted({row for row, _ in cells} - whole):
        name = row.partition("-")[0]
        rows.append(
            [row, *(cells.get((row, case), cells.get((name, case), "")) for case in config.stash[CASES])]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("conformance")
    for line in rows:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


@pytest.fixture(scope="session")
def model_dir() -> Path:
    if not (MODEL / "manifest.json").exists():
        pytest.skip("artifacts/model is not there; `make setup` makes it")
    return MODEL
