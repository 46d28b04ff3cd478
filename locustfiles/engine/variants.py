"""Which of several variants behind one address answered, as the answer itself tells: for A/B comparisons.

`--variant-by header:X-Variant` reads a header of the answer, `--variant-by field:model.version` a field of
its JSON. Requests are then named after the variant, and `latency.hlog` has a tag `variant:NAME` for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from locustfiles.engine.client import Client, HttpClient

TAG = "variant:"
UNKNOWN = "unknown"
"""The variant of an answer that names none."""
LONGEST = 60

Reader = Callable[[Any], str]
"""Tells the variant from a client that has just been answered."""


def reader(text: str, client: type[Client[Any]]) -> tuple[Reader | None, type[Client[Any]]]:
    """How to tell the variant, and the client that keeps what it takes; None where nobody asked.

    Raises ValueError when the protocol cannot tell it.
    """
    kind, _, name = text.partition(":")
    if not text:
        return None, client
    if not issubclass(client, HttpClient):
        raise ValueError("--variant-by reads answers over HTTP: leave it out, or choose another --protocol")
    if kind == "field":
        return _field(name.split(".")), client
    return _kept, _keeping(name.lower().encode())


def _kept(client: Any) -> str:
    return str(client.kept) or UNKNOWN


def _keeping(wanted: bytes) -> type[HttpClient]:
    """A client that keeps one header of the answer; the plain one is not asked for any, for its speed."""

    class KeepsHeader(HttpClient):
        kept = ""

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.kept = ""

        def on_header(self, name: bytes, value: bytes) -> None:
            if name.lower() == wanted:
                self.kept = _short(value.decode("latin-1"))

    return KeepsHeader


def _field(path: list[str]) -> Reader:
    def read(client: Any) -> str:
        try:
            value = json.loads(client.body)
            for name in path:
                value = value[name]
        except (ValueError, LookupError, TypeError, RecursionError):
            return UNKNOWN
        return _short(str(value)) or UNKNOWN

    return read


def _short(text: str) -> str:
    """A name that fits a tag of the log, where commas and ends of lines mean something else."""
    return "".join(c for c in text if c.isprintable() and c != ",").strip()[:LONGEST]
