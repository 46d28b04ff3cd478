"""Run folders with known contents, written as the engine and the run write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from analysis.histograms import Floats, bucket_low_us

GENERATOR_COLUMNS = ["time", "worker", "planned", "sent", "dropped", "in_flight", "cpu_cores", "lag_p99_ms",
                     "completed", "failed", "rss_bytes"]  # fmt: skip
STATS_COLUMNS = ["Type", "Name", "Request Count", "Failure Count", "Median Response Time",
                 "Average Response Time", "Min Response Time", "Max Response Time", "Average Content Size",
                 "Requests/s", "Failures/s", "50%", "66%", "75%", "80%", "90%", "95%", "98%", "99%", "99.9%",
                 "99.99%", "100%"]  # fmt: skip
HISTORY_COLUMNS = ["Timestamp", "User Count", "Type", "Name", "Requests/s", "Failures/s", *STATS_COLUMNS[11:],
                   "Total Request Count", "Total Failure Count", "Total Median Response Time",
                   "Total Average Response Time", "Total Min Response Time", "Total Max Response Time",
                   "Total Average Content Size"]  # fmt: skip
FAILURE_COLUMNS = ["Method", "Name", "Error", "Occurrences", "First Seen", "Last Seen"]
EXCEPTION_COLUMNS = ["Count", "Message", "Traceback", "Nodes"]
NAMES = ("large", "medium", "small")
USERS = 100
START = datetime(2026, 11, 21, 14, 31, 0, tzinfo=UTC)


def encoded(values_us: Floats) -> tuple[str, int]:
    """A histogram of the values as the log has it (base64), and its largest value in µs."""
    histogram = HdrHistogram(1, 60_000_000, 3)
    if len(values_us):
        bucket = np.searchsorted(bucket_low_us(), values_us, side="right") - 1
        counts = np.frombuffer(histogram.counts, dtype=np.int64)
        counts += np.bincount(bucket, minlength=len(counts))
        histogram.set_internal_tacking_values(int(bucket.min()), int(bucket.max()), len(values_us))
    return histogram.encode().decode(), int(max(values_us, default=0))


@dataclass
class TrialSpec:
    """What to write as one trial. ``latency_ms`` has an array of latencies per second of the trial."""

    latency_ms: Sequence[Floats]
    backend: str = "fastapi"
    scenario: str = "constant"
    trial: int = 1
    status: str = "ok"
    error: str | None = None
    failed: int = 0
    dropped: int = 0
    verdict: str = "valid"
    reasons: list[str] = field(default_factory=list)
    saturated: bool = False
    model: str = "open"
    shape: dict[str, Any] = field(default_factory=lambda: {"name": "constant", "rate": 50.0})
    lag_ms: float = 0.2
    cpu_cores: float = 0.5
    memory_bytes: float = 300e6
    generator_cores: float = 0.1
    restarts: int = 0
    started: datetime = START
    duration_s: float | None = None
    """How long the plan was, where the answers took longer."""
    events: Sequence[tuple[float, str, str, str]] = ()
    """Second of the plan, reason, message and type of what Kubernetes told of the server's pod."""
    generator_pod: str = ""
    """A pod of the load generator, if it has one."""

    @property
    def path(self) -> str:
        return f"{self.backend}/{self.scenario}/{self.trial}"

    @property
    def sent(self) -> int:
        return sum(len(second) for second in self.latency_ms)


def steady(
    median_ms: float, seconds: int = 20, per_s: int = 50, seed: int = 0, spread: float = 0.3
) -> list[Floats]:
    """Log-normal latencies around a median, ``per_s`` in each second."""
    rng = np.random.default_rng(seed)
    return [rng.lognormal(np.log(median_ms), spread, per_s) for _ in range(seconds)]


def exact(values_ms: Sequence[float], seconds: int) -> list[Floats]:
    """The very same latencies in every second."""
    return [np.array(values_ms, dtype=float) for _ in range(seconds)]


def write_trial(run: Path, spec: TrialSpec) -> Path:
    """Write one trial's folder and return it."""
    folder = run / spec.path
    folder.mkdir(parents=True)
    (folder / "latency.hlog").write_text(hlog_text(spec))
    (folder / "summary.json").write_text(json.dumps(summary(spec)))
    _write_csvs(folder, spec)
    _write_locust_csvs(folder, spec)
    return folder


