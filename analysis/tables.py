"""Reading the CSV files of a trial into columns, with what is wrong in them named."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.histograms import Floats

Rows = list[list[str] | None]


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


def read_rows(path: Path, name: str, columns: Sequence[str], problems: list[str]) -> Rows | None:
    """The cells of the named columns, row by row; None if the file is not there, or not such a table.

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
    if rows and not text.endswith("\n"):
        rows[-1] = [""]  # cut off, perhaps inside a number
    return [[row[i] for i in at] if len(row) == len(header) else None for row in rows if row]


def name_bad_rows(name: str, bad: int, rows: int, problems: list[str]) -> None:
    """Say how many rows were left out, if any."""
    if bad:
        problems.append(f"{name}: {bad} of {rows} rows are cut off or not numbers; they were left out.")


def read_table(
    path: Path,
    name: str,
    numbers: Sequence[str],
    texts: Sequence[str],
    problems: list[str],
    time: str = "time",
) -> Table | None:
    """Read the named columns (``time`` among ``numbers``) of a CSV file; None if it has no usable row.

    Rows that are short, not numbers, not finite or negative are left out and named in ``problems``.
    """
    rows = read_rows(path, name, [*numbers, *texts], problems)
    return None if rows is None else _columns(rows, numbers, texts, time, name, problems)


def _columns(
    rows: Rows, numbers: Sequence[str], texts: Sequence[str], time: str, name: str, problems: list[str]
) -> Table | None:
    whole = [row for row in rows if row is not None]
    values = np.array([[_number(cell) for cell in row[: len(numbers)]] for row in whole], dtype=np.float64)
    values = values.reshape(len(whole), len(numbers))
    kept = np.flatnonzero(np.all(np.isfinite(values) & (values >= 0), axis=1))
    name_bad_rows(name, len(rows) - len(kept), len(rows), problems)
    if not len(kept):
        if not rows:
            problems.append(f"{name}: has a header and no rows.")
        return None
    at = values[kept, numbers.index(time)]
    if np.any(np.diff(at) < -1.0):  # workers' rows interleave within a second
        problems.append(f"{name}: its rows are not in the order of time, or a clock went back; sorted.")
    order = kept[np.argsort(at, kind="stable")]
    return Table(
        {column: values[order, i] for i, column in enumerate(numbers)},
        {column: np.array([whole[i][len(numbers) + j] for i in order]) for j, column in enumerate(texts)},
    )


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)  # Python takes 1_0 for 10
    except ValueError:
        return math.nan
