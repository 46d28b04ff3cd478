"""The load engine's options, without Locust.

Importing the package `locustfiles.engine` imports Locust, which lets gevent replace threads, subprocesses and
sockets of the whole process: right for making load, wrong for a command that runs servers and samples them.
Its options need none of that, so they are imported past the package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import locustfiles

_PACKAGE = "locustfiles.engine"


@contextmanager
def _past_the_package() -> Iterator[None]:
    """Put an empty package in the engine's place, so that its modules can be imported on their own."""
    if _PACKAGE in sys.modules:
        yield
        return
    stand_in = ModuleType(_PACKAGE)
    stand_in.__path__ = [f"{folder}/engine" for folder in locustfiles.__path__]
    sys.modules[_PACKAGE] = stand_in
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]


with _past_the_package():
    from locustfiles.engine.options import OPTIONS, LoadPlan, count, seconds

__all__ = ["OPTIONS", "LoadPlan", "count", "seconds"]
