"""Whatever happens to the bytes of a run folder: a report, no traceback, and no number from nowhere."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.report import Report, write_report
from analysis.runfolder import NotARunFolder
from tests.analysis.folders import TrialSpec, steady, write_run

REQUESTS = 6 * 30
DROPPED = 5
TRIAL = "fastapi/constant/1"
FILES = (
    "run.json",
    *(f"{TRIAL}/{name}" for name in ("summary.json", "latency.hlog", "pods.csv", "generator.csv")),
    *(f"{TRIAL}/{name}" for name in ("stats.csv", "stats_history.csv", "failures.csv", "exceptions.csv")),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = [TrialSpec(steady(40, 6, 30), failed=4, dropped=DROPPED), TrialSpec(steady(60, 6, 30), "bentoml")]
    return write_run(tmp_path_factory.mktemp("whole") / "run", specs, objectives=["p95 < 100ms"])


def report_of(whole: Path, file: str, change: Callable[[bytes], bytes]) -> Report | None:
    """The report of a copy in which one file was changed; None if there was nothing to report on."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(whole, Path(folder) / "run"))
        (run / file).write_bytes(change((whole / file).read_bytes()))
        try:
            report = write_report(run)
        except NotARunFolder:
            return None
        json.loads((run / "report.json").read_text(), parse_constant=pytest.fail)
        return report


def holds(report: Report | None) -> None:
    """What is true of every report of these two trials."""
    if report is None:
        return
    for row in report.rows:
        assert row.requests <= REQUESTS
        assert 0 <= (row.error_rate or 0) <= 1 or row.verdict == "invalid"
        for value in row.latency_ms.values():
            assert value is None or 0 <= value < 1000
    for one in report.requests:
        assert one.requests <= REQUESTS + DROPPED
        assert all(low <= high < 1e6 for low, high in filter(None, (one.median_ms, one.p95_ms, one.p99_ms)))
    assert all(row.count <= REQUESTS + DROPPED for row in report.failures)
    assert all(isinstance(problem, str) and problem for problem in report.problems)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def rows_reversed(data: bytes) -> bytes:
    return b"\n".join(reversed(data.split(b"\n")))


def twice(data: bytes) -> bytes:
    return data + data


MUTATIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "cut in half": cut,
    "without its last byte": lambda data: data[:-1],
    "rows reversed": rows_reversed,
    "twice": twice,
    "zeros": lambda data: bytes(len(data)),
    "foreign bytes": lambda data: data.replace(b"a", b"\xff"),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "Windows line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "not a number": lambda data: data.replace(b"1", b"NaN"),
    "infinite": lambda data: data.replace(b"0", b"Infinity"),
    "huge numbers": lambda data: data.replace(b"0", b"9" * 400),
    "negative": lambda data: data.replace(b":", b":-").replace(b",", b",-"),
    "markup": lambda data: data.replace(b"fastapi", b"<b>&amp;"),
    "other separators": lambda data: data.replace(b",", b";"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_damaged_file_never_stops_the_report(whole: Path, file: str, name: str) -> None:
    holds(report_of(whole, file, MUTATIONS[name]))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", ["empty", "one byte", "cut in half", "zeros", "other separators"])
def test_a_file_that_lost_its_content_is_named(whole: Path, file: str, name: str) -> None:
    report = report_of(whole, file, MUTATIONS[name])
    assert report is not None
    assert any(Path(file).name in problem for problem in report.problems)


@pytest.mark.parametrize("file", FILES[1:])
def test_a_missing_file_is_named(whole: Path, file: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / file).unlink()
    report = write_report(run)
    holds(report)
    assert any(problem.startswith(file) for problem in report.problems)


@settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    file=st.sampled_from(FILES),
    at=st.floats(0, 1),
    length=st.integers(0, 200),
    replacement=st.one_of(
        st.binary(max_size=40),
        st.text('0123456789.,-+eE\n"{}[]:nulltruefalse', max_size=40).map(str.encode),
    ),
)
def test_any_change_of_bytes_still_gives_an_honest_report(
    whole: Path, file: str, at: float, length: int, replacement: bytes
) -> None:
    def change(data: bytes) -> bytes:
        start = int(at * len(data))
        return data[:start] + replacement + data[start + length :]

    holds(report_of(whole, file, change))
