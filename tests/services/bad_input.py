"""What callers may send by mistake, in the words of each protocol."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from locustfiles.engine.payloads import Image
from locustfiles.engine.protocols import GrpcProtocol
from locustfiles.engine.v2 import JSON_LENGTH
from scripts.probe import Probe
from tests.services.backends import Backend

NO_IMAGES = {
    "a text instead of an image": b"hello",
    "nothing instead of an image": b"",
    "the head of a JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    "a GIF": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
}
NO_REQUESTS = {
    "no body": b"",
    "a body that is no request": b"hello",
    "a body that is not UTF-8": b'{"x": "\xff\xfe"}',
    "an empty object": b"{}",
    "an empty list": b"[]",
    "a number": b"1",
    "a truth": b"true",
    "a body nested too deeply": b"[" * 100_000,
}


def bad_requests(backend: Backend, probe: Probe, protocol: str) -> dict[str, Any]:
    """Requests of a protocol that hold no image, and bodies that are no requests of it; all carry the key."""
    with backend.with_key():
        return _bad_requests(backend, probe, protocol)


def _bad_requests(backend: Backend, probe: Probe, protocol: str) -> dict[str, Any]:
    user = probe.user
    facts = type(user).facts()
    spoken, special = user.choose(protocol, facts)
    path = special.get("path", facts["predict_path"])
    made: dict[str, Any] = {}
    if special.get("kind", backend.service.facts.kind) == "image":
        for case, content in NO_IMAGES.items():
            with suppress(OSError):  # a caller that decodes images itself finds out before it sends
                made[case] = spoken.compose(user.target, path, Image("bad.jpg", "small", content, ()))
    if not issubclass(spoken, GrpcProtocol):
        for case, body in NO_REQUESTS.items():
            headers = dict(spoken.headers(probe.images[0], body))
            headers.pop(JSON_LENGTH, None)  # an image's; without it the whole body is read as JSON
            made[case] = user.target.encode(spoken.method, path, body, spoken.content_type, headers)
    return made
