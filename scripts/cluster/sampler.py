"""What the cluster tells of a trial's pods, once a second: their state, `pods.csv` and `events.csv`.

CPU comes from the kubelet's counters, over the time between two of their own timestamps: a kubelet counts
every 10 s unless it is told otherwise, and a rate over our own clock would be wrong by as much. Where the
account may not ask the kubelets, metrics-server's averages take their place.
"""

from __future__ import annotations

import csv
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.background import in_background
from scripts.cluster.faults import is_ready, pod_fault, when_s
from scripts.cluster.kube import Kube, Object, Refused
from scripts.errors import CannotRun
from scripts.sampler import COLUMNS as LOCAL_COLUMNS

EVENT_COLUMNS = ["time", "pod", "reason", "message", "type"]
COLUMNS = [*LOCAL_COLUMNS, "phase", "component"]
COMPONENT = "app.kubernetes.io/component"
SELECTOR = f"{COMPONENT} in (server,generator)"
PERIOD_S = 1.0
EVENTS_EVERY = 5
ASKED_AT_ONCE = 8
"""Kubelets; each answers within milliseconds, unless its node is silent."""
_COUNTER = re.compile(
    r"^container_(cpu_usage_seconds_total|memory_working_set_bytes)\{(.*)\} (\S+) (\d+)$", re.MULTILINE
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Usage:
    """A container's counters at one instant; `at_s` in seconds since the epoch."""

    at_s: float
    cpu_s: float
    memory_bytes: int


Key = tuple[str, str]
"""A pod and a container in it."""


def read_counters(text: str, namespace: str) -> dict[Key, Usage]:
    """Return a namespace's containers in a kubelet's `/metrics/resource`."""
    found: dict[Key, dict[str, tuple[float, float]]] = {}
    for name, labels, value, milliseconds in _COUNTER.findall(text):
        label = dict(_LABEL.findall(labels))
        if label["namespace"] == namespace:
            values = found.setdefault((label["pod"], label["container"]), {})
            values[name] = float(value), int(milliseconds) / 1000
    return {
        key: Usage(
            at_s=values["cpu_usage_seconds_total"][1],
            cpu_s=values["cpu_usage_seconds_total"][0],
            memory_bytes=int(values.get("memory_working_set_bytes", (0.0, 0.0))[0]),
        )
        for key, values in found.items()
        if "cpu_usage_seconds_total" in values
    }


_UNITS = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
}


def quantity(text: str) -> float:
    """Return the number that a Kubernetes quantity (`250m`, `1Gi`) stands for."""
    match = re.fullmatch(r"([\d.]+)([A-Za-z]*)", text)
    if match is None or match[2] not in {"", *_UNITS}:
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * _UNITS.get(match[2], 1.0)


def read_averages(items: Iterable[Object]) -> Iterator[tuple[Key, float, float, int]]:
    """Return container, time, CPU cores and memory of metrics-server's PodMetrics."""
    for item in items:
        at_s = datetime.fromisoformat(item["timestamp"]).timestamp()
        for each in item["containers"]:
            key = item["metadata"]["name"], each["name"]
            yield key, at_s, quantity(each["usage"]["cpu"]), int(quantity(each["usage"]["memory"]))


class CpuRates:
    """Turns counters into cores, over the time between two of their own timestamps."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._last: dict[Key, Usage] = {}

    def cores(self, key: Key, now: Usage) -> float | None:
        """Return the cores used since the counter's last timestamp; None when it has not moved on."""
        last = self._last.get(key)
        if last is not None and now.at_s <= last.at_s:
            return None
        self._last[key] = now
        if last is None or now.cpu_s < last.cpu_s:  # a restarted container counts from 0 again
            return None
        return (now.cpu_s - last.cpu_s) / (now.at_s - last.at_s)


class Events:
    """The namespace's events, each told once, and again when it has happened again."""

    def __init__(self, since_s: float) -> None:
        """Leave out what happened before a time."""
        self._since_s = since_s
        self._counts: dict[str, int] = {}
        self._written: set[tuple[str, ...]] = set()

    def know(self, rows: Iterable[Sequence[str]]) -> None:
        """Leave out what another command wrote down already."""
        self._written |= {tuple(row) for row in rows}

    def news(self, events: Iterable[Object]) -> list[list[object]]:
        """Return a row of `events.csv` for each that is new, in order of time."""
        rows: list[list[object]] = []
        for event in events:
            count = event.get("count") or (event.get("series") or {}).get("count") or 1
            at_s = when_s(event)
            uid = event["metadata"]["uid"]
            if at_s < self._since_s or self._counts.get(uid, 0) >= count:
                continue
            self._counts[uid] = count
            message = " ".join(str(event.get("message") or "").split())
            name = event["involvedObject"].get("name", "")
            row = (f"{at_s:.0f}", name, event.get("reason", ""), message, event.get("type", ""))
            if row not in self._written:
                rows.append([*row])
        return sorted(rows, key=lambda row: float(str(row[0])))


@dataclass
class Snapshot:
    """What is known of the namespace now."""

    pods: list[Object] = field(default_factory=list)
    nodes: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)

    def of(self, name: str) -> list[Object]:
        """Return the pods of one `app.kubernetes.io/name` that are not being deleted."""
        return [pod for pod in self.ever_of(name) if "deletionTimestamp" not in pod["metadata"]]

    def ever_of(self, name: str) -> list[Object]:
        """Return the pods of one `app.kubernetes.io/name`, with those that are being deleted."""
        return [pod for pod in self.pods if pod["metadata"]["labels"].get("app.kubernetes.io/name") == name]

    def fault(self, name: str, now_s: float) -> str | None:
        """Return what has befallen the first of these pods that something has befallen."""
        faults = (pod_fault(pod, self.nodes, self.events, now_s) for pod in self.of(name))
        return next(filter(None, faults), None)


