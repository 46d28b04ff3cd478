from pathlib import Path

import pytest

from analysis.tables import Columns, Table, read_table

WHOLE = "time,pod,cpu,extra\n10.5,a,0.5,x\n11.5,a,0.75,x\n12.5,b,1,x\n"


def read(tmp_path: Path, content: str | bytes) -> tuple[Table | None, list[str]]:
    path = tmp_path / "pods.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    return read_table(path, "x/pods.csv", Columns(("time", "cpu"), ("pod",)), problems), problems


class TestATable:
    def test_has_the_columns_asked_for(self, tmp_path: Path) -> None:
        table, problems = read(tmp_path, WHOLE)
        assert table is not None
        assert problems == []
        assert table["cpu"].tolist() == [0.5, 0.75, 1.0]
        assert table.texts["pod"].tolist() == ["a", "a", "b"]

    @pytest.mark.parametrize(
        ("content", "rows", "told"),
        [
            (WHOLE[:-8], 2, "1 of 3 rows are cut off or not numbers"),
            (WHOLE.replace("0.75", "nan"), 2, "1 of 3 rows"),
            (WHOLE.replace("0.75", "inf"), 2, "1 of 3 rows"),
            (WHOLE.replace("0.75", "-1"), 2, "1 of 3 rows"),
            (WHOLE.replace("0.75", "many"), 2, "1 of 3 rows"),
            (WHOLE.replace("10.5,", "20.5,"), 3, "not in the order of time"),
            (WHOLE.encode().replace(b"11.5", b"1\xff.5"), 2, "is not UTF-8 (first at byte 33)"),
            (WHOLE.encode().replace(b",b,", b",\xff,"), 3, "is not UTF-8"),
        ],
    )
    def test_keeps_whole_rows_and_names_the_rest(
        self, tmp_path: Path, content: str | bytes, rows: int, told: str
    ) -> None:
        table, problems = read(tmp_path, content)
        assert table is not None
        assert len(table) == rows
        assert told in problems[0]
        assert sorted(table["time"]) == table["time"].tolist()

    def test_may_have_series_that_are_told_at_times_of_their_own(self, tmp_path: Path) -> None:
        table, problems = read(tmp_path, "time,pod,cpu\n20,a,1\n10,b,1\n30,a,1\n25,b,1\n")
        assert table is not None
        assert problems == []
        assert table["time"].tolist() == [10, 20, 25, 30]

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "is empty"),
            ("\n\n", "is empty"),
            ("time,pod\n1,a\n", "has no column cpu"),
            ("time,pod,cpu\n", "has a header and no rows"),
            ("time,pod,cpu\nx,y,z\n", "1 of 1 rows"),
            ("time,pod,cpu\n" + "9" * 200_000, "is not CSV"),
        ],
    )
    def test_without_a_usable_row_is_none_and_named(self, tmp_path: Path, content: str, told: str) -> None:
        table, problems = read(tmp_path, content)
        assert table is None
        assert told in problems[0]

    def test_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        problems: list[str] = []
        assert read_table(tmp_path / "no.csv", "no.csv", Columns(("time",), ()), problems) is None
        assert problems == ["no.csv: is missing."]
