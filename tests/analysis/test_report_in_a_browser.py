"""The report in a real headless Chromium: on a phone, in the dark, without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from analysis.report import write_report
from tests.analysis.folders import TrialSpec, steady, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    folder = tmp_path_factory.mktemp("report")
    names = ("fastapi", "bentoml", "a_server_with_a_rather_long_name")
    specs = [
        TrialSpec(steady(40 * (i + 1), 20, 50, seed=i), backend, scenario)
        for scenario in ("constant", "poisson-10-users-50")
        for i, backend in enumerate(names)
    ]
    specs.append(TrialSpec(steady(9), "dead", status="failed", error="a sentence without an end " * 20))
    run = write_run(folder / "run", specs, command="modelswarm run " + "x" * 300, objectives=["p95 < 100ms"])
    write_report(run)
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS.split(), f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = CHROMIUM or ""
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get((run / "report.html").as_uri())
    yield driver
    driver.quit()


def show(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def ask(browser: webdriver.Chrome, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")


def luminance(colour: str) -> float:
    """Relative luminance of a CSS ``rgb()`` as WCAG 2 defines it."""
    channels = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", [360, 400, 768, 1280])
def test_the_page_never_scrolls_sideways(browser: webdriver.Chrome, width: int) -> None:
    show(browser, width, "light")
    assert ask(browser, "document.documentElement.scrollWidth") <= width
    assert ask(browser, "Math.min(...[...document.querySelectorAll('svg')].map(e => e.clientWidth))") > 250


def test_the_answer_and_every_verdict_are_on_a_phones_first_two_screens(browser: webdriver.Chrome) -> None:
    show(browser, 400, "light")
    table = "document.querySelector('.headline')"
    assert ask(browser, "document.querySelector('.answer').getBoundingClientRect().bottom") < 900
    assert ask(browser, f"{table}.getBoundingClientRect().bottom") < 1800
    right = ask(
        browser, f"{table}.querySelector('tr:nth-child(2) td:last-child').getBoundingClientRect().left"
    )
    assert right < 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "what", ["body", ".note", ".second", "td.good", "td.bad", "td.dim", "thead th", ".chips li"]
)
def test_text_stands_out_from_its_ground(browser: webdriver.Chrome, scheme: str, what: str) -> None:
    show(browser, 1280, scheme)
    ink = ask(browser, f"getComputedStyle(document.querySelector('{what}')).color")
    ground = ask(browser, "getComputedStyle(document.body).backgroundColor")
    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)  # WCAG 2 level AA
    assert (luminance(ground) > 0.5) is (scheme == "light")


def test_the_page_loads_without_a_complaint(browser: webdriver.Chrome) -> None:
    browser.refresh()
    assert browser.get_log("browser") == []
    assert ask(browser, "performance.getEntriesByType('resource').length") == 0
