from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from analysis.hlog import HistogramLog, read_hlog
from tests.analysis.folders import START, TrialSpec, exact, hlog_text

WHOLE = hlog_text(TrialSpec(exact([1.0, 2.0, 4.0], 5)))
LINES = WHOLE.splitlines(keepends=True)


def read(tmp_path: Path, content: str | bytes) -> tuple[HistogramLog, list[str]]:
    path = tmp_path / "latency.hlog"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    return read_hlog(path, "x/latency.hlog", problems), problems


def changed(line: int, old: str, new: str) -> str:
    assert old in LINES[line]
    return "".join([*LINES[:line], LINES[line].replace(old, new, 1), *LINES[line + 1 :]])


class TestAWholeLog:
    def test_gives_every_value_of_every_tag(self, tmp_path: Path) -> None:
        log, problems = read(tmp_path, WHOLE)
        assert problems == []
        assert log.start_epoch_s == START.timestamp()
        assert {tag: int(log.tag(tag).count.sum()) for tag in log.tags} == {
            "latency": 15,
            "service": 15,
            "lag": 15,
        }
        assert log.tag("latency").start_s.tolist() == [0, 1, 2, 3, 4]
        assert log.tag("latency").merged().max_ms() == 4.0

    def test_is_what_the_package_itself_reads(self, tmp_path: Path) -> None:
        from hdrh.log import HistogramLogReader

        (tmp_path / "latency.hlog").write_text(WHOLE)
        total = HdrHistogram(1, 60_000_000, 3)
        reader = HistogramLogReader(str(tmp_path / "latency.hlog"), total)
        while (interval := reader.get_next_interval_histogram()) is not None:
            if interval.get_tag() == "latency":
                total.add(interval)
        log, _ = read(tmp_path, WHOLE)
        counts = log.tag("latency").merged().counts
        assert np.array_equal(counts[: total.counts_len], np.frombuffer(total.counts, dtype=np.int64))

    def test_may_have_windows_line_ends(self, tmp_path: Path) -> None:
        log, problems = read(tmp_path, WHOLE.replace("\n", "\r\n"))
        assert (int(log.tag("latency").count.sum()), problems) == (15, [])

    def test_may_have_maxima_rounded_by_other_writers(self, tmp_path: Path) -> None:
        log, _ = read(tmp_path, WHOLE.replace(",4.000,", ",3.000,"))
        assert log.tag("latency").merged().max_ms() == pytest.approx(4.0, rel=0.001)


