"""Locust's master and workers as pods of a cluster."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.cluster_objects import (
    LOCUST,
    MASTER,
    RESULTS,
    TRIAL_NOTE,
    WORKER,
    master_job,
    worker_deployment,
)
from scripts.errors import CannotRun
from scripts.kube import Away, Kube, Object
from scripts.load import complaint_in
from scripts.pod_faults import pod_fault
from scripts.pod_logs import logs_of
from scripts.pod_sampler import PodSampler

RECORDS = "/results"
USER_FILES = "/app/locustfiles"
STOP_PATIENCE_S = 45.0


class ClusterLoad:
    """Locust's master as a Job, its workers as a Deployment; the record stays on a volume until fetched."""

    def __init__(
        self,
        kube: Kube,
        sampler: PodSampler,
        base: Sequence[Object],
        user_file: str,
        folder: Path,
        trial: str,
        workers: int,
    ) -> None:
        """Prepare the load of one trial; `trial` is its folder on the volume, `base` has the templates."""
        self._kube, self._sampler, self._base = kube, sampler, base
        self._user_file, self._folder, self._trial, self._workers = user_file, folder, trial, workers
        self._mirror = ExitStack()
        self._started = False

    def under_way(self) -> bool:
        """Tell whether the master of this trial is there already."""
        if not self._started:
            job = self._kube.read("job", MASTER)
            self._started = (
                job is not None and job["metadata"].get("annotations", {}).get(TRIAL_NOTE) == self._trial
            )
            if self._started:
                self._follow()
        return self._started

    def start(self, host: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Make master and workers."""
        file = f"{USER_FILES}/{self._user_file}"
        master = ["-f", file, "--headless", "--only-summary", "--host", host]
        master += ["--record", f"{RECORDS}/{self._trial}", *self._with_files(arguments)]
        master += ["--master", "--expect-workers", str(self._workers), "--expect-workers-max-wait", "180"]
        self._kube.delete("job", MASTER)
        self._inside("rm", "-rf", f"{RECORDS}/{self._trial}")
        self._kube.apply(
            [
                master_job(self._base, self._trial, master, variables),
                worker_deployment(
                    self._base, self._workers, ["-f", file, "--worker", "--master-host", MASTER], variables
                ),
            ]
        )
        self._started = True
        self._follow()

    def _with_files(self, arguments: Sequence[str]) -> list[str]:
        """Bring the recording that `--replay` names to the volume, where the master reads it."""
        found = list(arguments)
        if "--replay" in found:
            at = found.index("--replay") + 1
            there = f"{RECORDS}/{self._trial}-replay.csv"
            write = f"mkdir -p $(dirname '{there}') && cat > '{there}'"
            inside = ("exec", "-i", f"deployment/{RESULTS}", "-c", RESULTS, "--", "sh", "-c", write)
            self._kube.kubectl(*inside, data=Path(found[at]).read_bytes())
            found[at] = there
        return found

    def exit_status(self) -> int | None:
        """Return the master's exit status, None while it runs."""
        if self._sampler.trouble:
            raise CannotRun(f"nothing is known of its pods: {self._sampler.trouble}")
        ended = self._ended()
        if ended is not None:
            return int(ended["exitCode"])
        snapshot = self._sampler.snapshot
        names = [MASTER] if self._has_begun() else [MASTER, WORKER]
        for pod in [pod for name in names for pod in snapshot.of(name)]:
            if fault := pod_fault(pod, snapshot.nodes, snapshot.events, time.time()):
                raise CannotRun(f"Locust's {fault}")
        return None

    def _ended(self) -> Object | None:
        """How the master's container ended."""
        for pod in self._sampler.snapshot.of(MASTER):
            for status in pod.get("status", {}).get("containerStatuses", []):
                if ended := status.get("state", {}).get("terminated"):
                    found: Object = ended
                    return found if found.get("reason") != "OOMKilled" else None
        return None

    def _has_begun(self) -> bool:
        """Whether any load was recorded: from then on a worker more or less does not end the trial."""
        file = self._folder / "generator.csv"
        return file.exists() and file.read_bytes().count(b"\n") > 1

    def complaint(self) -> str:
        """Return the last line of its log that a person can use."""
        file = self._folder / "locust.log"
        if not file.exists():
            self._keep_logs()
        return complaint_in(file.read_text(errors="replace"))

    def stop(self) -> None:
        """Ask the master to end if it has not, fetch what was recorded, and remove it."""
        if not self._started:
            return
        pods = self._kube.pods(f"app.kubernetes.io/name={MASTER}")
        self._ask_to_end(pods)
        self._mirror.close()
        self._keep_logs()
        self._fetch()
        self._kube.delete("deployment", WORKER, grace_s=1)
        self._kube.delete("job", MASTER)
        for name in (WORKER, MASTER):
            self._kube.delete("pod", labels=f"app.kubernetes.io/name={name}", grace_s=1)

    def _ask_to_end(self, pods: Sequence[Object]) -> None:
        """Send SIGTERM, on which Locust writes its summary; deleting the pod would take its log along."""
        running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        for pod in running:
            signal = "import os, signal; os.kill(1, signal.SIGTERM)"
            command = ("exec", pod["metadata"]["name"], "-c", LOCUST, "--", "python", "-c", signal)
            try:
                self._kube.kubectl(*command)
            except Away:
                raise
            except CannotRun:
                continue  # it ended meanwhile
        deadline = time.monotonic() + (STOP_PATIENCE_S if running else 0)
        while time.monotonic() < deadline:
            phases = {pod["status"]["phase"] for pod in self._kube.pods(f"app.kubernetes.io/name={MASTER}")}
            if "Running" not in phases:
                return
            time.sleep(0.5)

    def _keep_logs(self) -> None:
        with (self._folder / "locust.log").open("wb") as file:
            for name in (WORKER, MASTER):  # the master last: its last line is what a person wants
                for pod in self._kube.pods(f"app.kubernetes.io/name={name}"):
                    file.write(logs_of(self._kube, pod, LOCUST))

    def _fetch(self) -> None:
        """Copy the trial's folder from the volume; what was mirrored meanwhile is replaced."""
        folder = f"{RECORDS}/{self._trial}"
        packed = self._inside("sh", "-c", f"mkdir -p '{folder}' && tar -C '{folder}' -cf - .")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(self._folder, filter="data")

    def _inside(self, *command: str) -> bytes:
        """Run a command beside the volume."""
        return self._kube.kubectl("exec", f"deployment/{RESULTS}", "-c", RESULTS, "--", *command)

    def _follow(self) -> None:
        """Mirror the files that tell how the load goes, for whoever watches."""
        inside = ["exec", f"deployment/{RESULTS}", "-c", RESULTS, "--", "timeout", "86400"]
        for name in ("generator.csv", "latency.hlog"):
            tail = ["tail", "-n", "+1", "-F", f"{RECORDS}/{self._trial}/{name}"]
            self._mirror.enter_context(self._kube.kept(*inside, *tail, file=self._folder / name))