def hlog_text(spec: TrialSpec) -> str:
    """The interval log: latency, service time and dispatch lag of each second."""
    epoch = spec.started.timestamp()
    lines = [
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {epoch:.3f} (seconds since epoch), {spec.started.isoformat()}]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for second, latency_ms in enumerate(spec.latency_ms):
        latency = latency_ms * 1000
        for tag, values in (
            ("latency", latency),
            ("service", np.maximum(1, latency - spec.lag_ms * 1000)),
            ("lag", np.full(len(latency), spec.lag_ms * 1000)),
        ):
            payload, largest = encoded(values)
            lines.append(f"Tag={tag},{second:.3f},1.000,{largest / 1000:.3f},{payload}")
    return "\n".join(lines) + "\n"


def summary(spec: TrialSpec) -> dict[str, Any]:
    """``summary.json`` of the trial."""
    seconds = len(spec.latency_ms)
    planned, completed = spec.sent + spec.dropped, spec.sent - spec.failed
    return {
        "schema": 1,
        "backend_user": f"{spec.backend.capitalize()}User",
        "counts": {"planned": planned, "sent": spec.sent, "completed": completed, "failed": spec.failed,
                   "dropped": spec.dropped},
        "rate": {"planned": planned / seconds, "achieved": completed / seconds},
        "verdict": spec.verdict,
        "reasons": spec.reasons,
        "saturated": spec.saturated,
        "model": spec.model,
        "shape": spec.shape,
        "started": spec.started.isoformat(),
        "duration_s": float(spec.duration_s or seconds),
        "failures": {"HTTP 500": spec.failed} if spec.failed else {},
        "generator": {"cpu_cores_max": spec.generator_cores, "cpu_cores_mean": spec.generator_cores,
                      "rss_bytes_max": 9e7},
    }  # fmt: skip


