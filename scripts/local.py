"""Trials on this machine: servers and Locust as processes, each on cores of its own where there are two."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.cores import pinned, split_cores, usable_cores
from scripts.energy import metered
from scripts.guard import guarded, scratch_folder
from scripts.load import LocalLoad
from scripts.plan import Plan, Step
from scripts.project import Project, Service
from scripts.sampler import Sampler
from scripts.server import LocalServer, ServerSettings, refuse_busy_ports
from scripts.target import Tell


class LocalTarget:
    """This machine."""

    name = "local"
    poll_s = 0.1
    load_grace_s = 120.0

    def __init__(self, project: Project, plan: Plan, services: Sequence[Service], workers: int) -> None:
        """Split the cores for the plan's threads; `workers` is how many Locust workers make the load.

        Raises:
            CannotRun: a port that a server insists on is taken.

        """
        ports = {port: service.key for service in services for port in service.facts.local.ports}
        refuse_busy_ports(ports, "leave the backend out with --backends")
        self._cores = split_cores(usable_cores(), plan.threads)
        self._project, self._workers, self._threads = project, workers, plan.threads
        self._settings = ServerSettings(project, plan.threads, self._cores.server)
        self.mark = uuid.uuid4().hex
        self._scratch = Path()

    @property
    def facts(self) -> dict[str, Any]:
        """Which cores are whose."""
        return {
            "fairness": {
                "server_cores": list(self._cores.server),
                "generator_cores": list(self._cores.generator),
                "threads": self._threads,
                "workers": 1,
                "not_held": list(self._cores.not_held),
            }
        }

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        """Keep a guard and a scratch folder, and be on the generator's cores, while the block lasts."""
        self._scratch = scratch_folder()
        try:
            with guarded(self.mark, self._scratch), pinned(self._cores.generator):
                yield
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def note(self, text: str) -> None:
        """Nothing more to do: `run.json` lies on this machine."""

    def ready_timeout_s(self, service: Service) -> float:
        """Return what its `service.toml` says."""
        return service.facts.local.ready_timeout_s

    def server(self, service: Service, step: Step, folder: Path) -> SampledServer:
        """Prepare the server of one trial."""
        scratch, mark = self._scratch / str(step.order), f"{self.mark}:{step.order}:server"
        return SampledServer(service, self._settings, scratch, folder, mark)

    def load(self, service: Service, step: Step, folder: Path) -> LocalLoad:
        """Prepare the load of one trial."""
        mark = f"{self.mark}:{step.order}:load"
        return LocalLoad(self._project, self._workers, service.user_file, folder, mark)


class SampledServer:
    """A local server with its samples and its log in the trial's folder."""

    def __init__(
        self, service: Service, settings: ServerSettings, scratch: Path, folder: Path, mark: str
    ) -> None:
        """Prepare the server; `scratch` becomes its working folder."""
        self._folder = folder
        self._server = LocalServer(service, settings, scratch, folder / "server.log", mark)
        self.ended, self.last_words, self.stop = (
            self._server.ended,
            self._server.last_words,
            self._server.stop,
        )
        self._sampler = Sampler(
            self._server.family,
            folder / "pods.csv",
            service.key,
            lambda: self._server.ended() is None,
            settings.cores,
        )

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._server.host

    load_host = host

    @property
    def ready_url(self) -> str:
        """What answers 200 once it is ready."""
        return self._server.ready_url

    @property
    def caller_variables(self) -> dict[str, str]:
        """Where callers find the key of a server that asks for one."""
        return self._server.caller_variables

    def start(self, tell: Tell) -> None:
        """Start it on its cores."""
        self._server.start()

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Sample it while the block lasts, and the processor's energy where that is counted."""
        with self._sampler.running(), metered(self._folder / "energy.csv"):
            yield

    def others_cores(self, since_s: float) -> float | None:
        """Return how many of its cores other processes used."""
        return self._sampler.others_cores(since_s)
