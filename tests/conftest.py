"""What all tests share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import locust  # noqa: F401  # before anything that imports ssl: gevent patches it, and only a fresh one
import pytest

from tests.projects import ROOT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,2400"
)


MINUTES = {
    "kind": "builds images and runs them in kind, for many minutes: make test-kind",
    "long": "makes real load for many minutes: make test-long",
}


def pytest_configure() -> None:
    """Let tests press Ctrl-C also where a shell has started them in the background, ignoring it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes many minutes, unless its marker was asked for."""
    for item in items:
        for marker, reason in MINUTES.items():
            if marker not in config.option.markexpr and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's own root."""
    return ROOT


@pytest.fixture(autouse=True)
def not_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests start does not know who runs them: neither reports to a CI job, nor is part of a `make`."""
    for name in ("GITHUB_STEP_SUMMARY", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in (*BROWSER_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = chromium
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()