class PodSampler:
    """Watches a namespace, and writes what it sees into a trial's folder while one is sampled."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.snapshot = Snapshot()
        self.trouble: str | None = None
        """Why the snapshot is old, where it is."""
        self._rates = CpuRates()
        self._refusing: set[str] = set()
        """Nodes whose kubelets do not tell."""
        self._asking: dict[str, Future[str]] = {}
        self._askers = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="kubelet")
        self._averaged_s: dict[Key, float] = {}
        self._rounds = 0
        self._told = Events(0.0)

    def begin(self, since_s: float) -> None:
        """Begin with another trial: events before that time are not its own."""
        self._told, self.snapshot, self.trouble, self._rounds = Events(since_s), Snapshot(), None, 0

    @contextmanager
    def running(self, folder: Path) -> Iterator[None]:
        """Watch in a thread while the block runs, writing into `folder`."""
        with suppress(OSError), (folder / "events.csv").open(newline="") as begun:
            self._told.know(csv.reader(begun))
        self.look(everything=True)
        with in_background("pod sampler", lambda done: self._work(folder, done)):
            yield

    def keep_events(self, folder: Path) -> None:
        """Write the events that are new, which tell of the end of a trial or why it never began."""
        self.look(everything=True)
        with _appending(folder / "events.csv", EVENT_COLUMNS) as write:
            write(self._told.news(self.snapshot.events))

    def look(self, everything: bool = False) -> Snapshot:
        """Ask the API what is there now; nodes and events are asked for now and then, or with `everything`.

        Raises:
            CannotRun: it did not answer for long, or refused.

        """
        pods = self._kube.pods(SELECTOR)
        if everything or self._rounds % EVENTS_EVERY == 0:
            nodes, events = self._kube.nodes(), self._kube.events()
        else:
            nodes, events = self.snapshot.nodes, self.snapshot.events
        self._rounds += 1
        self.snapshot = Snapshot(pods, nodes, events)
        return self.snapshot

    def rows(self) -> list[list[object]]:
        """Return the rows of `pods.csv` that are new since the last call."""
        found: list[list[object]] = []
        for (name, container), at_s, cores, memory_bytes in self._measured():
            pod = next((each for each in self.snapshot.pods if each["metadata"]["name"] == name), None)
            if pod is None or container not in {each["name"] for each in pod["spec"]["containers"]}:
                continue  # the sandbox, or a pod of somebody else's
            state = [
                _restarts(pod, container),
                int(is_ready(pod)),
                pod["status"]["phase"],
                pod["metadata"]["labels"][COMPONENT],
            ]
            found.append([f"{at_s:.3f}", name, container, f"{cores:.4f}", memory_bytes, *state])
        return found

    def _measured(self) -> Iterator[tuple[Key, float, float, int]]:
        nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in self.snapshot.pods}
        yield from self._counted({node for node in nodes.values() if node} - self._refusing)
        if self._refusing.isdisjoint(nodes.values()):
            return
        for key, at_s, cores, memory_bytes in read_averages(self._kube.pod_metrics()):
            if nodes.get(key[0]) in self._refusing and self._averaged_s.get(key, 0.0) < at_s:
                self._averaged_s[key] = at_s
                yield key, at_s, cores, memory_bytes

    def _counted(self, nodes: Iterable[str]) -> Iterator[tuple[Key, float, float, int]]:
        """Ask all kubelets at once; one that takes longer than a round is heard in a later one."""
        for node in nodes:
            if node not in self._asking:
                self._asking[node] = self._askers.submit(self._kube.node_metrics, node)
        answered, _ = wait(self._asking.values(), timeout=PERIOD_S)
        for node in [node for node, answer in self._asking.items() if answer in answered]:
            try:
                text = self._asking.pop(node).result()
            except CannotRun as error:
                if isinstance(error, Refused) and error.status in (401, 403, 404):
                    self._refusing.add(node)
                continue  # else the node is silent, or the API server away: both are told elsewhere
            for key, usage in read_counters(text, self._kube.namespace).items():
                cores = self._rates.cores(key, usage)
                if cores is not None:
                    yield key, usage.at_s, cores, usage.memory_bytes

    def _work(self, folder: Path, done: threading.Event) -> None:
        with ExitStack() as files:
            used = files.enter_context(_appending(folder / "pods.csv", COLUMNS))
            happened = files.enter_context(_appending(folder / "events.csv", EVENT_COLUMNS))
            due_s = time.monotonic()
            while True:
                last = done.is_set()
                try:
                    self.look()
                    used(self.rows())
                    happened(self._told.news(self.snapshot.events))
                    self.trouble = None
                except CannotRun as error:
                    self.trouble = str(error)
                if last:
                    return
                due_s = max(due_s + PERIOD_S, time.monotonic())
                done.wait(max(0.0, due_s - time.monotonic()))


def _restarts(pod: Object, container: str) -> int:
    """Return how often a container failed and was restarted: workers that end in order are restarted too."""
    for status in pod["status"].get("containerStatuses", []):
        if status["name"] == container:
            ended = status.get("lastState", {}).get("terminated", {})
            return 0 if ended.get("exitCode") == 0 else int(status["restartCount"])
    return 0


@contextmanager
def _appending(file: Path, columns: Sequence[str]) -> Iterator[Callable[[list[list[object]]], None]]:
    """Add rows to a CSV file, which a command that is gone may have begun."""
    begun = file.exists() and file.stat().st_size > 0
    with file.open("a", newline="") as stream:
        writer: Any = csv.writer(stream)
        if not begun:
            writer.writerow(columns)

        def write(rows: list[list[object]]) -> None:
            writer.writerows(rows)
            stream.flush()

        yield write
