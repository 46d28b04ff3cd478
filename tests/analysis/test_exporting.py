"""A run's numbers for other programs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from analysis.exporting import export
from analysis.importing import import_files
from analysis.report import build_report
from scripts import cli
from scripts.errors import UserError
from scripts.foreign import export_run
from tests.analysis.folders import TrialSpec, exact, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    specs = [
        TrialSpec(exact([10.0] * 19 + [50.0], 12), dropped=2),
        TrialSpec(exact([20.0] * 20, 12), "bentoml+batching"),
        TrialSpec(exact([20.0], 1), "dead", status="pending"),
    ]
    return write_run(tmp_path / "run", specs)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestCsv:
    def test_has_the_reports_numbers_of_each_cell_and_trial(self, run: Path, tmp_path: Path) -> None:
        export(run, "csv", tmp_path / "out")
        report = build_report(run)
        for name, expected in (("cells", report.rows), ("trials", report.trials)):
            found = rows(tmp_path / "out" / f"{name}.csv")
            for told, row in zip(found, expected, strict=True):
                assert told["backend"] == row.backend
                assert told["latency_ms_p95"] == ("" if not row.requests else str(row.latency_ms["p95"]))
                assert told["dropped"] == ("" if row.dropped is None else str(row.dropped))

    def test_has_no_percentile_that_a_sample_is_too_small_for(self, run: Path, tmp_path: Path) -> None:
        export(run, "csv", tmp_path / "out")
        for name in ("cells", "trials"):
            first = rows(tmp_path / "out" / f"{name}.csv")[0]
            for kind in ("latency", "service", "lag"):
                assert first[f"{kind}_ms_p95"]
                assert (first[f"{kind}_ms_p99"], first[f"{kind}_ms_p99.9"]) == ("", "")
        second = rows(tmp_path / "out" / "seconds.csv")[0]
        assert second["latency_ms_p50"]
        assert (second["latency_ms_p95"], second["latency_ms_p99"]) == ("", "")

    def test_has_every_second_of_every_trial(self, run: Path, tmp_path: Path) -> None:
        export(run, "csv", tmp_path / "out")
        found = rows(tmp_path / "out" / "seconds.csv")
        assert len(found) == 24
        first = found[0]
        assert (first["backend"], first["second"], first["planned"], first["dropped"]) == (
            "fastapi",
            "0",
            "22",
            "2",
        )
        assert (first["answered"], first["cpu_cores"], first["memory_bytes"]) == ("20", "0.5", "300000000.0")
        assert float(first["latency_ms_p50"]) == pytest.approx(10, rel=0.001)
        assert float(first["latency_ms_max"]) == 50

    def test_has_no_seconds_after_the_last_answer(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec([*exact([10.0] * 20, 3), *exact([], 5)])])
        export(run, "csv", tmp_path / "out")
        assert [row["second"] for row in rows(tmp_path / "out" / "seconds.csv")] == ["0", "1", "2"]

    @pytest.mark.parametrize("taken", ["file", "file/below"])
    def test_is_not_written_where_a_file_is(self, run: Path, tmp_path: Path, taken: str) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(UserError, match="is there and is no folder") as told:
            export_run(run, "csv", tmp_path / taken)
        assert told.value.exit_code == 2


class TestOtherForms:
    def test_json_has_the_same_rows(self, run: Path, tmp_path: Path) -> None:
        for form in ("csv", "json"):
            export(run, form, tmp_path)
        for name in ("cells", "trials", "seconds"):
            told = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
            expected = rows(tmp_path / f"{name}.csv")
            assert [str(row["backend"]) for row in told] == [row["backend"] for row in expected]
            assert len(told) == len(expected)

    def test_parquet_has_the_same_rows(self, run: Path, tmp_path: Path) -> None:
        for form in ("csv", "parquet"):
            export(run, form, tmp_path)
        table = parquet.read_table(tmp_path / "seconds.parquet").to_pylist()
        expected = rows(tmp_path / "seconds.csv")
        assert [row["answered"] for row in table] == [int(row["answered"]) for row in expected]

    def test_parquets_columns_without_values_have_a_type(self, run: Path, tmp_path: Path) -> None:
        for form in ("cells", "trials", "seconds"):
            export(run, "parquet", tmp_path)
            types = {
                field.name: str(field.type) for field in parquet.read_schema(tmp_path / f"{form}.parquet")
            }
            assert "null" not in types.values()
            assert types.get("started") in (None, "string")

    def test_the_plotters_file_has_the_distribution_in_milliseconds(self, run: Path, tmp_path: Path) -> None:
        paths = export(run, "hgrm", tmp_path / "out")
        assert [path.name for path in paths] == ["bentoml+batching-constant.hgrm", "fastapi-constant.hgrm"]
        text = paths[1].read_text()
        assert text.split()[:4] == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        lines = [line.split() for line in text.splitlines()[2:] if not line.startswith("#")]
        assert float(lines[0][0]) == pytest.approx(10, rel=0.001)
        assert (float(lines[-1][0]), lines[-1][2]) == (pytest.approx(50, rel=0.001), "240")
        values = [float(line[0]) for line in lines]
        assert values == sorted(values)

    def test_the_plotters_file_has_mean_and_deviation_in_one_unit(self, run: Path, tmp_path: Path) -> None:
        text = export(run, "hgrm", tmp_path / "out")[1].read_text()
        mean, deviation = re.findall(r"(?:Mean|StdDeviation) += +([\d.]+)", text)
        latencies_ms = [10.0] * 19 + [50.0]
        assert float(mean) == pytest.approx(np.mean(latencies_ms), rel=0.001)
        assert float(deviation) == pytest.approx(np.std(latencies_ms), rel=0.001)

    def test_the_plotter_has_a_file_for_each_of_two_cells_that_are_spelled_alike(
        self, tmp_path: Path
    ) -> None:
        names = (("a-b", "c"), ("a", "b-c"), ("a", "b"))
        specs = [
            TrialSpec(exact([10.0 * at] * 20, 5), backend, scenario)
            for at, (backend, scenario) in enumerate(names, 1)
        ]
        paths = export(write_run(tmp_path / "run", specs), "hgrm", tmp_path / "out")
        found = {path.name: float(path.read_text().splitlines()[2].split()[0]) for path in paths}
        assert found == {
            "a-b--c.hgrm": pytest.approx(10, rel=0.001),
            "a--b-c.hgrm": pytest.approx(20, rel=0.001),
            "a-b.hgrm": pytest.approx(30, rel=0.001),
        }


class TestTheCommand:
    def test_writes_into_the_run_and_says_what(self, run: Path) -> None:
        done = CliRunner().invoke(cli.app, ["export", str(run)])
        assert done.exit_code == 0
        assert done.output.split() == [
            str(run / "export" / f"{n}.csv") for n in ("cells", "trials", "seconds")
        ]

    def test_refuses_a_form_that_there_is_not(self, run: Path) -> None:
        done = CliRunner().invoke(cli.app, ["export", str(run), "--format", "cvs"])
        assert str(done.exception) == "There is no format 'cvs'; did you mean 'csv'?"

    def test_says_that_there_is_no_distribution_to_plot(self, tmp_path: Path) -> None:
        stock = Path(__file__).parent / "foreign/stock_stats.csv"
        import_files([stock], tmp_path / "run", ["shop"], "checkout", "")
        out = tmp_path / "out"
        done = CliRunner().invoke(
            cli.app, ["export", str(tmp_path / "run"), "--format", "hgrm", "--out", str(out)]
        )
        assert str(done.exception).startswith("This run holds no latency distribution, which hgrm needs")
        assert getattr(done.exception, "exit_code", None) == 3
        assert not out.exists()

    def test_says_what_parquet_needs(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        done = CliRunner().invoke(cli.app, ["export", str(run), "--format", "parquet"])
        assert "Parquet needs pyarrow, which is not installed: `uv pip install pyarrow`" in str(
            done.exception
        )
        assert getattr(done.exception, "exit_code", None) == 3
