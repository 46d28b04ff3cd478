"""Standard output and errors, as a command needs them whose exit status says something."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Unread(io.FileIO):
    """A stream whose reader may leave, as `head` does: what comes after that is lost, and nothing else."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let neither a reader that leaves nor a name that cannot be shown end the command before its work does.

    Typer would end it with 1 for a closed pipe, as if an objective were missed.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        mine = stream is getattr(sys, f"__{name}__")  # else something stands in its place, such as a test
        if mine and isinstance(stream, io.TextIOWrapper):
            raw = _Unread(stream.fileno(), "wb", closefd=False)
            text = io.TextIOWrapper(
                io.BufferedWriter(raw), stream.encoding, errors="backslashreplace", line_buffering=True
            )
            setattr(sys, name, text)
