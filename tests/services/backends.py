"""Backends for tests: started as the command starts them, and watched for what they touch."""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import psutil
import pytest
from gevent.pool import Pool

from scripts.guard import scratch_folder
from scripts.probe import Probe, model_user
from scripts.project import Project, Service
from scripts.ready import unwell
from scripts.server import LocalServer, ServerSettings
from tests.projects import ROOT

PROJECT = Project(ROOT)
SYSTEM = tuple(map(Path, ("/proc", "/sys", "/dev/null", "/dev/pts", "/dev/urandom", sys.prefix)))
T = TypeVar("T")


def protocols_of(service: Service) -> list[str]:
    """The protocols of a framework, its own first."""
    return [service.facts.protocol, *service.facts.protocols]


def with_variables(service: Service, variables: Mapping[str, str]) -> Service:
    """The same framework, its server started with more in its environment."""
    local = replace(service.facts.local, env=service.facts.local.env | dict(variables))
    return replace(service, facts=replace(service.facts, local=local))


@dataclass
class Backend:
    """One running backend, by its key, such as `bentoml+batching`; its log goes to `folder`."""

    key: str
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    first_refusal: str | None = None
    """What was in the way when its ready URL was asked for the first time."""
    last_refusal: str | None = None
    """What was in the way just before it was ready."""
    first_answer: str | None = "it was not asked"
    """What was wrong with the first prediction, asked for as soon as the ready URL had answered 200."""
    touched: set[Path] = field(default_factory=set)
    """Files and sockets outside its own folder that its processes held open when somebody looked."""

    def __post_init__(self) -> None:
        self.service = with_variables(PROJECT.select([self.key])[0], self.variables)
        self.scratch = scratch_folder()
        self.log = self.folder / f"{self.key}.log"
        settings = ServerSettings(PROJECT, threads=1, cores=())
        self.server = LocalServer(self.service, settings, self.scratch, self.log, uuid.uuid4().hex)

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.server.start()
        deadline = time.monotonic() + self.service.facts.local.ready_timeout_s
        while reason := unwell(self.server.ready_url):
            self.first_refusal = self.first_refusal or reason
            self.last_refusal = reason
            assert self.server.ended() is None, f"{self.key} {self.server.ended()}: {self.last_words()}"
            assert time.monotonic() < deadline, f"{self.key} is not ready: {reason}; {self.last_words()}"
            time.sleep(0.05)
        self.first_answer = self.probe().not_ready()

    def probe(self, protocol: str | None = None) -> Probe:
        """A caller of its own."""
        spoken = protocol or self.service.facts.protocol
        with self.with_key():
            return Probe(model_user(self.service.user_file), self.server.speaking(spoken), (protocol or ""))

    def with_key(self) -> AbstractContextManager[Any]:
        """What is composed in the block carries the key of a server that asks for one."""
        return mock.patch.dict("os.environ", self.server.caller_variables)

    def wrong(self, protocol: str | None = None, callers: int = 1) -> list[str]:
        """What is wrong with the answers to every image, which several callers ask for at once."""
        probes = [self.probe(protocol) for _ in range(callers)]

        def ask(number: int) -> list[str]:
            probe = probes[number]
            answers = [probe.wrong(number + index) for index in range(len(probe.images))]
            return [sentence for sentence in answers if sentence]

        return [sentence for found in Pool(callers).map(ask, range(callers)) for sentence in found]

    def listening(self) -> set[str]:
        """Every address on which one of its processes listens."""
        found = set()
        for process in self.server.family.members():
            for each in _of(lambda p=process: p.net_connections("inet")):
                if each.status == psutil.CONN_LISTEN:
                    found.add(each.laddr.ip)
        return found

    def look(self) -> None:
        """Remember what its processes hold open outside the folders that are its own."""
        own = (*SYSTEM, ROOT, self.scratch, self.folder)
        for process in self.server.family.members():
            paths = [each.path for each in _of(process.open_files) if each.mode != "r"]
            paths += [each.laddr for each in _of(lambda p=process: p.net_connections("unix")) if each.laddr]
            maps = _of(lambda p=process: p.memory_maps(grouped=False))
            paths += [each.path for each in maps if {"w", "s"} <= set(each.perms)]  # shared, such as Java's
            outside = {Path(path) for path in paths if path.startswith("/")}
            self.touched |= {path for path in outside if not any(path.is_relative_to(o) for o in own)}

    def stop(self) -> list[str]:
        """End it as the command does; returns what had to be killed."""
        try:
            return self.server.stop()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def last_words(self) -> str:
        """How its log ends."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


@contextmanager
def running(key: str, folder: Path, **variables: str) -> Iterator[Backend]:
    """A backend that is ready to predict, ended with the block; skips the test where it cannot run."""
    if reason := PROJECT.select([key])[0].missing():
        pytest.skip(reason)
    backend = Backend(key, folder, variables)
    try:
        backend.start()
        yield backend
    finally:
        backend.stop()


def _of(ask: Callable[[], list[T]]) -> list[T]:
    """What psutil says of a process, nothing when it has gone."""
    try:
        return ask()
    except psutil.Error:
        return []
