"""The login before Locust's web UI, as it stands in a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest

from scripts.server import free_port
from tests.projects import ROOT

pytestmark = pytest.mark.e2e
FILES = f"{ROOT}/locustfiles/fastapi_user.py,{ROOT}/locustfiles/web_login.py"


def locust(port: int, **variables: str) -> subprocess.Popen[str]:
    words = ["-f", FILES, "--web-login", "--web-host", "127.0.0.1", "--web-port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "locust", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A web UI with the password `right`."""
    port = free_port()
    process = locust(port, MODELSWARM_WEB_PASSWORD="right")
    where, pause, deadline = f"http://127.0.0.1:{port}", threading.Event(), time.monotonic() + 60
    while True:
        try:
            build_opener().open(f"{where}/login", timeout=5).close()
            break
        except (URLError, OSError):
            assert time.monotonic() < deadline
            pause.wait(0.1)
    yield where
    process.kill()
    process.communicate()


def log_in(url: str, name: str, password: str) -> OpenerDirector:
    browser = build_opener(HTTPCookieProcessor())
    form = urlencode({"username": name, "password": password}).encode()
    with browser.open(f"{url}/check-login", form, timeout=10) as page:
        page.read()
    return browser


def sees(browser: OpenerDirector, url: str) -> bool:
    try:
        with browser.open(f"{url}/stats/requests", timeout=10) as page:
            return bool(page.url.endswith("/stats/requests") and b"stats" in page.read())
    except HTTPError:
        return False


class TestTheLogin:
    def test_lets_in_who_has_the_password(self, url: str) -> None:
        assert sees(log_in(url, "locust", "right"), url)

    @pytest.mark.parametrize(("name", "password"), [("locust", "wrong"), ("root", "right"), ("locust", "")])
    def test_keeps_out_everybody_else(self, url: str, name: str, password: str) -> None:
        assert not sees(log_in(url, name, password), url)
        assert not sees(build_opener(), url)

    def test_without_a_password_does_not_start(self) -> None:
        process = locust(free_port(), MODELSWARM_WEB_PASSWORD="")
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "set the variable MODELSWARM_WEB_PASSWORD" in output
