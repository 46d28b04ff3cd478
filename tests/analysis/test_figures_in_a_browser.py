"""Figures of one scenario and of many backends, in a real headless Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver

from analysis.report import write_report
from tests.analysis.folders import TrialSpec, steady, write_run
from tests.analysis.test_report_in_a_browser import ask, show

pytestmark = pytest.mark.e2e


def test_a_figure_alone_in_its_row_is_wide_and_its_text_is_not_large(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", [TrialSpec(steady(40)), TrialSpec(steady(60), "bentoml")])
    write_report(run)
    browser.get((run / "report.html").as_uri())
    show(browser, 1280, "light")
    figure = "document.querySelector('#distribution ~ .plots > figure')"
    assert 800 <= ask(browser, f"{figure}.clientWidth") <= 900
    assert ask(browser, f"{figure}.clientHeight") < 900
    assert 10 < ask(browser, f"{figure}.querySelector('.tick').getBoundingClientRect().height") < 20
    assert ask(browser, "document.querySelector('#time ~ .plots > figure').clientWidth") <= 460


@pytest.mark.parametrize("width", [360, 640, 800, 901, 1000, 1140])
def test_the_headline_fits_with_a_long_name_and_verdict(
    browser: webdriver.Chrome, tmp_path: Path, width: int
) -> None:
    name = "a_server_with_a_rather_long_name+workers=2"
    full = TrialSpec(steady(400), name, dropped=300, saturated=True, verdict="suspect")
    specs = [TrialSpec(steady(40)), full]
    write_report(write_run(tmp_path / "run", specs))
    browser.get((tmp_path / "run/report.html").as_uri())
    show(browser, width, "light")
    assert ask(browser, "document.querySelector('.headline').textContent.includes('suspect, saturated')")
    assert ask(browser, "document.documentElement.scrollWidth") <= width
    assert ask(browser, "(e => e.scrollWidth - e.clientWidth)(document.querySelector('.headline'))") <= 0
