"""What the command tells a person when something cannot go on, and with which exit status."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

OK = 0
MISSED = 1
"""An objective was missed, or a comparison shows a regression."""
USAGE = 2
"""Wrong usage or input; the message says what to write instead."""
UNMEASURED = 3
"""The measurement is not valid, or a trial (or something it needs) could not be made."""


class UserError(Exception):
    """Wrong usage or input: a sentence that says what to write instead.

    A step that was left out counts here, such as a backend or an export that nobody has set up.
    """

    exit_code = USAGE


class CannotRun(UserError):
    """Right usage, but this machine or its network, disk or servers do not allow it now."""

    exit_code = UNMEASURED


@contextmanager
def afterwards(clean_up: Callable[[], object]) -> Iterator[None]:
    """Clean up after the block, whatever happened in it.

    What cannot be cleaned up does not hide what went wrong before: it is told after it.
    """
    try:
        yield
    except BaseException as error:
        try:
            clean_up()
        except CannotRun as further:
            if isinstance(error, CannotRun):
                error.args = (f"{error}; then: {further}",)
        raise
    clean_up()


def nearest(name: str, choices: Iterable[str]) -> str:
    """Say which valid name was probably meant, or list them all; for the end of an error sentence."""
    valid = sorted(choices)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "valid are: " + ", ".join(valid) if valid else "there are none here"
