"""Signals as a request to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from scripts.stop import Stop


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Put back whatever this process does when its terminal goes."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
class TestATerminalThatIsClosed:
    def test_asks_the_run_to_stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stop = Stop()
        with stop.on_signals():
            signal.raise_signal(signal.SIGHUP)
        assert stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL

    def test_is_nothing_to_a_run_under_nohup(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = Stop()
        with stop.on_signals():
            signal.raise_signal(signal.SIGHUP)
        assert not stop.asked
