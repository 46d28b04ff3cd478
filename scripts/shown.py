"""A piece of work on the terminal: its newest step while it lasts, then how it came out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from scripts.progress import spoken

Say = Callable[[str], None]
"""Told each line that a piece of work prints."""
_STEP = re.compile(r"^(?:Step \d+/\d+ : |#\d+ \[[^\]]*\] )(.*)")


def shown(
    console: Console, title: str, work: Callable[[Say], str | None], progress: Progress | None = None
) -> None:
    """Do one piece of work, which returns how it came out or nothing, and show it as it goes.

    Of several at a time, each has its line in their common `progress`. A log gets two lines.
    """
    began_s = time.monotonic()
    if not console.is_terminal:
        console.print(f"{title} …", highlight=False, markup=False)
        result = work(lambda line: None)
    elif progress is None:
        with console.status(_newest(title, "")) as status:
            result = work(lambda line: status.update(_newest(title, line)))
    else:
        task = progress.add_task(escape(title))
        try:
            result = work(lambda line: progress.update(task, description=_newest(title, line)))
        finally:
            progress.remove_task(task)
    took = spoken(time.monotonic() - began_s)
    said = f"{title}: {result} ({took})" if result else f"{title} took {took}"
    console.print(said, highlight=False, markup=False)


def _newest(title: str, line: str) -> str:
    step = _STEP.match(line)
    return f"{escape(title)} … [dim]{escape((step[1] if step else line)[:90])}[/]"
