"""Is a server ready? Asked without importing Locust, which patches the process that it is in."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

READY_TIMEOUT_S = 5.0
MAX_READY_BYTES = 1 << 20


def unwell(url: str) -> str | None:
    """Return why a server's ready URL does not answer 200, None when it does."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=READY_TIMEOUT_S)
    try:
        connection.request("GET", place.path)
        answer = connection.getresponse()
        answer.read(MAX_READY_BYTES)  # else closing resets the connection: a fault in servers' logs
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"GET {place.path} answers {answer.status}"
