"""Ctrl-C and SIGTERM as a request that the run honours between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user asked to stop."""


class Stop:
    """Whether somebody asked the run to stop; every wait of a run goes through `sleep`."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask the run to stop."""
        self._asked.set()

    def sleep(self, seconds: float) -> None:
        """Wait, unless asked to stop.

        Raises:
            Interrupted: somebody asked, before or meanwhile.

        """
        if self._asked.wait(seconds):
            raise Interrupted

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn SIGINT, SIGTERM and SIGHUP into `ask`; a second one ends the process (the guard cleans up).

        An ignored SIGHUP stays ignored: that is what nohup is for.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.ask()

        names = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            names.append(signal.SIGHUP)
        before = {name: signal.signal(name, handle) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
