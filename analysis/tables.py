"""Reading the CSV files of a trial into columns, with what is wrong in them named."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.clean_csv import EXACT, Wanted, read_clean
from analysis.histograms import Floats

Rows = list[list[str] | None]
LONGEST_HEADER_BYTES = 1 << 16
LARGE_BYTES = 1 << 16


@dataclass(frozen=True)
class Table:
    """Columns of one length. Numbers are finite; rows stand in the order of their time (epoch seconds)."""

    numbers: dict[str, Floats]
    texts: dict[str, NDArray[np.str_]]

    def __getitem__(self, column: str) -> Floats:
        """A column of numbers."""
        return self.numbers[column]

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.numbers.values())))

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows for which ``mask`` holds."""
        numbers = {name: column[mask] for name, column in self.numbers.items()}
        return Table(numbers, {name: column[mask] for name, column in self.texts.items()})


def read_rows(
    path: Path, name: str, columns: Sequence[str], problems: list[str], optional: Sequence[str] = ()
) -> Rows | None:
    """The cells of the named columns, row by row; None if the file is not there, or not such a table.

    Cells of an ``optional`` column are empty in a table that lacks it; they come after the others.
    A row that is cut off, or has more cells than the header, is None. Why nothing could be read, and whether
    bytes were not text, is named in ``problems`` as ``name``.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        problems.append(f"{name}: is missing.")
        return None
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror}).")
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.append(f"{name}: is not UTF-8 (first at byte {error.start:,}); what can be read was used.")
        text = raw.decode("utf-8", "replace")
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:
        problems.append(f"{name}: is not CSV ({error}).")
        return None
    missing = [column for column in columns if column not in header]
    if missing:
        what = f"has no column {', '.join(missing)}" if any(header) else "is empty"
        problems.append(f"{name}: {what}.")
        return None
    at = [header.index(column) for column in columns]
    more = [header.index(column) if column in header else None for column in optional]

    def cells(row: list[str]) -> list[str]:
        return [row[i] for i in at] + ["" if i is None else row[i] for i in more]

    if rows and not text.endswith("\n"):
        rows[-1] = [""]  # cut off, perhaps inside a number
    return [cells(row) if len(row) == len(header) else None for row in rows if row]


def name_bad_rows(name: str, bad: int, rows: int, problems: list[str]) -> None:
    """Say how many rows were left out, if any."""
    if bad:
        problems.append(f"{name}: {bad} of {rows} rows are cut off or not numbers; they were left out.")


@dataclass(frozen=True)
class Columns:
    """What is read of a table: numbers, ``time`` (epoch seconds) among them, and texts.

    ``optional`` texts have a value for a table that lacks the column, and ``more`` are numbers that it then
    lacks too; ``only`` is a text column and the value that a row must have in it to be read.
    """

    numbers: Sequence[str]
    texts: Sequence[str]
    more: Sequence[str] = ()
    optional: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, str] | None = None
    time: str = "time"


def read_table(path: Path, name: str, columns: Columns, problems: list[str]) -> Table | None:
    """Read the named columns of a CSV file; None if it has no usable row.

    Rows that are short, not numbers, negative or beyond all that is counted are left out and named in
    ``problems``.
    """
    header = _header(path)
    columns = replace(columns, numbers=[*columns.numbers, *(one for one in columns.more if one in header)])
    texts = [*columns.texts, *(column for column in columns.optional if column in header)]
    found = _clean(path, header, columns, texts)
    if found is None:
        rows = read_rows(path, name, [*columns.numbers, *texts], problems)
        found = None if rows is None else _parsed(rows, columns, texts, name, problems)
    if found is None:
        return None
    table = _ordered(*found, columns, texts, name, problems)
    for column, value in columns.optional.items():
        if column not in texts:
            table.texts[column] = np.full(len(table), value)
    return table


def _header(path: Path) -> list[str]:
    """The column names, for choosing how to read; why a file cannot be read is told when it is."""
    try:
        with path.open("rb") as file:
            return file.readline(LONGEST_HEADER_BYTES).decode("ascii").rstrip("\r\n").split(",")
    except (OSError, UnicodeDecodeError):
        return []


def _clean(
    path: Path, header: Sequence[str], columns: Columns, texts: Sequence[str]
) -> tuple[Floats, list[NDArray[np.str_]]] | None:
    """Numbers (rows, columns) and texts of a large file without a flaw; None of others.

    Of a few hundred rows each is quicker read by itself.
    """
    if len(set(header)) < len(header) or not {*columns.numbers, *texts} <= set(header):
        return None
    if path.stat().st_size < LARGE_BYTES:
        return None
    only = (header.index(columns.only[0]), columns.only[1].encode()) if columns.only else None
    at = [header.index(column) for column in columns.numbers]
    wanted = Wanted(len(header), at, [header.index(column) for column in texts], only)
    found = read_clean(path.read_bytes(), wanted)
    return found if found is not None and len(found[0]) else None


def _parsed(
    rows: Rows, columns: Columns, texts: Sequence[str], name: str, problems: list[str]
) -> tuple[Floats, list[NDArray[np.str_]]] | None:
    """Numbers and texts of the rows that are whole."""
    count = len(columns.numbers)
    whole = [row for row in rows if row is not None]
    values = np.array([[_number(cell) for cell in row[:count]] for row in whole], dtype=np.float64)
    values = values.reshape(len(whole), count)
    kept = np.flatnonzero(np.all((values >= 0) & (values < EXACT), axis=1))  # nan is neither
    name_bad_rows(name, len(rows) - len(kept), len(rows), problems)
    if columns.only:
        column = count + list(texts).index(columns.only[0])
        kept = np.array([i for i in kept if whole[i][column] == columns.only[1]], dtype=np.int64)
    if not len(kept):
        if not rows:
            problems.append(f"{name}: has a header and no rows.")
        return None
    return values[kept], [np.array([whole[i][count + j] for i in kept]) for j in range(len(texts))]


def _ordered(
    values: Floats,
    found: Sequence[NDArray[np.str_]],
    columns: Columns,
    texts: Sequence[str],
    name: str,
    problems: list[str],
) -> Table:
    at = values[:, list(columns.numbers).index(columns.time)]
    if np.any(np.diff(at) < -1.0) and _goes_back(at, found):  # workers' rows interleave within a second
        problems.append(f"{name}: its rows are not in the order of time, or a clock went back; sorted.")
    order = np.argsort(at, kind="stable")
    return Table(
        {column: values[order, i] for i, column in enumerate(columns.numbers)},
        {column: text[order] for column, text in zip(texts, found, strict=True)},
    )


def _goes_back(at: Floats, found: Sequence[NDArray[np.str_]]) -> bool:
    """Whether the times (n,) of one series go back; containers have clocks and delays of their own."""
    if not found:
        return True
    _, series = np.unique(np.stack(found), axis=1, return_inverse=True)
    order = np.argsort(series, kind="stable")
    return bool(np.any(np.diff(at[order])[np.diff(series[order]) == 0] < 0))


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)  # Python takes 1_0 for 10
    except ValueError:
        return math.nan
