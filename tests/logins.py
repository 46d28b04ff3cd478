"""Callers of Locust's web UI, with and without its login."""

from __future__ import annotations

from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener


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


def answer(url: str, method: str, path: str) -> tuple[int, str]:
    """Status and where it sends the caller to, which is not followed."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        return response.status, urlsplit(response.getheader("Location", "")).path
    finally:
        connection.close()
