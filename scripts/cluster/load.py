"""Locust's master and workers as pods of a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path

from scripts.cluster.faults import CLOCKS_APART_S, PULL_PATIENCE_S, UNSCHEDULABLE_GRACE_S, not_made
from scripts.cluster.kube import Away, Kube, Object
from scripts.cluster.logs import Logs
from scripts.cluster.objects import (
    LOCUST,
    MASTER,
    TRIAL_NOTE,
    WORKER,
    master_job,
    worker_deployment,
)
from scripts.cluster.sampler import PodSampler
from scripts.cluster.volume import RECORDS, Volume
from scripts.errors import CannotRun, afterwards
from scripts.load import complaint_in
from scripts.target import MEASURED, Unfetched

GENERATORS = "generator.csv"
USER_FILES = "/app/locustfiles"
STOP_PATIENCE_S = 45.0


class ClusterLoad:
    """Locust's master as a Job, its workers as a Deployment; the record stays on a volume until fetched."""

    def __init__(
        self,
        kube: Kube,
        volume: Volume,
        sampler: PodSampler,
        base: Sequence[Object],
        user_file: str,
        folder: Path,
        trial: str,
        workers: int,
    ) -> None:
        """Prepare the load of one trial; `trial` is its folder on the volume, `base` has the templates."""
        self._kube, self._volume, self._sampler, self._base = kube, volume, sampler, base
        self._user_file, self._folder, self._trial, self._workers = user_file, folder, trial, workers
        self._mirror = ExitStack()
        self._logs = {name: Logs(kube) for name in (WORKER, MASTER)}
        """The master last: its last line is what a person wants."""
        self._started = self._begun = False
        self._began_s = 0.0
        self._master = ""
        """The pod of Locust's master, once it was seen."""

    def under_way(self) -> bool:
        """Tell whether the master of this trial is there already."""
        if not self._started:
            job = self._kube.read("job", MASTER)
            self._started = (
                job is not None and job["metadata"].get("annotations", {}).get(TRIAL_NOTE) == self._trial
            )
            if self._started:
                head = self._volume.run(
                    "sh", "-c", f"head -n 2 '{RECORDS}/{self._trial}/{GENERATORS}' || true"
                )
                self._begun = head.count(b"\n") > 1
                self._follow()
        return self._started

    def start(self, host: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Make master and workers."""
        file = f"{USER_FILES}/{self._user_file}"
        master = ["-f", file, "--headless", "--only-summary", "--host", host]
        master += ["--record", f"{RECORDS}/{self._trial}", *self._with_files(arguments)]
        master += ["--master", "--expect-workers", str(self._workers)]
        master += ["--expect-workers-max-wait", f"{PULL_PATIENCE_S:.0f}"]
        self._kube.delete("job", MASTER)
        self._volume.run("rm", "-rf", f"{RECORDS}/{self._trial}")
        self._kube.apply(
            [
                master_job(self._base, self._trial, master, variables),
                worker_deployment(
                    self._base, self._workers, ["-f", file, "--worker", "--master-host", MASTER], variables
                ),
            ]
        )
        self._started, self._began_s = True, self._kube.now_s()
        self._follow()

    def _with_files(self, arguments: Sequence[str]) -> list[str]:
        """Bring the recording that `--replay` names to the volume, where the master reads it."""
        found = list(arguments)
        if "--replay" in found:
            at = found.index("--replay") + 1
            there = f"{RECORDS}/{self._trial}-replay.csv"
            self._volume.write(there, Path(found[at]).read_bytes())
            found[at] = there
        return found

    def exit_status(self) -> int | None:
        """Return the master's exit status, None while it runs."""
        if self._sampler.trouble:
            raise CannotRun(f"nothing is known of its pods: {self._sampler.trouble}")
        for name, logs in self._logs.items():
            logs.hear_leaving(self._sampler.snapshot.ever_of(name))
        ended = self._ended()
        if ended is not None:
            if (status := int(ended["exitCode"])) in MEASURED:
                self._volume.owed[self._trial] = self._folder
            return status
        for name in [MASTER] if self._has_begun() else [MASTER, WORKER]:
            if fault := self._sampler.snapshot.fault(name, self._kube.now_s()):
                raise CannotRun(f"Locust's {fault}")
        self._refuse_without_pods()
        return None

    def _refuse_without_pods(self) -> None:
        """Give up on a master that was there and is gone, and on pods that the cluster does not make."""
        snapshot = self._sampler.snapshot
        masters = snapshot.of(MASTER)
        if masters:
            self._master = masters[0]["metadata"]["name"]
        elif self._master:
            raise CannotRun(f"Locust's pod {self._master} was deleted")
        if not self._began_s or self._kube.now_s() - self._began_s < UNSCHEDULABLE_GRACE_S:
            return
        wanted = {MASTER: 1, WORKER: 0 if self._has_begun() else self._workers}
        for name in [name for name, count in wanted.items() if len(snapshot.of(name)) < count]:
            if reason := not_made(name, snapshot.events, self._began_s - CLOCKS_APART_S):
                raise CannotRun(reason)

    def _ended(self) -> Object | None:
        """How the master's container ended."""
        for pod in self._sampler.snapshot.of(MASTER):
            for status in pod.get("status", {}).get("containerStatuses", []):
                if ended := status.get("state", {}).get("terminated"):
                    found: Object = ended
                    return found if found.get("reason") != "OOMKilled" else None
        return None

    def _has_begun(self) -> bool:
        """Whether any load was recorded: from then on a worker more or less does not end the trial.

        The mirror is begun anew when its stream drops, so it is not asked again.
        """
        if not self._begun:
            with suppress(OSError), (self._folder / GENERATORS).open("rb") as file:
                self._begun = len(list(islice(file, 2))) == 2
        return self._begun

    def complaint(self) -> str:
        """Return the last line of its log that a person can use."""
        file = self._folder / "locust.log"
        if not file.exists():
            self._keep_logs()
        return complaint_in(file.read_text(errors="replace"))

    def stop(self) -> None:
        """Ask the master to end if it has not, fetch what was recorded, and remove it.

        Raises:
            Unfetched: what was recorded is on the volume still.

        """
        if not self._started:
            return
        with afterwards(self._remove):
            try:
                self._ask_to_end(self._kube.pods(f"app.kubernetes.io/name={MASTER}"))
                self._mirror.close()
                self._keep_logs()
                self._volume.fetch(self._trial, self._folder)
            except (CannotRun, OSError) as error:
                raise Unfetched(f"its record could not be fetched: {error}") from error

    def _remove(self) -> None:
        self._mirror.close()
        self._kube.delete("deployment", WORKER, grace_s=1)
        self._kube.delete("job", MASTER)
        for name in (WORKER, MASTER):
            self._kube.delete("pod", labels=f"app.kubernetes.io/name={name}", grace_s=1)

    def _ask_to_end(self, pods: Sequence[Object]) -> None:
        """Send SIGTERM, on which Locust writes its summary; deleting the pod would take its log along."""
        asked = False
        for pod in pods:
            if pod.get("status", {}).get("phase") != "Running":
                continue
            signal = "import os, signal; os.kill(1, signal.SIGTERM)"
            command = ("exec", pod["metadata"]["name"], "-c", LOCUST, "--", "python", "-c", signal)
            try:
                self._kube.kubectl(*command)
                asked = True
            except Away:
                raise
            except CannotRun:
                continue  # it ended meanwhile, or its node is silent
        deadline = time.monotonic() + (STOP_PATIENCE_S if asked else 0)
        while time.monotonic() < deadline:
            phases = {pod["status"]["phase"] for pod in self._kube.pods(f"app.kubernetes.io/name={MASTER}")}
            if "Running" not in phases:
                return
            time.sleep(0.5)

    def _keep_logs(self) -> None:
        with (self._folder / "locust.log").open("wb") as file:
            for name, logs in self._logs.items():
                logs.hear(self._kube.pods(f"app.kubernetes.io/name={name}"))
                file.write(logs.everything())

    def _follow(self) -> None:
        """Mirror the files that tell how the load goes, for whoever watches."""
        for name in (GENERATORS, "latency.hlog"):
            file = f"{RECORDS}/{self._trial}/{name}"
            tail = self._volume.inside("timeout", "86400", "tail", "-n", "+1", "-F", file)
            self._mirror.enter_context(self._kube.kept("exec", *tail, file=self._folder / name))
