"""What modelswarm itself costs: `make bench` prints a line for each figure, and what it may be at most.

The load is real: Locust's master and two workers against nginx, 500 requests a second of 12 KB each. Copies
of that trial, 10,000,000 requests in all, make the run folder whose report is timed. Locust's history is of a
million rows, two names and their sum, as `--csv-full-history` writes it.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from scripts.bench import freeze, generators, grpc
from scripts.cores import pinned, split_cores, usable_cores
from scripts.load import LocalLoad
from scripts.project import Project
from scripts.sampler import Sampler

RATE_PER_S = 500
LOAD_S = 40
REQUESTS = 10_000_000
HISTORY_ROWS = 1_000_000
STARTS = 5


def start_s() -> float:
    """Return the seconds that `modelswarm list` takes: the median of some starts."""
    command = [str(Path(sys.executable).with_name("modelswarm")), "list"]
    spans = []
    for _ in range(STARTS):
        began_s = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        spans.append(time.perf_counter() - began_s)
    return statistics.median(spans)


def load_bytes(folder: Path, trial: Path) -> int:
    """Record a trial at 500/s in `trial`; return the peak memory of the load side's processes together."""
    cores = split_cores(usable_cores(), 1)
    trial.mkdir(parents=True)
    generators.make_payload(folder / "artifacts")
    user_file = folder / "bench_user.py"
    user_file.write_text(generators.OURS)
    load = LocalLoad(Project(folder), 2, user_file, trial, uuid.uuid4().hex)
    samples = folder / "load.csv"
    with (
        generators.nginx(folder, cores.server) as (url, _),
        pinned(cores.generator),
        Sampler(load.family, samples, "load", lambda: True).running(),
    ):
        try:
            load.start(url, ["--shape", "constant", "--rate", str(RATE_PER_S), "--run-time", f"{LOAD_S}s"])
            while load.exit_status() is None:
                time.sleep(0.2)
        finally:
            load.stop()
    return max(int(row["memory_bytes"]) for row in csv.DictReader(samples.open()))


def report_cost(run: Path, trial: Path) -> tuple[float, int]:
    """Report a run of `REQUESTS`, copies of `trial` as ten backends; return its seconds and peak memory."""
    sent = json.loads((trial / "summary.json").read_text())["counts"]["sent"]
    trials = []
    for number in range(1, -(-REQUESTS // sent) + 1):
        backend, scenario = f"nginx{number % 10}", f"constant{number // 10 % 10}"
        path = f"{backend}/{scenario}/{number}"
        shutil.copytree(trial, run / path)
        trials.append(
            {"backend": backend, "scenario": scenario, "trial": number, "path": path, "status": "ok"}
        )
    (run / "run.json").write_text(json.dumps({"schema": 1, "plan_name": "bench", "trials": trials}))
    script = "import sys; from pathlib import Path; from analysis.report import write_report; "
    began_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", script + "write_report(Path(sys.argv[1]))", str(run)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "the report could not be made"
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began_s, resource.struct_rusage(usage).ru_maxrss * unit


def history_s(folder: Path) -> float:
    """Return the seconds that reading Locust's history of `HISTORY_ROWS` takes."""
    from analysis.locust_csv import HISTORY
    from analysis.tables import read_table

    columns = ["Timestamp", "User Count", "Type", "Name", *(f"{n}" for n in range(13)), *HISTORY.numbers[2:]]
    with (folder / "history.csv").open("w", newline="") as file:
        file.write(",".join(columns) + "\r\n")
        for row in range(HISTORY_ROWS):
            kind = ("POST,small", "POST,large", ",Aggregated")[row % 3]
            cells = "15.2,0.0,12,14,15,16,20,22,30,35,50,60,61"
            file.write(f"{1763735460 + row // 3},100,{kind},{cells},{row * 15},0\r\n")
    began_s = time.perf_counter()
    table = read_table(folder / "history.csv", "history.csv", HISTORY, [])
    assert table is not None
    assert len(table) == HISTORY_ROWS // 3
    return time.perf_counter() - began_s


def main() -> None:
    """Measure and print."""
    print(f"start of the command (modelswarm list): {start_s():.2f} s (at most 0.3 s)", flush=True)
    with tempfile.TemporaryDirectory() as name:
        seconds = history_s(Path(name))
    print(f"Locust's history of {HISTORY_ROWS:,} rows: {seconds:.1f} s (at most 2 s)", flush=True)
    if not shutil.which("nginx"):
        print("The load side was not measured: nginx is not installed (apt-get install nginx-light)")
        return
    with tempfile.TemporaryDirectory() as name:
        folder, trial = Path(name), Path(name) / "trial"
        peak = load_bytes(folder, trial)
        print(
            f"load side at {RATE_PER_S}/s, master and 2 workers: {peak / 1e6:.0f} MB (at most 300 MB)",
            flush=True,
        )
        seconds, bytes_ = report_cost(folder / "run", trial)
        print(
            f"report of {REQUESTS:,} requests: {seconds:.1f} s (at most 10 s), {bytes_ / 1e6:.0f} MB "
            "(at most 500 MB)\n",
            flush=True,
        )
    freeze.main()
    print(flush=True)
    generators.main()
    print(flush=True)
    grpc.main()


if __name__ == "__main__":
    main()
