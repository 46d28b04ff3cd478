"""The report in a real headless Chromium: on a phone, in the dark, without a network."""

from __future__ import annotations

import re
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from analysis.report import write_report
from tests.analysis.folders import TrialSpec, steady, write_run

pytestmark = pytest.mark.e2e
NAMES = ("fastapi", "bentoml", "a_server_with_a_rather_long_name")


@pytest.fixture(scope="module")
def page(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> webdriver.Chrome:
    """The report of three backends in two scenarios and one that died, opened."""
    specs = [
        TrialSpec(steady(40 * (i + 1), 20, 50, seed=i), backend, scenario)
        for scenario in ("constant", "poisson-10-users-50")
        for i, backend in enumerate(NAMES)
    ]
    specs[0].events = [(3.2, "Unhealthy", "Readiness probe failed", "Warning")]
    specs.append(TrialSpec(steady(9), "dead", status="failed", error="a sentence without an end " * 20))
    run = write_run(
        tmp_path_factory.mktemp("report") / "run",
        specs,
        command="modelswarm run " + "x" * 300,
        objectives=["p95 < 100ms"],
    )
    write_report(run)
    browser.get((run / "report.html").as_uri())
    return browser


def show(page: webdriver.Chrome, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def ask(browser: webdriver.Chrome, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")


def luminance(colour: str) -> float:
    """Relative luminance of a CSS ``rgb()`` as WCAG 2 defines it."""
    channels = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", [360, 400, 768, 1280])
def test_the_page_never_scrolls_sideways(page: webdriver.Chrome, width: int) -> None:
    show(page, width, "light")
    assert ask(page, "document.documentElement.scrollWidth") <= width
    assert ask(page, "Math.min(...[...document.querySelectorAll('svg')].map(e => e.clientWidth))") > 250


def test_the_answer_and_every_verdict_are_on_a_phones_first_two_screens(page: webdriver.Chrome) -> None:
    show(page, 400, "light")
    table = "document.querySelector('.headline')"
    assert ask(page, "document.querySelector('.answer').getBoundingClientRect().bottom") < 900
    assert ask(page, f"{table}.getBoundingClientRect().bottom") < 1800
    right = ask(page, f"{table}.querySelector('tr:nth-child(2) td:last-child').getBoundingClientRect().left")
    assert right < 400


def test_each_row_of_a_table_is_named_by_its_first_cell(page: webdriver.Chrome) -> None:
    rows = "[...document.querySelectorAll('tbody tr')].filter(e => !e.querySelector('.group'))"
    assert ask(page, f"{rows}.length") > 20
    assert ask(page, f"{rows}.every(e => e.firstElementChild.matches('th[scope=row]'))")
    assert ask(page, f"{rows}.every(e => e.querySelectorAll('th').length === 1)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "what", ["body", ".note", ".second", "td.good", "td.bad", "td.dim", "thead th", ".chips li"]
)
def test_text_stands_out_from_its_ground(page: webdriver.Chrome, scheme: str, what: str) -> None:
    show(page, 1280, scheme)
    ink = ask(page, f"getComputedStyle(document.querySelector('{what}')).color")
    ground = ask(page, "getComputedStyle(document.body).backgroundColor")
    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)  # WCAG 2 level AA
    assert (luminance(ground) > 0.5) is (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_of_what_is_not_ranked_stand_out_too(page: webdriver.Chrome, scheme: str) -> None:
    show(page, 1280, scheme)
    name = "document.querySelector('#side ~ .plots svg .faint > .label')"
    assert ask(page, f"{name}.textContent") == "dead"
    assert ask(page, f"getComputedStyle({name}).opacity * getComputedStyle({name}.parentNode).opacity") == 1
    ink = ask(page, f"getComputedStyle({name}).fill")
    assert ink == ask(page, "getComputedStyle(document.querySelector('.note')).color")  # tested above


def test_the_page_loads_without_a_complaint(page: webdriver.Chrome) -> None:
    page.refresh()
    assert page.get_log("browser") == []
    assert ask(page, "performance.getEntriesByType('resource').length") == 0


class TestReadingValues:
    def plot(self, page: webdriver.Chrome) -> WebElement:
        show(page, 1280, "light")
        found: WebElement = page.find_element("css selector", "#time ~ .plots figure.b4 svg")
        return found

    def readout(self, page: webdriver.Chrome) -> str:
        return str(ask(page, "document.querySelector('#time ~ .plots figure.b4 .readout').textContent"))

    def test_by_the_keyboard_steps_through_the_seconds(self, page: webdriver.Chrome) -> None:
        plot = self.plot(page)
        page.execute_script("arguments[0].focus()", plot)
        plot.send_keys(Keys.HOME)
        assert self.readout(page).startswith("0 to 1 s: p50 ")
        plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        assert self.readout(page).startswith("2 to 3 s: p50 ")
        plot.send_keys(Keys.END)
        assert self.readout(page).startswith("19 to 20 s: p50 ")
        page.execute_script("arguments[0].blur()", plot)
        assert self.readout(page) == ""

    def test_by_pointing_shows_the_second_and_its_event(self, page: webdriver.Chrome) -> None:
        plot = self.plot(page)
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
        for name, told in (
            (".hover:nth-of-type(5)", "s: p50"),
            (".flag", "3 s: fastapi Unhealthy Readiness"),
        ):
            spot = plot.find_element("css selector", name)
            ActionChains(page).move_to_element(spot).perform()
            assert told in self.readout(page)

    def test_of_each_backend_side_by_side(self, page: webdriver.Chrome) -> None:
        show(page, 1280, "light")
        plot = page.find_element("css selector", "#side ~ .plots svg")
        page.execute_script("arguments[0].focus()", plot)
        told = []
        for key in (Keys.HOME, *[Keys.ARROW_RIGHT] * 3):
            plot.send_keys(key)
            told.append(str(ask(page, "document.querySelector('#side ~ .plots .readout').textContent")))
        page.execute_script("arguments[0].blur()", plot)
        assert [one.partition(":")[0] for one in told] == [
            "FastAPI",
            "BentoML",
            "a_server_with_a_rather_long_name",
            "dead",
        ]
        assert all("p95" in one for one in told)

    def test_can_be_reached_by_the_tabulator_alone(self, page: webdriver.Chrome) -> None:
        show(page, 1280, "light")
        read = "[...document.querySelectorAll('figure svg')].filter(e => e.querySelector('.hover'))"
        stops = ask(page, f"{read}.map(e => e.tabIndex)")
        assert len(stops) >= 2 * 3 * 2
        assert set(stops) == {0}


class TestChoosingBackends:
    def visible(self, page: webdriver.Chrome, series: int) -> int:
        return int(
            ask(
                page,
                f"[...document.querySelectorAll('.b{series}')].filter("
                "e => !e.matches('#differences ~ * tr') && e.getBoundingClientRect().width > 0).length",
            )
        )

    def test_hides_one_everywhere_and_shows_it_again(self, page: webdriver.Chrome) -> None:
        show(page, 1280, "light")
        before = self.visible(page, 4), self.visible(page, 2)
        box = page.find_element("css selector", "#show-b4")
        box.send_keys(Keys.SPACE)
        assert self.visible(page, 4) == 0
        assert self.visible(page, 2) == before[1]
        box.send_keys(Keys.SPACE)
        assert (self.visible(page, 4), self.visible(page, 2)) == before

    def test_hides_its_pairs_and_its_values_by_percentile(self, page: webdriver.Chrome) -> None:
        show(page, 1280, "light")
        pairs = "[...document.querySelectorAll('#differences ~ [aria-label^=Differences] tbody tr')]"
        shown = f"{pairs}.filter(e => e.checkVisibility()).map(e => e.textContent)"
        plot = page.find_element("css selector", "#distribution ~ .plots svg")
        box = page.find_element("css selector", "#show-b2")
        assert any("BentoML" in one for one in ask(page, shown))
        box.send_keys(Keys.SPACE)
        try:
            left = ask(page, shown)
            page.execute_script("arguments[0].focus()", plot)
            plot.send_keys(Keys.HOME)
            told = str(ask(page, "document.querySelector('#distribution ~ .plots .readout').textContent"))
            page.execute_script("arguments[0].blur()", plot)
        finally:
            box.send_keys(Keys.SPACE)
        assert any("FastAPI" in one for one in left)
        assert not any("BentoML" in one for one in left)
        assert "FastAPI" in told
        assert "BentoML" not in told

    @pytest.mark.parametrize(
        ("width", "height", "stays"), [(390, 844, False), (844, 390, False), (1280, 900, True)]
    )
    def test_does_not_cover_what_is_jumped_to(
        self, page: webdriver.Chrome, width: int, height: int, stays: bool
    ) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page.execute_script("document.querySelector('#time').scrollIntoView()")
        bottom = ask(page, "document.querySelector('.choose').getBoundingClientRect().bottom")
        assert (bottom > 0) is stays
        assert bottom < 70
        assert ask(page, "document.querySelector('#time').getBoundingClientRect().top") >= max(0, bottom)


def test_prints_every_table_and_plot_without_the_controls(page: webdriver.Chrome) -> None:
    show(page, 1000, "light")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not ask(page, "document.querySelector('.choose').checkVisibility()")
        plots = "[...document.querySelectorAll('main > section > .plots > figure svg')]"
        assert ask(page, f"{plots}.every(e => e.checkVisibility())")
        assert ask(page, "document.documentElement.scrollWidth") <= 1000
        a4 = {"width": 790, "height": 1120, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
        assert ask(page, "[...document.querySelectorAll('.headline th')].every(e => e.checkVisibility())")
        assert ask(page, "document.documentElement.scrollWidth") <= 790
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
