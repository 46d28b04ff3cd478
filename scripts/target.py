"""What a trial is made against: servers and generators as processes here, or as pods in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scripts.errors import CannotRun

if TYPE_CHECKING:
    from scripts.plan import Step
    from scripts.project import Service

MEASURED = (0, 1)
"""Exit statuses of a Locust that has measured: 1 says that some request failed, which the report counts."""
Tell = Callable[[str], None]
"""Hears, in a few words, what is being waited for."""


def ending(log: str) -> str:
    """How a log ends, as the end of an error sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"its log ends: {' | '.join(lines[-5:])[-800:]}" if lines else "its log is empty"


class NeverReady(CannotRun):
    """The server did not start, or never predicted."""


class Unfetched(CannotRun):
    """The load was measured, but its record could not be brought here yet."""


class Server(Protocol):
    """One framework's server, from start to end; its samples and its log go to the trial's folder."""

    @property
    def host(self) -> str:
        """Where this machine reaches it, in the protocol that was chosen."""

    @property
    def load_host(self) -> str:
        """Where Locust reaches it."""

    @property
    def ready_url(self) -> str:
        """What answers this machine with 200 once it is ready."""

    @property
    def caller_variables(self) -> dict[str, str]:
        """What callers need in their environment, such as the key of a server that asks for one."""

    def start(self, tell: Tell) -> None:
        """Start it, and return when there is something to ask whether it is ready.

        Raises:
            CannotRun: it cannot be started; the sentence says why.
            NeverReady: it was started, and ended or never listened.

        """

    def sampled(self) -> AbstractContextManager[None]:
        """Sample it into `pods.csv` while the block lasts."""

    def others_cores(self, since_s: float) -> float | None:
        """Return how many of its cores others used on average since a time; None where nobody knows."""

    def ended(self) -> str | None:
        """Return what became of it (`exited with signal 9`), or None while it serves."""

    def last_words(self) -> str:
        """Return how its log ends, as the end of an error sentence."""

    def stop(self) -> list[str]:
        """End it and keep its log; return a line for each process that had to be killed."""


class Load(Protocol):
    """Locust's master and workers for one trial."""

    def under_way(self) -> bool:
        """Tell whether it was started already, by a command that is gone since."""

    def start(self, host: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start it with the options of the trial, and what callers of the server need.

        Raises:
            CannotRun: it cannot be started.

        """

    def exit_status(self) -> int | None:
        """Return Locust's exit status, None while it runs.

        Raises:
            CannotRun: it cannot run, or never ends.

        """

    def complaint(self) -> str:
        """Return the last line of its log that a person can use."""

    def stop(self) -> None:
        """End it, giving it time to write what it has, and have its record in the trial's folder.

        Raises:
            Unfetched: the record stays for now where it was made.

        """


class Target(Protocol):
    """Where the trials of one run are made."""

    name: str
    mark: str
    """What marks the run's processes on this machine, for the guard."""
    poll_s: float
    """How often it may be asked whether something has ended."""
    load_grace_s: float
    """How much longer than its load Locust may take: its start, and the last answers."""

    @property
    def facts(self) -> dict[str, Any]:
        """What `run.json` tells of it: at least `fairness`."""

    def opened(self, folder: Path) -> AbstractContextManager[None]:
        """Hold it for the run of that folder while the block lasts, and leave nothing there afterwards.

        Raises:
            CannotRun: it cannot be had.
            Unfetched: a record cannot be had from there even now, so that is left.

        """

    def note(self, text: str) -> None:
        """Hear the newest text of `run.json`."""

    def ready_timeout_s(self, service: Service) -> float:
        """Return how long a server may take from its start to its first prediction."""

    def server(self, service: Service, step: Step, folder: Path) -> Server:
        """Prepare the server of one trial."""

    def load(self, service: Service, step: Step, folder: Path) -> Load:
        """Prepare the load of one trial."""
