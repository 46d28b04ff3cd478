"""The folder of one trial, written as it goes: whatever happens, what was measured can be read."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.stats import PERCENTILES_TO_REPORT, StatsCSVFileWriter

from locustfiles.engine.histogram import IntervalLog
from locustfiles.engine.recorder import Second

GENERATOR_COLUMNS = (
    "time",
    "worker",
    "planned",
    "sent",
    "dropped",
    "in_flight",
    "cpu_cores",
    "lag_p99_ms",
    "completed",
    "failed",
    "rss_bytes",
)


class LocustCsv(StatsCSVFileWriter):
    """Locust's own CSVs under the names of the run folder: stats.csv, not PREFIX_stats.csv.

    Locust rewrites them from a loop of its own that may end a second before the last numbers; here the
    recorder says when.
    """

    FILES = ("stats.csv", "stats_history.csv", "failures.csv", "exceptions.csv")

    def __init__(self, environment: Environment, folder: Path) -> None:
        super().__init__(environment, PERCENTILES_TO_REPORT, f"{folder}{os.sep}")
        for name in self.FILES:  # the open files keep their new names
            (folder / f"_{name}").rename(folder / name)
        self.stats_history_csv_writer.writerow(self.stats_history_csv_columns)

    def write(self) -> None:
        """Bring all four files up to date."""
        for file, rows in (
            (self.requests_csv_filehandle, self.requests_csv),
            (self.failures_csv_filehandle, self.failures_csv),
            (self.exceptions_csv_filehandle, self.exceptions_csv),
        ):
            file.seek(0)
            rows(csv.writer(file))
            file.truncate()
            file.flush()
        self._stats_history_data_rows(self.stats_history_csv_writer, time.time())
        self.stats_history_csv_filehandle.flush()


class TrialFolder:
    """Writes `latency.hlog`, `generator.csv`, Locust's CSVs and, at the end, `summary.json`."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        """Raises OSError when the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder
        self._generator_file = (folder / "generator.csv").open("w", newline="")
        self._generator = csv.writer(self._generator_file)
        self._generator.writerow(GENERATOR_COLUMNS)
        self._generator_file.flush()
        self._locust = LocustCsv(environment, folder)
        self._log_file = (folder / "latency.hlog").open("w")
        self._log: IntervalLog | None = None

    @classmethod
    def unused(cls, wanted: Path) -> Path:
        """`wanted`, or wanted-2, wanted-3, … when a trial is recorded there already."""
        n, path = 1, wanted
        while (path / "generator.csv").exists():
            n += 1
            path = wanted.with_name(f"{wanted.name}-{n}")
        return path

    def start(self, epoch_s: float) -> None:
        """Plan time 0, in seconds since the epoch."""
        self._log = IntervalLog(self._log_file, epoch_s, "modelswarm: values in microseconds, maxima in ms")

    def write_second(self, second: int, entry: Second) -> None:
        """Append the histograms of one second of plan time."""
        if self._log is not None:
            self._log.write(second, entry.histograms)

    def write_generator(self, row: Mapping[str, object]) -> None:
        """Append one worker's second."""
        self._generator.writerow([row[column] for column in GENERATOR_COLUMNS])
        self._generator_file.flush()

    def write_locust(self) -> None:
        """Bring Locust's CSVs up to date."""
        self._locust.write()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, whole or not at all."""
        temporary = self.path / "summary.json.tmp"
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(self.path / "summary.json")

    def close(self) -> None:
        """Close every file."""
        self._locust.write()
        self._locust.close_files()
        self._generator_file.close()
        self._log_file.close()
