"""The quick way to read a CSV file gives what the careful one gives, or nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import tables
from analysis.clean_csv import Wanted, read_clean
from analysis.locust_csv import HISTORY
from analysis.tables import Columns, read_table
from tests.analysis.folders import HISTORY_COLUMNS

COLUMNS = Columns(("time", "value"), ("name",), optional={"component": "server"})
NUMBERS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.floats(0, 1e9).map(lambda x: f"{x:.4f}"),
    st.floats(0, 1e12).map(repr),
    st.sampled_from(["", "-1", "nan", "1e3", ".5", "5.", ".", "1.2.3", " 1", "1_0", "0007", "9" * 30, "+1"]),
)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, st.text('abc,"\n\r é\0', max_size=5)), max_size=12)


def both_ways(path: Path, columns: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for large_bytes in (0, 1 << 60):
        monkeypatch.setattr(tables, "LARGE_BYTES", large_bytes)
        problems: list[str] = []
        found.append((read_table(path, "x", columns, problems), problems))
    (quick, told_quick), (careful, told) = found
    assert told_quick == told
    assert (quick is None) == (careful is None)
    if quick is not None and careful is not None:
        for name in columns.numbers:
            assert quick[name].tolist() == careful[name].tolist()
        for name in (*columns.texts, *columns.optional):
            assert quick.texts[name].tolist() == careful.texts[name].tolist()


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), cut=st.integers(0, 3), component=st.booleans())
def test_any_table_is_read_alike(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[str, str, str]],
    end: str,
    cut: int,
    component: bool,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    more = ["generator"] if component else []
    writer.writerow(["time", "name", "value", *(["component"] if component else [])])
    writer.writerows([time, name, value, *more] for time, value, name in rows)
    raw = text.getvalue().encode()
    (tmp_path / "x.csv").write_bytes(raw[: len(raw) - cut])
    both_ways(tmp_path / "x.csv", COLUMNS, monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r\n", 7),
        lambda data: data + b"\n",
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b",n3,", b',"n,3",'),
        lambda data: data.replace(b",n3,", b",n\xff,"),
        lambda data: data.replace(b",n3,", b",n3,,"),
        lambda data: data[:-1],
        lambda data: data.replace(b"time", b"name", 1),
    ],
)
def test_a_table_in_pieces_is_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr("analysis.clean_csv.CHUNK_BYTES", 100)
    data = b"time,name,value\n" + b"".join(b"%d.5,n%d,%d\n" % (i, i % 5, i * i) for i in range(200))
    (tmp_path / "x.csv").write_bytes(change(data))
    both_ways(tmp_path / "x.csv", COLUMNS, monkeypatch)


def test_only_the_rows_with_a_text_are_read() -> None:
    raw = b"a,b\n1,x\n2,yy\n3,x\nnot,yy\n"
    found = read_clean(raw, Wanted(2, [0], [1], only=(1, b"x")))
    assert found is not None
    assert found[0].tolist() == [[1], [3]]
    assert found[1][0].tolist() == ["x", "x"]


def test_a_million_rows_of_locusts_history_take_two_seconds(tmp_path: Path) -> None:
    line = ",100,GET,/predict,15.2,0.0,12,14,15,16,20,22,30,35,50,60,61,%d,0,12,13.45,3,61,460.5\r\n"
    total = line.replace("GET,/predict", ",Aggregated")
    with (tmp_path / "history.csv").open("w", newline="") as file:
        file.write(",".join(HISTORY_COLUMNS) + "\r\n")
        for second in range(500_000):
            file.write(f"{1763735460 + second}{line % second}{1763735460 + second}{total % second}")
    began, problems = process_time(), list[str]()  # a busy neighbour must not fail this
    table = read_table(tmp_path / "history.csv", "history", HISTORY, problems)
    assert process_time() - began < 2
    assert problems == []
    assert table is not None
    assert np.array_equal(table["Total Request Count"], np.arange(500_000))
