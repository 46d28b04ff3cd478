"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from scripts.background import in_background
from scripts.live import LiveReading, final_reading

if TYPE_CHECKING:
    from scripts.plan import Plan, Step
    from scripts.run import RunRecord
    from scripts.trial import TrialRecord

PLAIN_PERIOD_S = 10.0
LIVE_PERIOD_S = 0.5
_MARKS = {"ok": "[green]ok[/]", "failed": "[red]failed[/]", "interrupted": "[yellow]interrupted[/]"}


class Progress:
    """Tells which trial is running, its rate, p95 and errors so far, and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `console`."""
        self._console, self._clock = console, clock
        self._live: Live | None = None
        self._ahead_s: dict[int, float] = {}
        self._trials = 0
        self._at_most = ""
        self._folder = Path()
        self._began_s = 0.0

    @contextmanager
    def showing(self, plan: Plan, order: Sequence[Step], record: RunRecord) -> Iterator[None]:
        """Show the progress of a run while the block lasts."""
        from scripts.run import estimate_s

        self._trials = len(order)
        self._at_most = "at most " if plan.sequential else ""
        over = {trial.order for trial in record.trials if trial.ended is not None}
        self._ahead_s = {step.order: estimate_s(plan, step) for step in order if step.order not in over}
        self._folder = record.folder
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    @contextmanager
    def trial(self, step: Step, record: TrialRecord) -> Iterator[Callable[[str], None]]:
        """Show one trial; the block gets a function that is told its phases."""
        self._began_s = self._clock()
        phase = ["starting"]
        reading = LiveReading(self._folder / step.path)
        title = f"[{step.order}/{self._trials}] {step.backend} {step.scenario.name} #{step.trial}"

        def tell(name: str) -> None:
            phase[0] = name

        def follow(done: threading.Event) -> None:
            period_s = LIVE_PERIOD_S if self._live else PLAIN_PERIOD_S
            while not done.wait(period_s):
                self._show(title, phase[0], str(reading.read()))

        if not self._live:
            self._console.print(f"{escape(title)}: {self._left()}", highlight=False)
        try:
            with in_background("progress", follow):
                yield tell
        finally:
            self._ahead_s.pop(step.order, None)
            last = record.error or str(final_reading(self._folder / step.path))
            mark = _MARKS.get(record.status, record.status)
            self._console.print(f"{escape(title)}: {mark} {escape(last)}", highlight=False)

    def say(self, sentence: str) -> None:
        """Print a sentence between two trials."""
        self._console.print(escape(sentence), highlight=False, soft_wrap=True)

    def _show(self, title: str, phase: str, reading: str) -> None:
        line = f"{title}: {phase}{', ' if reading else ''}{reading}; {self._left()}"
        if self._live:
            self._live.update(Text(line))
        else:
            self._console.print(escape(line), highlight=False)

    def _left(self) -> str:
        """The time left: estimates of the trials ahead, less what this one has had."""
        ahead = list(self._ahead_s.values())
        spent_s = min(self._clock() - self._began_s, ahead[0]) if ahead else 0.0
        left_s = max(0.0, sum(ahead) - spent_s)
        return f"{self._at_most}about {spoken(left_s)} left"


def spoken(seconds: float) -> str:
    """Write a span as a person says it: `45 s`, `4 min 30 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
