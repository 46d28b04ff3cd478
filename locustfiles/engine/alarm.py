"""An alarm on the absolute monotonic clock that rings in gevent's loop.

gevent's own timers are libev's: relative to a loop time that may be stale, and rounded to a millisecond by
epoll.  A timerfd (Linux, timerfd_create(2)) is an ordinary readable file to the loop and rings to within
the kernel's high-resolution timers.  Elsewhere gevent's timer stands in and `precise` says so.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable

from gevent import get_hub

_TFD_TIMER_ABSTIME = 1
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerfdAlarm:
    """Rings `callback` in the hub at a time of `time.monotonic`."""

    precise = True

    def __init__(self, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _Itimerspec()
        self._by_reference = ctypes.byref(self._spec)
        self._watcher = get_hub().loop.io(self._fd, 1)
        self._watcher.start(callback)

    def set(self, at: float) -> None:
        """Ring once at monotonic time `at` in seconds, or at once when that is past; the last call counts."""
        # A timer set to zero never rings, so the past is one nanosecond after the epoch of the clock.
        nanoseconds = max(1, round(at * 1e9))
        self._spec.value.seconds, self._spec.value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._by_reference, None)

    def clear(self) -> None:
        """Ring no more until `set` again."""
        self._spec.value.seconds = self._spec.value.nanoseconds = 0
        self._libc.timerfd_settime(self._fd, 0, self._by_reference, None)

    def close(self) -> None:
        """Give the file descriptor back."""
        self._watcher.stop()
        self._watcher.close()
        os.close(self._fd)


class GeventAlarm:
    """The same over gevent's own timer, for systems without timerfd."""

    precise = False

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._timer = get_hub().loop.timer(0)

    def set(self, at: float) -> None:
        """As `TimerfdAlarm.set`, late by up to about a millisecond."""
        self.clear()
        self._timer = get_hub().loop.timer(max(0.0, at - time.monotonic()))
        self._timer.start(self._callback, update=True)

    def clear(self) -> None:
        """Ring no more until `set` again."""
        self._timer.stop()
        self._timer.close()

    def close(self) -> None:
        """End the timer."""
        self.clear()


def make_alarm(callback: Callable[[], None]) -> TimerfdAlarm | GeventAlarm:
    """The most precise alarm that this system has."""
    return TimerfdAlarm(callback) if sys.platform == "linux" else GeventAlarm(callback)
