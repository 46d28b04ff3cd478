"""Whatever happens to the bytes of a run folder: a report, no traceback, and no number from nowhere."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.baseline import baseline_of
from analysis.exporting import NothingToExport, export
from analysis.foreign import NotReadable
from analysis.importing import import_files
from analysis.report import Asked, Report, write_report
from analysis.runfolder import NotARunFolder
from tests.analysis.folders import START, TrialSpec, run_json, steady, write_rows, write_run
from tests.analysis.vegeta import as_csv, as_json

REQUESTS = 6 * 30
DROPPED = 5
TRIAL = "fastapi/constant/1"
FILES = (
    "run.json",
    *(f"{TRIAL}/{name}" for name in ("summary.json", "latency.hlog", "pods.csv", "generator.csv")),
    *(f"{TRIAL}/{name}" for name in ("stats.csv", "stats_history.csv", "failures.csv", "exceptions.csv")),
)
KEPT = ("ok", "valid", "open", "complete", "fastapi", "bentoml", "constant")
"""Texts without which there would be nothing to report on."""
MAY_LACK = ("baseline.json", f"{TRIAL}/events.csv", f"{TRIAL}/energy.csv")
"""Files that not every run has, so that nobody misses one."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    first = TrialSpec(
        steady(40, 6, 30),
        failed=4,
        dropped=DROPPED,
        events=[(1, "Pulled", "image", "Normal"), (3, "Unhealthy", 'probe, "failed"', "Warning")],
        generator_pod="worker-0",
    )
    specs = [first, TrialSpec(steady(60, 6, 30), "bentoml")]
    folder = tmp_path_factory.mktemp("whole")
    head = {"objectives": ["p95 < 100ms", "p99 <= 2 * baseline"], "plan": {"price_cpu": 0.04}}
    run = write_run(folder / "run", specs, **head)
    rows = [[START.timestamp() + s, zone, s * 10.0] for s in range(8) for zone in ("0", "1")]
    write_rows(run / TRIAL / "energy.csv", ["time", "zone", "joules"], *rows)
    kept = baseline_of(write_run(folder / "before", specs))
    (run / "baseline.json").write_text(kept.model_dump_json(by_alias=True))
    return run


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
        ElementTree.parse(run / "junit.xml")
        assert (run / "report.html").read_text().count("<script") == 1
        export(run, "json", run / "export")
        with suppress(NothingToExport):
            export(run, "hgrm", run / "export")
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
    for cost in report.costs:
        assert cost.answered_per_s <= REQUESTS * 1000  # a plan of a millisecond
        assert cost.million_reserved is None or cost.million_reserved >= 0
        assert cost.joules_per_prediction is None or cost.joules_per_prediction >= 0
    assert all(level.requests <= REQUESTS for level in report.levels)
    assert len([event for event in report.events if event.what != "latency"]) <= 12
    for result in report.objectives:
        assert not result.passed or not result.value is result.low is result.high is None
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
    "large numbers": lambda data: re.sub(rb"(?<=,)[0-9][0-9.]*(?=[,\r\n])", b"1e308", data),
    "negative": lambda data: data.replace(b":", b":-").replace(b",", b",-"),
    "markup": lambda data: data.replace(b"fastapi", b"<b>&amp;"),
    "every row at the same time": lambda data: re.sub(rb"(?m)^\d{10}(\.\d+)?", b"1763735461", data),
    "a clock that went back": lambda data: re.sub(rb"(?m)^(\d{9})[5-9]", rb"\g<1>0", data),
    "a newer writer": lambda data: data.replace(b'"schema": 1', b'"schema": 7, "more": {"x": [1, 2]}'),
    "an emptied number": lambda data: re.sub(rb"\d+", b"", data, count=9),
    "other separators": lambda data: data.replace(b",", b";"),
}


@pytest.mark.parametrize("file", FILES + MAY_LACK)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_damaged_file_never_stops_the_report(whole: Path, file: str, name: str) -> None:
    holds(report_of(whole, file, MUTATIONS[name]))


@pytest.mark.parametrize("file", ["run.json", f"{TRIAL}/summary.json", "baseline.json"])
def test_a_newer_writer_is_named(whole: Path, file: str) -> None:
    report = report_of(whole, file, lambda data: json.dumps(json.loads(data) | {"schema": 99}).encode())
    assert report is not None
    assert any(problem.startswith(f"{file}: was written by a newer") for problem in report.problems)


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
@pytest.mark.parametrize("file", ["run.json", f"{TRIAL}/summary.json", "baseline.json"])
def test_a_time_at_the_end_of_the_calendar_is_left_out_and_named(whole: Path, file: str, when: str) -> None:
    report = report_of(whole, file, lambda data: re.sub(rb'"20\d\d-[^"]+"', f'"{when}"'.encode(), data))
    assert report is not None
    assert any(file in problem and "started is wrong" in problem for problem in report.problems)


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


