"""Keep a run's report as the project's example: `python -m scripts.example_report [RUN]`.

`docs/example-report/` gets the report in its three forms, what the run tells of itself, and pictures of the
page taken with Chromium, the first of which the README shows.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from scripts.errors import OK, UNMEASURED, CannotRun, UserError
from scripts.project import Project
from scripts.reporting import find_run, report_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

KEPT = ("report.html", "report.md", "report.json", "junit.xml", "run.json")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class Picture(NamedTuple):
    """A picture of the page: what it shows first, in which scheme and size."""

    name: str
    at: str
    scheme: str
    width: int
    height: int


PICTURES = (
    Picture("report.png", "header", "light", 1280, 1000),
    Picture("report-dark.png", "header", "dark", 1280, 1000),
    Picture("time.png", "#time", "light", 1280, 1000),
    Picture("phone.png", "header", "light", 400, 860),
)


def keep(run: Path, folder: Path, root: Path, console: Console) -> int:
    """Write the report of `run` again and copy it to `folder` with its pictures; return its exit status.

    Raises:
        UserError: it is no run, or its files name folders of this machine.
        CannotRun: there is no Chromium.

    """
    status = report_run(run, console)
    files = [run / name for name in KEPT if (run / name).exists()]
    for file in files:
        if str(root) in file.read_text(encoding="utf-8"):
            raise UserError(f"{file} names {root}: make the run with paths relative to the project.")
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder / file.name)
    photograph(folder / "report.html", PICTURES)
    (folder / "README.md").write_text(_words(run / "run.json"), encoding="utf-8")
    return status


def _words(run_json: Path) -> str:
    command = json.loads(run_json.read_text(encoding="utf-8")).get("command") or "not recorded"
    return (
        "# An example report\n\nOpen [report.html](report.html); [report.md](report.md) and "
        "[report.json](report.json) have the same numbers, and [report.schema.json](../report.schema.json) "
        f"tells what is in the latter. Made with\n\n```\n{command}\npython -m scripts.example_report\n```\n\n"
        "![The first screen](report.png)\n\n![Latency, CPU, memory and events over time](time.png)\n"
    )


def photograph(page: Path, pictures: tuple[Picture, ...]) -> None:
    """Take pictures of a page beside it.

    Raises:
        CannotRun: there is no Chromium.

    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise CannotRun("Pictures need Chromium: apt-get install chromium chromium-driver.")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            browser.get(page.resolve().as_uri())
            for picture in pictures:
                page.with_name(picture.name).write_bytes(_taken(browser, picture))
        finally:
            browser.quit()


def _taken(browser: Chrome, picture: Picture) -> bytes:
    size = {"width": picture.width, "height": picture.height, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "mobile": picture.width < 600})
    scheme = {"name": "prefers-color-scheme", "value": picture.scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_script("document.querySelector(arguments[0]).scrollIntoView()", picture.at)
    return base64.b64decode(browser.get_screenshot_as_base64())


def main() -> int:
    """Keep the run that is named, or the latest."""
    project = Project(Path.cwd())
    try:
        run = find_run(project, sys.argv[1] if len(sys.argv) > 1 else "latest")
        folder = project.root / "docs" / "example-report"
        status = keep(run, folder, project.root, Console())
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(folder)
    return UNMEASURED if status == UNMEASURED else OK


if __name__ == "__main__":
    sys.exit(main())
