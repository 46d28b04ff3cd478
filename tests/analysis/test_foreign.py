"""Results of k6, vegeta and stock Locust, real files among them, as far as they carry."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.foreign import NotReadable, read_samples
from analysis.importing import import_files, name_of
from analysis.report import Asked, Report, build_report, render_summary, write_report
from analysis.runfolder import read_run
from scripts import cli
from tests.analysis.folders import STATS_COLUMNS
from tests.analysis.vegeta import START, as_csv, as_json

HERE = Path(__file__).parent / "foreign"
LATENCIES_MS = [float(ms) for ms in np.random.default_rng(1).lognormal(3, 0.5, 400)]


def imported(tmp_path: Path, *files: Path) -> Report:
    run = tmp_path / "run"
    import_files(files, run, [name_of(file) for file in files], "checkout", "modelswarm import …")
    return write_report(run)


def stock() -> str:
    """Totals of 20,000 requests as stock Locust writes them."""
    row = "20000,0,30,35.5,10,900,300,100,0,30,33,36,40,55,70,90,120,400,800,900"
    return "\n".join([",".join(STATS_COLUMNS), f"GET,/a,{row}", f",Aggregated,{row}", ""])


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


class TestK6:
    def latencies_ms(self) -> list[float]:
        with (HERE / "k6.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [float(row["metric_value"]) for row in rows if row["metric_name"] == "http_req_duration"]

    def test_csv_keeps_every_request_with_its_latency(self, tmp_path: Path) -> None:
        row = imported(tmp_path, HERE / "k6.csv").rows[0]
        expected = self.latencies_ms()
        assert row.requests == row.sent == len(expected)
        assert row.latency_ms["max"] == pytest.approx(max(expected), abs=0.001)
        p50 = np.quantile(expected, 0.5, method="inverted_cdf")
        assert row.latency_ms["p50"] == pytest.approx(p50, rel=0.001, abs=0.001)

    def test_failures_are_counted_by_their_error(self, tmp_path: Path) -> None:
        report = imported(tmp_path, HERE / "k6.csv")
        with (HERE / "k6.csv").open(newline="") as file:
            failed = [row for row in csv.DictReader(file) if row["metric_name"] == "http_req_failed"]
        count = sum(float(row["metric_value"]) for row in failed)
        assert count > 0
        assert report.rows[0].failed == count
        assert [(row.error, row.count) for row in report.failures] == [("dial: connection refused", count)]

    def test_json_tells_the_same_with_times_to_the_nanosecond(self, tmp_path: Path) -> None:
        lines = [json.loads(line) for line in (HERE / "k6.json").read_text().splitlines()]
        expected = [
            line["data"]["value"]
            for line in lines
            if line["type"] == "Point" and line["metric"] == "http_req_duration"
        ]
        samples = read_samples(HERE / "k6.json")
        assert np.array(samples.latency_us) == pytest.approx(
            np.maximum(1, np.array(expected) * 1000), abs=0.51
        )
        assert samples.bad == 0

    def test_times_of_whole_seconds_tell_the_rate_to_a_second(self, tmp_path: Path) -> None:
        times = read_samples(HERE / "k6.csv").at_s
        report = imported(tmp_path, HERE / "k6.csv")
        assert report.rows[0].duration_s == max(times) - min(times) + 1
        assert report.run.imported is not None
        assert report.run.imported.cannot_tell[-1].startswith("Its times are whole seconds: ")

    def test_dropped_iterations_are_dropped_requests(self, tmp_path: Path) -> None:
        head, *rows = (HERE / "k6.csv").read_text().splitlines()
        drop = f"dropped_iterations,1795285008,3.000000{',' * (head.count(',') - 2)}"
        row = imported(tmp_path, written(tmp_path, "k.csv", "\n".join([head, drop, *rows, ""]))).rows[0]
        assert row.dropped == 3
        assert row.planned == row.requests + 3
        assert row.lower_bound

    def test_dropped_iterations_are_not_blamed_on_the_server(self, tmp_path: Path) -> None:
        """k6 drops them for want of VUs too."""
        head = (HERE / "k6.csv").read_text().splitlines()[0]
        empty = "," * (head.count(",") - 2)
        lines = [f"http_req_duration,{1795285000 + n // 100},{10 + n % 17}.0{empty}" for n in range(300)]
        drop = f"dropped_iterations,1795285001,1.000000{empty}"
        report = imported(tmp_path, written(tmp_path, "k.csv", "\n".join([head, *lines, drop, ""])))
        (row,) = report.rows
        assert (row.dropped, row.saturated, row.lower_bound) == (1, False, True)
        assert row.interval_ms == {}
        assert report.rankings[0].excluded == {}
        held, missed = build_report(
            tmp_path / "run", Asked(objectives=("p95 < 30ms", "max < 30ms"))
        ).objectives
        assert (held.passed, missed.passed) == (True, False)
        assert missed.note.startswith("not shown: 1 dropped arrival had no latency")

    def without_failed(self, tmp_path: Path, rows: list[tuple[str, str, str]]) -> tuple[Report, str]:
        """What is told of requests (expected_response, status, error) without the metric http_req_failed."""
        head = (HERE / "k6.csv").read_text().splitlines()[0]
        names = head.split(",")
        lines = []
        for second, (expected, status, error) in enumerate(rows):
            told = {"metric_name": "http_req_duration", "timestamp": str(1795285000 + second)}
            told |= {"metric_value": "9.0", "expected_response": expected, "status": status, "error": error}
            lines.append(",".join(told.get(name, "") for name in names))
        report = imported(tmp_path, written(tmp_path, "k.csv", "\n".join([head, *lines, ""])))
        assert report.run.imported is not None
        return report, " ".join(report.run.imported.cannot_tell)

    def test_without_its_own_count_of_failures_they_are_counted_by_expectation_or_status(
        self, tmp_path: Path
    ) -> None:
        rows = [
            *(("", "200", ""), ("", "302", ""), ("true", "404", "")),
            *(("", "503", ""), ("", "0", "dial: refused"), ("false", "200", ""), ("", "", "x509: expired")),
        ]
        report, told = self.without_failed(tmp_path, rows)
        assert report.rows[0].failed == 4
        assert {row.error: row.count for row in report.failures} == {
            "HTTP 503": 1, "dial: refused": 1, "HTTP 200": 1, "x509: expired": 1,
        }  # fmt: skip
        assert "It has no http_req_failed: " in told
        assert "failures are not known" not in told

    def test_without_anything_that_tells_of_failures_says_that_they_are_not_known(
        self, tmp_path: Path
    ) -> None:
        _, told = self.without_failed(tmp_path, [("", "", "")] * 3 + [("", "200", "")])
        assert "of 3 of 4 requests nothing tells" in told

    def test_with_its_own_count_of_failures_nothing_else_counts(self, tmp_path: Path) -> None:
        report = imported(tmp_path, HERE / "k6.csv")
        assert report.run.imported is not None
        assert "http_req_failed" not in " ".join(report.run.imported.cannot_tell)

    def test_json_without_its_own_count_of_failures_too(self, tmp_path: Path) -> None:
        lines = (HERE / "k6.json").read_text().splitlines(keepends=True)
        kept = "".join(line for line in lines if '"metric":"http_req_failed"' not in line)
        assert len(kept) < sum(map(len, lines))
        whole, less = read_samples(HERE / "k6.json"), read_samples(written(tmp_path, "k.json", kept))
        assert less.failures == whole.failures
        assert whole.failures

    @pytest.mark.parametrize("name", ["k6.csv", "k6.json"])
    def test_may_begin_with_a_byte_order_mark_and_be_gzipped(self, tmp_path: Path, name: str) -> None:
        expected = read_samples(HERE / name)
        marked = written(tmp_path, name, "\N{ZERO WIDTH NO-BREAK SPACE}" + (HERE / name).read_text())
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress((HERE / name).read_bytes()))
        assert name_of(packed) == "k6"
        for path in (marked, packed):
            samples = read_samples(path)
            assert (samples.tool, samples.latency_us) == ("k6", expected.latency_us)

    @pytest.mark.parametrize("kept", [5, 30, 400])
    def test_gzipped_and_cut_off_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = tmp_path / "k6.csv.gz"
        path.write_bytes(gzip.compress((HERE / "k6.csv").read_bytes())[:kept])
        with pytest.raises(NotReadable, match=r"is gzipped, and damaged or cut off: .*gunzip"):
            read_samples(path)
        assert name_of(path) == "k6"

    @pytest.mark.parametrize("unit", [1, 1000, 1_000_000, 1_000_000_000])
    def test_times_may_be_of_any_unit(self, tmp_path: Path, unit: int) -> None:
        text = (HERE / "k6.csv").read_text().replace(",17952850", ",X17952850")
        lines = [
            ",".join([*row[:1], str(int(row[1][1:]) * unit) if row[1].startswith("X") else row[1], *row[2:]])
            for row in csv.reader(text.splitlines())
        ]
        samples = read_samples(written(tmp_path, "k.csv", "\n".join(lines) + "\n"))
        assert 1795285000 < min(samples.at_s) < max(samples.at_s) < 1795285100


class TestVegeta:
    @pytest.mark.parametrize("form", [as_csv, as_json])
    def test_keeps_every_request(self, tmp_path: Path, form: object) -> None:
        assert callable(form)
        report = imported(tmp_path, written(tmp_path, "shop.txt", form(LATENCIES_MS)))
        row = report.rows[0]
        assert (row.backend, row.requests, row.failed) == ("shop", 400, 1)
        assert row.duration_s == 40
        p95 = np.quantile(LATENCIES_MS, 0.95, method="inverted_cdf")
        assert row.latency_ms["p95"] == pytest.approx(p95, rel=0.001)
        assert [row.error for row in report.failures] == ['Get "http://x": EOF, <b>']

    @pytest.mark.parametrize("fraction_s", [0.0, 0.4, 0.9])
    def test_has_the_same_rate_whenever_in_a_second_it_began(self, tmp_path: Path, fraction_s: float) -> None:
        begin = START + timedelta(seconds=fraction_s)
        file = written(tmp_path, "shop.json", as_json([20.0] * 500, per_s=100, begin=begin))
        row = imported(tmp_path, file).rows[0]
        assert (row.duration_s, row.planned_per_s) == (pytest.approx(5), pytest.approx(100))
        (trial,) = read_run(tmp_path / "run").trials
        latency = trial.log.tag("latency")
        assert latency.start_s.tolist() == [0, 1, 2, 3, 4]
        assert np.bincount(latency.row, latency.count).tolist() == [100] * 5

    @pytest.mark.parametrize("count", [1, 2])
    def test_may_be_of_one_moment(self, tmp_path: Path, count: int) -> None:
        lines = as_json([20.0] * count, per_s=10**9)
        row = imported(tmp_path, written(tmp_path, "shop.json", lines)).rows[0]
        assert (row.requests, row.duration_s) == (count, 1)

    @pytest.mark.parametrize("form", [as_csv, as_json])
    def test_counts_a_repeated_row_once_and_says_so(self, tmp_path: Path, form: object) -> None:
        assert callable(form)
        lines = form(LATENCIES_MS).splitlines(keepends=True)
        report = imported(tmp_path, written(tmp_path, "shop.txt", "".join([*lines, *lines[-100:]])))
        assert (report.rows[0].requests, report.rows[0].failed) == (400, 1)
        assert report.run.imported is not None
        assert report.run.imported.cannot_tell[-1] == (
            "100 of 500 lines repeat an earlier one (same attack, seq and timestamp); left out."
        )

    @pytest.mark.parametrize("form", [as_csv, as_json])
    def test_keeps_requests_with_long_answers(self, tmp_path: Path, form: object) -> None:
        assert callable(form)
        samples = read_samples(written(tmp_path, "shop.txt", form(LATENCIES_MS[:3], body="QUJD" * 50_000)))
        assert (len(samples.at_s), samples.bad) == (3, 0)
        assert csv.field_size_limit() == 1 << 17  # as it is elsewhere


class TestStockLocust:
    def test_is_known_by_its_header_and_not_by_its_name(self, tmp_path: Path) -> None:
        k6 = written(tmp_path, "k6_stats.csv", (HERE / "k6.csv").read_text())
        renamed = written(tmp_path, "shop.csv", (HERE / "stock_stats.csv").read_text())
        tools = [imported(tmp_path / str(i), file).run.imported for i, file in enumerate((k6, renamed))]
        assert [one.tool for one in tools if one] == ["k6", "Locust"]
        assert [name_of(file) for file in (k6, renamed)] == ["k6_stats", "shop"]

    def test_keeps_its_binned_percentiles_and_says_that_they_are(self, tmp_path: Path) -> None:
        report = imported(tmp_path, HERE / "stock_stats.csv")
        row = report.rows[0]
        assert row.binned
        assert (row.requests, row.failed) == (40, 25)
        assert (row.latency_ms["p50"], row.latency_ms["p95"]) == (32, 51)
        assert row.interval_ms == {}
        page = (tmp_path / "run" / "report.html").read_text()
        assert "≈ 32.0" in page
        assert "Percentiles are of Locust" in page

    def test_without_a_history_has_the_rate_of_its_totals(self, tmp_path: Path) -> None:
        alone = written(tmp_path, "alone_stats.csv", (HERE / "stock_stats.csv").read_text())
        report = imported(tmp_path, alone)
        row = report.rows[0]
        assert (row.planned_per_s, row.achieved_per_s) == (
            pytest.approx(21.795224),
            pytest.approx(15 / 40 * 21.795224),
        )
        assert report.run.imported is not None
        assert report.run.imported.cannot_tell[-1].startswith("It has no history: neither when it was")
        assert report.run.ended is None

    @pytest.mark.parametrize(
        ("seconds", "odd"),
        [
            (range(201), False),
            (range(205), False),
            (range(600), True),  # idle after the test
            ([*range(30), *range(3630, 3800)], True),  # the clock was set forward
            ([*range(30), *range(-3570, -3400)], True),  # and back
        ],
    )
    def test_has_the_rate_of_its_totals_whatever_its_history_spans(
        self, tmp_path: Path, seconds: Sequence[int], odd: bool
    ) -> None:
        written(tmp_path, "big_stats.csv", stock())  # 20,000 requests at 100/s
        head = (HERE / "stock_stats_history.csv").read_text().splitlines()[0]
        after = ",".join(["N/A"] * 11)
        lines = [
            f"{1795285000 + second},20,,Aggregated,100,0,{after},{min(20_000, 100 * at)},0,25,28,5,430,307"
            for at, second in enumerate(seconds)
        ]
        written(tmp_path, "big_stats_history.csv", "\n".join([head, *lines, ""]))
        report = imported(tmp_path, tmp_path / "big_stats.csv")
        assert report.rows[0].planned_per_s == 100
        assert report.run.imported is not None
        told = report.run.imported.cannot_tell[-1]
        assert told.startswith("Its history spans ") == odd

    def test_without_any_rate_says_that_it_is_not_known(self, tmp_path: Path) -> None:
        text = (HERE / "stock_stats.csv").read_text().replace("21.795224183150793", "0.0")
        report = imported(tmp_path, written(tmp_path, "alone_stats.csv", text))
        assert report.run.imported is not None
        assert report.run.imported.cannot_tell[-1].startswith("It does not tell how long it ran")

    def test_adds_up_what_failed_alike_under_two_names(self, tmp_path: Path) -> None:
        for part in ("stats.csv", "failures.csv"):
            text = (HERE / f"stock_{part}").read_text()
            if part == "failures.csv":
                line = text.splitlines()[1]
                text = (
                    text.replace(",25,", ",20,")
                    + line.replace("wrong", "other").replace(",25,", ",5,")
                    + "\n"
                )
            written(tmp_path, f"twice_{part}", text)
        imported(tmp_path, tmp_path / "twice_stats.csv")
        summary = json.loads((tmp_path / "run/twice/checkout/1/summary.json").read_text())
        assert summary["failures"] == {"CatchResponseError('no <b>')": 25}

    def test_keeps_its_mean_and_every_percentile_that_it_wrote(self, tmp_path: Path) -> None:
        (tmp_path / "big_stats.csv").write_text(stock())
        row = imported(tmp_path, tmp_path / "big_stats.csv").rows[0]
        told = {"mean": 35.5, "p50": 30, "p66": 33, "p75": 36, "p80": 40, "p90": 55, "p95": 70}
        told |= {"p98": 90, "p99": 120, "p99.9": 400, "p99.99": 800, "max": 900}
        assert list(row.latency_ms.items()) == list(told.items())  # from the shortest to the longest
        kept = json.loads((tmp_path / "run" / "report.json").read_text())["rows"][0]["latency_ms"]
        assert kept == told

    @pytest.mark.parametrize(
        ("objective", "value", "note"),
        [
            ("p90 < 60ms", 55, ""),
            ("mean < 50ms", 35.5, ""),
            ("p99.9 < 1s", 400, ""),
            ("p75 < 40ms", 36, ""),
            ("p97 < 1s", None, "not shown: the imported file holds no p97"),
            ("p99.99 < 1s", None, "not shown: p99.99 needs 100,000 requests, there are 20,000 requests"),
        ],
    )
    def test_is_held_to_what_it_holds(
        self, tmp_path: Path, objective: str, value: float | None, note: str
    ) -> None:
        (tmp_path / "big_stats.csv").write_text(stock())
        imported(tmp_path, tmp_path / "big_stats.csv")
        (judged,) = build_report(tmp_path / "run", Asked(objectives=(objective,))).objectives
        assert (judged.value, judged.passed, judged.note) == (value, not note, note)

    def test_that_was_told_to_write_other_percentiles_has_those(self, tmp_path: Path) -> None:
        rows = [line.split(",") for line in stock().splitlines()]
        fewer = [[cell for cell, name in zip(row, rows[0], strict=True) if name != "90%"] for row in rows]
        (tmp_path / "big_stats.csv").write_text("\n".join(map(",".join, fewer)) + "\n")
        row = imported(tmp_path, tmp_path / "big_stats.csv").rows[0]
        assert (row.latency_ms["p90"], row.latency_ms["p99.9"], row.sent) == (None, 400, 20_000)

    def test_is_never_ranked(self, tmp_path: Path) -> None:
        stats = (HERE / "stock_stats.csv").read_text().replace(",40,25,", ",40,0,").replace("25,25", "25,0")
        report = imported(tmp_path, written(tmp_path, "a_stats.csv", stats))
        assert report.rankings[0].excluded["a"].reason == "only percentiles of Locust's buckets are known"

    def test_keeps_requests_failures_and_users_over_time(self, tmp_path: Path) -> None:
        report = imported(tmp_path, HERE / "stock_stats.csv")
        assert [(row.name, row.requests) for row in report.requests] == [("predict, a", 15), ("wrong", 25)]
        assert [(row.error, row.count) for row in report.failures] == [("CatchResponseError('no <b>')", 25)]

    def test_whose_totals_are_lost_is_refused(self, tmp_path: Path) -> None:
        cut = written(tmp_path, "x_stats.csv", (HERE / "stock_stats.csv").read_text()[:300])
        with pytest.raises(NotReadable, match="is not Locust's"):
            imported(tmp_path, cut)


class TestAnyImport:
    def test_is_suspect_and_says_what_it_cannot_tell(self, tmp_path: Path) -> None:
        report = imported(tmp_path, HERE / "k6.csv")
        assert report.valid
        assert {row.verdict for row in report.rows} == {"suspect"}
        assert report.problems == []
        page = (tmp_path / "run" / "report.html").read_text()
        for told in (
            "What k6\N{RIGHT SINGLE QUOTATION MARK}s file cannot tell",
            "not from a planned arrival",
            "k6 tells no planned times",
        ):
            assert told in page
        for text in (page, (tmp_path / "run" / "report.md").read_text(), render_summary(report)):
            assert "atency runs from the moment of sending, as k6 tells no planned times." in text
            assert "from the planned arrival" not in text.replace("not from a planned arrival", "")

    def test_of_two_tools_ranks_neither_with_ours(self, tmp_path: Path) -> None:
        files = [
            written(tmp_path, f"{name}.json", as_json([factor * ms for ms in LATENCIES_MS]))
            for name, factor in (("before", 2), ("after", 1))
        ]
        report = imported(tmp_path, *files)
        assert {ranking.load for ranking in report.rankings} == {"imported"}
        assert report.recommendation.backend in ("after", None)

    def test_leaves_out_what_cannot_be_read_and_counts_it(self, tmp_path: Path) -> None:
        text = as_json(LATENCIES_MS[:50])
        broken = text + '{"latency": NaN}\n[]\n7\n{"latency": -5, "timestamp": "x", "code": 1}\n' + text[:40]
        report = imported(tmp_path, written(tmp_path, "v.json", broken))
        assert report.rows[0].requests == 50
        assert report.run.imported is not None
        assert (
            "5 of 55 lines are cut off or not what vegeta writes; left out."
            in report.run.imported.cannot_tell
        )

    @pytest.mark.parametrize(
        "text",
        [
            *("", "{}", "a,b\n1,2\n", '{"metric":1}\n', "\0\0", "[1,2]", "5\n"),
            "metric_name,timestamp,metric_value_x\nhttp_req_duration,1763735461,1\n",
            '{"a":' * 5000 + "1" + "}" * 5000,
        ],
    )
    def test_of_what_is_no_result_is_refused_with_the_forms_there_are(
        self, tmp_path: Path, text: str
    ) -> None:
        with pytest.raises(NotReadable, match="k6 run --out csv=FILE"):
            read_samples(written(tmp_path, "x.csv", text))

    def test_of_a_file_without_a_request_is_refused(self, tmp_path: Path) -> None:
        head = (HERE / "k6.csv").read_text().split("\n")[0]
        with pytest.raises(NotReadable, match="has no request that can be read"):
            read_samples(written(tmp_path, "x.csv", f"{head}\n"))

    def test_by_the_command_makes_a_run_and_its_report(self, tmp_path: Path) -> None:
        arguments = ["import", str(HERE / "k6.csv"), "--name", "shop", "--out", str(tmp_path / "runs")]
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
        (run,) = (tmp_path / "runs").iterdir()
        assert json.loads((run / "report.json").read_text())["rows"][0]["backend"] == "shop"

    @pytest.mark.parametrize("taken", ["file", "file/below"])
    def test_by_the_command_is_not_written_where_a_file_is(self, tmp_path: Path, taken: str) -> None:
        (tmp_path / "file").write_text("mine")
        arguments = ["import", str(HERE / "k6.csv"), "--out", str(tmp_path / taken)]
        done = CliRunner().invoke(cli.app, arguments)
        assert str(done.exception) == f"{tmp_path}/file is there and is no folder: name another with --out."
        assert getattr(done.exception, "exit_code", None) == 2

    def test_by_the_command_tells_what_it_left_out(self, tmp_path: Path) -> None:
        file = written(tmp_path, "v.json", as_json(LATENCIES_MS[:50]) + "7\n")
        done = CliRunner().invoke(cli.app, ["import", str(file), "--out", str(tmp_path / "runs")])
        told = "v.json: 1 of 51 lines are cut off or not what vegeta writes; left out."
        assert told in " ".join(done.output.split())
        assert "Latency runs from the moment" not in done.output  # that is the tool's, and in the report

    @pytest.mark.parametrize("given", ["stock", "", "stock_stats.csv"])
    def test_by_the_command_takes_a_prefix_and_a_folder_of_locusts(self, tmp_path: Path, given: str) -> None:
        folder = tmp_path / "of-locust"
        folder.mkdir()
        for file in HERE.glob("stock_*"):
            written(folder, file.name, file.read_text())
        done = CliRunner().invoke(cli.app, ["import", str(folder / given), "--out", str(tmp_path / "runs")])
        assert done.exit_code == 0, done.output
        (run,) = (tmp_path / "runs").iterdir()
        assert json.loads((run / "report.json").read_text())["rows"][0]["backend"] == "stock"

    def test_by_the_command_asks_which_file_of_a_folder_is_meant(self, tmp_path: Path) -> None:
        for name in ("a_stats.csv", "b_stats.csv"):
            written(tmp_path, name, stock())
        done = CliRunner().invoke(cli.app, ["import", str(tmp_path)])
        assert str(done.exception) == (
            f"{tmp_path} is a folder: name a file of it, {tmp_path}/a_stats.csv or {tmp_path}/b_stats.csv."
        )

    @pytest.mark.parametrize("command", ["report", "export"])
    def test_is_what_a_folder_of_locusts_files_needs(self, tmp_path: Path, command: str) -> None:
        written(tmp_path, "shop_stats.csv", stock())
        done = CliRunner().invoke(cli.app, [command, str(tmp_path)])
        hint = f"`modelswarm import {tmp_path}/shop_stats.csv` makes a run of them."
        assert str(done.exception).endswith(f" Locust's own files are there: {hint}")

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["nowhere.csv"], "There is no file nowhere.csv."),
            ([str(HERE / "k6.csv"), "--name", "a", "--name", "b"], "1 file cannot have 2 names"),
            ([str(HERE / "k6.csv"), str(HERE / "k6.json")], "Two files would be called 'k6'"),
            ([str(HERE / "k6.csv"), "--name", "../x"], "'../x' cannot be the name of a folder."),
            ([__file__], "is not of a form that is read here"),
        ],
    )
    def test_by_the_command_refuses_what_it_cannot_do(
        self, tmp_path: Path, arguments: list[str], told: str
    ) -> None:
        done = CliRunner().invoke(cli.app, ["import", *arguments, "--out", str(tmp_path)])
        assert isinstance(done.exception, cli.UserError)
        assert told in str(done.exception)
        assert list(tmp_path.iterdir()) == []