@dataclass(frozen=True)
class Change:
    """Bytes in place of so many others, at a share of the whole."""

    at: float
    length: int
    replacement: bytes

    def __call__(self, data: bytes) -> bytes:
        start = int(self.at * len(data))
        return data[:start] + self.replacement + data[start + self.length :]


CHANGES = st.builds(
    Change,
    st.floats(0, 1),
    st.integers(0, 200),
    st.one_of(
        st.binary(max_size=40),
        st.text('0123456789.,-+eE\n"{}[]:nulltruefalseNaN', max_size=40).map(str.encode),
    ),
)


@settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(file=st.sampled_from(FILES + MAY_LACK), change=CHANGES)
def test_any_change_of_bytes_still_gives_an_honest_report(whole: Path, file: str, change: Change) -> None:
    holds(report_of(whole, file, change))


@pytest.mark.parametrize("file", ["run.json", f"{TRIAL}/summary.json", "baseline.json"])
def test_half_a_character_in_any_text_never_stops_the_report(whole: Path, file: str) -> None:
    def half(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: half(one) for key, one in value.items()} | {"more \udce9": "\ud800"}
        if isinstance(value, list):
            return [half(one) for one in value]
        named = isinstance(value, str) and value not in KEPT and value[:2] != "20" and "/" not in value
        return f"{value}\udce9" if named else value

    report = report_of(whole, file, lambda data: json.dumps(half(json.loads(data))).encode())
    assert report is not None
    holds(report)
    assert "\udce9" not in report.model_dump_json()


@pytest.mark.parametrize("lost", [True, False])
def test_a_folder_whose_name_is_not_utf_8_is_reported(whole: Path, tmp_path: Path, lost: bool) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "r\udce9sultats"))
    write_report(run)
    if lost:
        (run / "run.json").unlink()
        (run / "fastapi").rename(run / "f\udce9stapi")
    now = write_report(run, Asked(baseline=run))
    assert [row.requests for row in now.rows] == [REQUESTS] * 2
    assert now.baseline.startswith("r?sultats")
    recorded = write_report(Path(shutil.copytree(run / "bentoml/constant/1", tmp_path / "r\udce9corded")))
    assert recorded.rows[0].requests == REQUESTS


class TestAPlanEditedBetweenTrials:
    def run_of(self, folder: Path, shapes: list[dict[str, Any]], **changes: Any) -> Report:
        specs = [
            TrialSpec(steady(40, 6, 30, seed=i), trial=i, shape=shape, **changes)
            for i, shape in enumerate(shapes, 1)
        ]
        other = [TrialSpec(steady(60, 6, 30), "bentoml", trial=i, shape=shapes[0]) for i in (1, 2)]
        return write_report(write_run(folder, [*specs, *other]))

    def test_is_not_ranked_against_what_had_one_load(self, tmp_path: Path) -> None:
        shapes = [{"name": "constant", "rate": 30.0}, {"name": "poisson", "rate": 30.0}]
        report = self.run_of(tmp_path, shapes)
        assert report.recommendation.backend is None
        assert "its trials had different loads (name" in report.rankings[0].excluded["fastapi"].reason

    def test_whose_trials_are_listed_twice_counts_each_once(self, tmp_path: Path) -> None:
        specs = [TrialSpec(steady(40, 6, 30))]
        trials = run_json(specs)["trials"] * 2
        report = write_report(write_run(tmp_path, specs, trials=trials))
        assert report.rows[0].requests == 180
        assert any("has the path of an earlier one" in problem for problem in report.problems)


class TestAnImportedFile:
    @settings(max_examples=60, deadline=None, database=None)
    @given(form=st.sampled_from([as_csv, as_json]), change=CHANGES)
    def test_with_any_change_gives_an_honest_report_or_a_sentence(
        self, form: Callable[[list[float]], str], change: Change
    ) -> None:
        data = form([float(ms) for ms in range(1, 41)]).encode()
        with tempfile.TemporaryDirectory() as name:
            file = Path(name) / "results.txt"
            file.write_bytes(change(data))
            try:
                import_files([file], Path(name) / "run", ["shop"], "load", "")
            except NotReadable:
                return
            report = write_report(Path(name) / "run")
        (row,) = report.rows
        assert 0 < row.requests <= 42
        assert row.verdict == "suspect"
        assert report.problems == []

    @pytest.mark.parametrize("name", MUTATIONS)
    @pytest.mark.parametrize("tool", ["k6.csv", "k6.json", "stock_stats.csv"])
    def test_that_is_damaged_gives_a_report_or_a_sentence(self, tmp_path: Path, tool: str, name: str) -> None:
        source = Path(__file__).parent / "foreign" / tool
        (tmp_path / tool).write_bytes(MUTATIONS[name](source.read_bytes()))
        try:
            import_files([tmp_path / tool], tmp_path / "run", ["shop"], "load", "")
        except NotReadable:
            return
        (row,) = write_report(tmp_path / "run").rows
        assert row.requests < 10_000