class TestADamagedLog:
    @pytest.mark.parametrize("cut", [1, 20, 60])
    def test_that_ends_inside_a_line_keeps_all_lines_before(self, tmp_path: Path, cut: int) -> None:
        log, problems = read(tmp_path, WHOLE.rstrip("\n")[:-cut])
        assert int(log.tag("lag").count.sum()) == 12
        assert int(log.tag("latency").count.sum()) == 15
        assert problems == ["x/latency.hlog: line 18 is cut off; the other 14 lines were used."]

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (changed(3, "HISTFAAAA", "HISTFAAAB"), "line 4 holds a damaged histogram"),
            (changed(3, "Tag=latency,0.000", "Tag=latency,nan"), "line 4 is not an interval"),
            (changed(3, "Tag=latency,0.000", "Tag=latency,-1.000"), "line 4 has an impossible time (-1 s)"),
            (changed(3, "Tag=latency,0.000", "Tag=latency,1e99"), "line 4 has an impossible time"),
            (changed(3, "Tag=latency,0.000", "Tag=latency,1.2.3"), "line 4 has a time that is not a number"),
            (changed(3, LINES[3], "garbage\n"), "line 4 is not an interval"),
            (changed(3, LINES[3], "x" * 300_000 + "\n"), "line 4 is 300,000 bytes long"),
            (changed(3, LINES[3], f"0,1,1,{HdrHistogram(1, 1000, 2).encode().decode()}\n"), "another layout"),
        ],
    )
    def test_keeps_what_is_whole_and_names_the_line(self, tmp_path: Path, content: str, told: str) -> None:
        log, problems = read(tmp_path, content)
        assert int(log.tag("latency").count.sum()) == 12
        assert len(problems) == 1
        assert told in problems[0]
        assert "the other 14 lines were used" in problems[0]

    def test_whose_start_is_impossible_has_none(self, tmp_path: Path) -> None:
        log, problems = read(tmp_path, WHOLE.replace("StartTime: 1", "StartTime: 1" + "0" * 400))
        assert log.start_epoch_s is None
        assert problems == ["x/latency.hlog: line 2 has an impossible start; the other 15 lines were used."]

    def test_counts_a_repeated_line_once(self, tmp_path: Path) -> None:
        log, problems = read(tmp_path, WHOLE + LINES[3])
        assert int(log.tag("latency").count.sum()) == 15
        assert problems == ["x/latency.hlog: 1 line stands there twice and was counted once."]

    def test_is_sorted_where_lines_changed_places(self, tmp_path: Path) -> None:
        log, problems = read(tmp_path, "".join([*LINES[:3], *reversed(LINES[3:])]))
        assert log.tag("latency").start_s.tolist() == [0, 1, 2, 3, 4]
        assert (
            "x/latency.hlog (latency): its lines are not in the order of time; they were sorted." in problems
        )

    def test_that_is_empty_or_not_there_is_named(self, tmp_path: Path) -> None:
        assert read(tmp_path, "")[1][0] == "x/latency.hlog: is empty: there are no percentiles of this trial."
        problems: list[str] = []
        assert read_hlog(tmp_path / "no.hlog", "no.hlog", problems).tags == {}
        assert "no.hlog: cannot be read (No such file or directory)" in problems[0]

    def test_without_a_tag_is_named(self, tmp_path: Path) -> None:
        _, problems = read(tmp_path, "".join(line for line in LINES if not line.startswith("Tag=lag")))
        assert problems == ["x/latency.hlog: holds nothing of lag."]

    def test_of_other_bytes_is_not_a_traceback(self, tmp_path: Path) -> None:
        log, problems = read(tmp_path, b"\xff\xfe\x00" * 1000 + b"\n" + WHOLE.encode())
        assert int(log.tag("latency").count.sum()) == 15
        assert "line 1 is not an interval" in problems[0]


class TestIntervalsFarBeyondTheOthers:
    def test_are_left_out_and_named(self, tmp_path: Path) -> None:
        """A clock that was set forward would make a trial of seconds a month long."""
        log, problems = read(tmp_path, WHOLE.replace(",4.000,1.000,", ",2500000.000,1.000,"))
        assert {tag: int(one.count.sum()) for tag, one in log.tags.items()} == dict.fromkeys(
            ("latency", "service", "lag"), 12
        )
        assert log.tag("latency").start_s.tolist() == [0, 1, 2, 3]
        (problem,) = problems
        assert "lies at 2,500,000 s, later than any answer can come after the one before (at 3 s)" in problem
        assert problem.endswith(" and 2 more; the other 12 lines were used.")

    @pytest.mark.parametrize("second", ["3599.000", "30.000"])
    def test_are_kept_if_an_answer_may_take_so_long(self, tmp_path: Path, second: str) -> None:
        log, problems = read(tmp_path, WHOLE.replace(",4.000,1.000,", f",{second},1.000,"))
        assert (log.tag("latency").start_s[-1], problems) == (float(second), [])

    def test_are_kept_after_a_pause_in_another_tools_results(self, tmp_path: Path) -> None:
        """Its latencies stand there alone, and two attacks a day apart may be one file."""
        lines = WHOLE.replace(",4.000,1.000,", ",86400.000,1.000,").splitlines(keepends=True)
        path = tmp_path / "latency.hlog"
        path.write_text("".join(line for line in lines if not line.startswith(("Tag=service", "Tag=lag"))))
        problems: list[str] = []
        log = read_hlog(path, "x/latency.hlog", problems, ("latency",))
        assert (log.tag("latency").start_s[-1], problems) == (86400, [])
