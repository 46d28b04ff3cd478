"""Locust's web UI with the engine's options, in a real headless Chromium."""

from __future__ import annotations

import csv
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from locustfiles.engine.options import OPTIONS
from scripts.server import free_port
from tests.load.processes import Locusts
from tests.waiting import until

pytestmark = pytest.mark.e2e


class Page:
    """What a person does on Locust's page."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self._browser = browser
        self._wait = WebDriverWait(browser, 20)
        browser.get(url)

    def find(self, xpath: str) -> WebElement:
        found: WebElement = self._wait.until(lambda browser: browser.find_element(By.XPATH, xpath))
        return found

    def press(self, text: str) -> None:
        self.find(f"//button[normalize-space()='{text}']").click()

    def open_parameters(self) -> None:
        self.press("Custom parameters")
        self._wait.until(lambda _: self.find("//input[@name='rate']").is_displayed())

    def fill(self, name: str, value: str) -> None:
        field = self.find(f"//input[@name='{name}']")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def shows(self, text: str) -> None:
        self.find(f'//*[contains(normalize-space(text()), "{text}")]')

    @property
    def text(self) -> str:
        return str(self._browser.page_source)


@pytest.fixture
def page(steady_server: Any, locusts: Locusts, browser: webdriver.Chrome) -> Page:
    port = free_port()
    locusts.start(
        *("--host", steady_server().url, "--web-host", "127.0.0.1", "--web-port", str(port)),
        *("--processes", "2", "--rate", "20", "--payload", "small", "--record", str(locusts.record)),
    )
    url = f"http://127.0.0.1:{port}/"

    def workers_are_there() -> bool:
        try:
            with urllib.request.urlopen(f"{url}worker-count", timeout=5) as answer:
                return b"2" in answer.read()
        except OSError:
            return False

    until(workers_are_there, "two workers are there")
    return Page(browser, url)


def planned_by_second(record: Path) -> list[int]:
    """Planned arrivals of each second, all workers together, the first and last second left out."""
    path = record / "generator.csv"
    if not path.exists():
        return []
    sums: dict[int, int] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            second = int(float(row["time"]))
            sums[second] = sums.get(second, 0) + int(row["planned"])
    return [sums[second] for second in sorted(sums)][1:-1]


class TestTheStartForm:
    def test_shows_every_option_with_its_help_text(self, page: Page) -> None:
        page.open_parameters()
        for option in OPTIONS:
            assert option.help.replace("&", "&amp;") in page.text, option.flag

    def test_says_what_is_wrong_instead_of_starting(self, page: Page) -> None:
        page.open_parameters()
        page.fill("rate", "-5")
        page.press("Start")
        page.shows("'-5' is not an arrival rate")


class TestARunningTest:
    def test_starts_changes_its_rate_stops_and_starts_again(self, page: Page, locusts: Locusts) -> None:
        page.press("Start")
        until(lambda: 20 in planned_by_second(locusts.record), "20 arrivals a second are made")
        page.press("Edit")
        page.open_parameters()
        page.fill("rate", "80")
        page.press("Update")
        until(lambda: 80 in planned_by_second(locusts.record), "the rate is 80")
        page.press("Stop")
        until((locusts.record / "summary.json").exists, "the summary is written")
        assert locusts.summary()["failures"] == {}
        page.press("New")
        page.press("Start")
        second = locusts.folder / "record-2"
        until(lambda: 80 in planned_by_second(second), "the second test is at 80")
        page.press("Stop")
        until((second / "summary.json").exists, "the second summary is written")
