import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.locust_csv import FILES, LocustFiles, read_locust
from tests.analysis.folders import TrialSpec, exact, write_trial

WRITER = """
import sys
from pathlib import Path
from locust.env import Environment
from locustfiles.engine.record import LocustCsv

environment = Environment()
runner = environment.create_local_runner()
csvs = LocustCsv(environment, Path(sys.argv[1]))
csvs.write()
for name, ms, size in (("small", 0.4, 100), ("small", 12.8, 200), ("large", 40.0, 300)):
    environment.stats.log_request("POST", name, ms, size)
environment.stats.log_error("POST", "large", "HTTP 500")
runner.log_exception("local", "boom, it says", "Traceback\\n  File \\"a.py\\", line 3, in task\\nValueError")
csvs.write()
csvs.close_files()
"""


def read(folder: Path) -> tuple[LocustFiles, list[str]]:
    problems: list[str] = []
    return read_locust(folder, "x", problems), problems


@pytest.fixture(scope="module")
def by_locust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locust")
    project = Path(__file__).parents[2]  # in a process of its own: locust patches the standard library
    environment = os.environ | {"PYTHONPATH": str(project)}
    subprocess.run([sys.executable, "-c", WRITER, str(folder)], check=True, env=environment, timeout=60)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = TrialSpec(exact([10.0, 20.0, 30.0], 4), failed=2, dropped=3)
    return write_trial(tmp_path, spec)


class TestFilesThatLocustItselfWrote:
    def test_are_read_without_a_word(self, by_locust: Path) -> None:
        found, problems = read(by_locust)
        assert problems == []
        large, small = found.requests
        assert (large.method, large.name, large.requests, large.failures) == ("POST", "large", 1, 1)
        assert (small.name, small.requests, small.failures, small.answer_bytes_mean) == ("small", 2, 0, 150)
        assert small.p95_ms == 13  # whole milliseconds
        assert found.total is not None
        assert (found.total.requests, found.total.failures) == (3, 1)

    def test_have_failures_and_exceptions(self, by_locust: Path) -> None:
        found, _ = read(by_locust)
        assert found.failures is not None
        assert [(one.name, one.error, one.count) for one in found.failures] == [("large", "HTTP 500", 1)]
        assert found.failures[0].first_seen == found.failures[0].last_seen is not None
        assert found.exceptions is not None
        assert [(one.count, one.message) for one in found.exceptions] == [(1, "boom, it says")]
        assert found.exceptions[0].traceback.splitlines()[1].strip() == 'File "a.py", line 3, in task'

    def test_have_a_history_of_totals(self, by_locust: Path) -> None:
        history = read(by_locust)[0].history
        assert history is not None
        assert history["Total Request Count"].tolist() == [0, 3]
        assert history["Total Failure Count"].tolist() == [0, 1]


class TestWholeFiles:
    def test_without_a_single_request_are_no_problem(self, tmp_path: Path) -> None:
        found, problems = read(write_trial(tmp_path, TrialSpec(exact([], 3))))
        assert problems == []
        assert (found.requests, found.failures, found.exceptions) == ([], [], [])

    def test_tell_dropped_arrivals_apart(self, folder: Path) -> None:
        found, problems = read(folder)
        assert problems == []
        first = found.requests[0]
        assert (first.method, first.requests, first.failures, first.max_ms) == ("DROP", 3, 3, 0)


class TestDamagedFiles:
    @pytest.mark.parametrize(
        ("file", "old", "new", "told"),
        [
            ("stats.csv", "POST,small,4,", "POST,small,5,", "its names add up to 16 requests and 5 failures"),
            ("stats.csv", "POST,small,4,", "POST,small,1_0,", "1 of 5 rows are cut off or not numbers"),
            ("stats.csv", "POST,small,4,", "POST,small,-4,", "1 of 5 rows"),
            ("stats.csv", "POST,small,4,", "POST,small,4.5,", "1 of 5 rows"),
            ("stats.csv", "POST,small,4,0", "POST,small,4,7", "1 of 5 rows"),
            ("stats.csv", ",Aggregated", ",Aggregate", "has no row Aggregated: it is cut off"),
            ("stats.csv", "POST,small", "POST,medium", "1 of 5 rows repeat an earlier one"),
            ("stats.csv", "Failure Count", "Failures", "has no column Failure Count"),
            ("failures.csv", ",1,2026-", ",one,2026-", "2 of 3 rows"),
            ("failures.csv", "2026-11-21T14:31:01Z", "2026-11-21T25:00:00Z", "2 of 3 rows"),
            ("stats_history.csv", ",6,5,", ",12,5,", "1 row with fewer requests than a row before"),
            ("stats_history.csv", ",9,5,", ",99,5,", "1 row with fewer requests"),
            ("stats_history.csv", ",9,5,", ",x,5,", "1 of 5 rows"),
            ("exceptions.csv", "Nodes", 'Nodes\n1,"a,b', "1 of 1 rows"),
        ],
    )
    def test_are_named_with_what_was_left_out(
        self, folder: Path, file: str, old: str, new: str, told: str
    ) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
        _, problems = read(folder)
        assert any(problem.startswith(f"x/{file}: ") and told in problem for problem in problems)

    def test_whose_names_do_not_add_up_are_not_used(self, folder: Path) -> None:
        path = folder / "stats.csv"
        path.write_text(path.read_text().replace("POST,small,4,", "POST,small,9,"))
        found, _ = read(folder)
        assert (found.requests, found.total) == ([], None)

    @pytest.mark.parametrize("file", FILES)
    def test_that_are_missing_are_named_one_by_one(self, folder: Path, file: str) -> None:
        (folder / file).unlink()
        assert read(folder)[1] == [f"x/{file}: is missing."]

    def test_of_which_none_is_there_are_named_once(self, folder: Path) -> None:
        for file in FILES:
            (folder / file).unlink()
        told = "stats.csv, stats_history.csv, failures.csv, exceptions.csv"
        assert read(folder)[1] == [f"x: none of Locust's own files is there ({told})."]