def _write_csvs(folder: Path, spec: TrialSpec) -> None:
    epoch = spec.started.timestamp()
    seconds = range(len(spec.latency_ms))
    with (folder / "pods.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        columns = ["time", "pod", "container", "cpu_cores", "memory_bytes", "restarts", "ready"]
        rows.writerow([*columns, "phase", "component"] if spec.generator_pod else columns)
        for s in seconds:
            row = [
                epoch + s + 1, spec.backend, "server", spec.cpu_cores, spec.memory_bytes, spec.restarts, 1
            ]  # fmt: skip
            rows.writerow([*row, "Running", "server"] if spec.generator_pod else row)
            if spec.generator_pod:
                used = [spec.generator_cores, 120e6, 0, 1, "Running", "generator"]
                rows.writerow([epoch + s + 1.3, spec.generator_pod, "locust", *used])
    if spec.events:
        told = [[epoch + at_s, spec.backend, *texts] for at_s, *texts in spec.events]
        write_rows(folder / "events.csv", ["time", "pod", "reason", "message", "type"], *told)
    with (folder / "generator.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(GENERATOR_COLUMNS)
        before = 0
        for s in seconds:
            sent = len(spec.latency_ms[s])
            failed = min(sent, max(0, spec.failed - before))  # the first of all
            before += sent
            dropped = spec.dropped if s == 0 else 0
            in_flight = (
                float(np.sum(np.maximum(0.0, spec.latency_ms[s] - spec.lag_ms))) / 1000
            )  # Little's law
            load = [sent + dropped, sent, dropped, in_flight]
            ended = [sent - failed, failed]
            rows.writerow(
                [epoch + s + 1, "worker-1", *load, spec.generator_cores, spec.lag_ms, *ended, 90_000_000]
            )


def write_rows(path: Path, *rows: Sequence[object]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_locust_csvs(folder: Path, spec: TrialSpec) -> None:
    """Locust's own files: arrivals take turns among the names, and the first of them fail."""
    values = np.concatenate([*spec.latency_ms, np.empty(0)])
    failed = [len(range(i, spec.failed, len(NAMES))) for i in range(len(NAMES))]
    lines: list[Sequence[object]] = [
        _stats_line("POST", name, values[i :: len(NAMES)], failed[i])
        for i, name in enumerate(NAMES)
        if len(values) > i
    ]
    failures = [
        ["POST", name, "HTTP 500", failed[i], _utc(spec.started), _utc(spec.started + timedelta(seconds=1))]
        for i, name in enumerate(NAMES)
        if failed[i]
    ]
    if spec.dropped:
        untimed = [0, 0.0, 0, 0, 0.0, 0, 0, *[0] * 11]
        lines.insert(0, ["DROP", "arrival", spec.dropped, spec.dropped, *untimed])
        told = "dropped: every user was busy"
        failures.append(["DROP", "arrival", told, spec.dropped, _utc(spec.started), _utc(spec.started)])
    total = _stats_line("", "Aggregated", values, spec.failed)
    total[2:4] = [len(values) + spec.dropped, spec.failed + spec.dropped]
    write_rows(folder / "stats.csv", STATS_COLUMNS, *lines, total)
    write_rows(folder / "failures.csv", FAILURE_COLUMNS, *failures)
    write_rows(folder / "exceptions.csv", EXCEPTION_COLUMNS)
    ended = spec.dropped + np.cumsum([0, *(len(second) for second in spec.latency_ms)])
    lost = spec.dropped + spec.failed
    write_rows(
        folder / "stats_history.csv",
        HISTORY_COLUMNS,
        *(
            [int(spec.started.timestamp()) + s, USERS, "", "Aggregated", "0.000000", "0.000000",
             *["N/A"] * 11, count if s else 0, lost if s else 0, 0, 0.0, 0, 0, 0]
            for s, count in enumerate(ended)
        ),
    )  # fmt: skip


def _stats_line(method: str, name: str, values_ms: Floats, failed: int) -> list[object]:
    if not len(values_ms):
        return [method, name, 0, 0, 0, 0.0, 0, 0, 0, 0.0, 0.0, *["N/A"] * 11]
    percents = (50, 66, 75, 80, 90, 95, 98, 99, 99.9, 99.99, 100)
    percentiles = np.percentile(values_ms, percents).astype(int).tolist()
    times = [float(one) for one in (np.median(values_ms), values_ms.mean(), values_ms.min(), values_ms.max())]
    return [method, name, len(values_ms), failed, *times, 460.5, 1.0, 0.0, *percentiles]


def _utc(when: datetime) -> str:
    """A moment as Locust writes it: whole seconds, cut off."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_run(run: Path, trials: Sequence[TrialSpec], /, **head: Any) -> Path:
    """Write a run folder of these trials; ``head`` replaces parts of ``run.json``."""
    run.mkdir(parents=True, exist_ok=True)
    for spec in trials:
        if spec.status != "pending":
            write_trial(run, spec)
    (run / "run.json").write_text(json.dumps(run_json(trials) | head))
    return run


def run_json(trials: Sequence[TrialSpec]) -> dict[str, Any]:
    """``run.json`` of these trials."""
    titles = {"fastapi": "FastAPI", "bentoml": "BentoML", "ray_serve": "Ray Serve"}
    return {
        "schema": 1,
        "plan": {},
        "plan_name": "quick",
        "target": "local",
        "command": "modelswarm run quick --seed 1",
        "started": START.isoformat(),
        "ended": (START + timedelta(minutes=4)).isoformat(),
        "status": "complete",
        "versions": {"modelswarm": "0.1.0", "locust": "2.47.0", "python": "3.11.7"},
        "machine": {"cpu": "Example CPU", "cores": 2, "memory_bytes": 24 << 30, "os": "Debian 12",
                    "kernel": "6.1"},
        "model": {"digest": "sha256:" + "ab" * 32, "architecture": "MobileNetV2", "weights": "synthetic",
                  "description": "Synthetic weights that tell the test images apart."},
        "seed": 1,
        "objectives": [],
        "fairness": {"server_cores": [1], "generator_cores": [0], "threads": 1, "workers": 1, "not_held": []},
        "backends": {
            name: {"title": titles.get(name, name), "version": "1.2.3", "protocol": "predict",
                   "stand_in": False, "differs": []}
            for name in sorted({spec.backend for spec in trials})
        },
        "trials": [
            {"backend": spec.backend, "scenario": spec.scenario, "trial": spec.trial, "order": order,
             "path": spec.path, "seed": order, "started": spec.started.isoformat(), "ended": None,
             "status": spec.status, "error": spec.error, "locust_exit": 0,
             "parity": {"checked": 9, "wrong": 0}}
            for order, spec in enumerate(trials, 1)
        ],
    }  # fmt: skip


def synthesise(
    run: Path,
    requests: int = 1_000_000,
    backends: int = 3,
    scenarios: int = 2,
    trials: int = 3,
    seconds: int = 60,
) -> Path:
    """A run folder of so many requests in all, for timing ``analysis.report.write_report``."""
    per_s = max(1, requests // (backends * scenarios * trials * seconds))
    specs = []
    for b, s, t in np.ndindex(backends, scenarios, trials):
        latency_ms = steady(30.0 * 1.3**b, seconds, per_s, seed=(b * scenarios + s) * trials + t, spread=0.4)
        names = ("fastapi", "bentoml", "ray_serve")
        specs.append(TrialSpec(latency_ms, names[b] if b < 3 else f"backend{b}", f"scenario{s}", t + 1))
    return write_run(run, specs)
