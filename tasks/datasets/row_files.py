"""Files of rows: read as they are written, or refused in one line."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.fitting import FLOATS_ALL_WHOLE
from tasks.datasets.user_code import translated
from tasks.errors import DataError

LARGEST = 16 * 2**30  # bytes


def read_table(file: Path, target: str = "", option: str = "--rows") -> tuple[Any, Any]:
    """Return a file's columns, and the column `target` apart from them, or None.

    JSON is a list of rows (`[{"age": 3, ...}, ...]`) or one row a line. In CSV an empty cell is a missing value, and
    nothing else is: a text may be `NA`. Its columns `NAME.0`, `NAME.1`, ... are one column of vectors.

    Args:
        option: what names the file, for messages.

    Raises:
        DataError: the file has an unknown suffix, or no such column.
    """
    problem = problem_of(file, option)
    if problem:
        raise DataError(problem)
    with translated(f"{option} must name a readable file of rows, '{file}'", DataError):
        table: Any = READERS[file.suffix](file)
    columns = list(table)
    if not target:
        return table, None
    if target not in columns:
        listed = ", ".join(f"'{column}'" for column in columns[:40])
        raise DataError(f"--target must name a column of '{file}', got '{target}'; they are {listed}")
    return {name: table[name] for name in columns if name != target}, table[target]


def problem_of(file: Path, option: str) -> str:
    """Return why a file cannot be one of rows, by its name and size alone, or an empty string."""
    if file.suffix not in READERS:
        return f"{option} must name a file of {', '.join(READERS)}, got '{file}'"
    if not file.is_file():  # nor a pipe, which would wait for its other end
        return f"{option} must name a file, got '{file}'"
    if file.stat().st_size > LARGEST:
        return (
            f"{option} must name a file of at most {LARGEST / 2**30:g} GiB, for its rows are held in memory, "
            f"got '{file}'"
        )
    return ""


def _read_csv(file: Path) -> Any:
    import pandas as pd

    with file.open(encoding="utf-8-sig", newline="") as stream:
        names = next(csv.reader(stream), [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:  # pandas gives one of them another name
        raise DataError(f"every column must have a name of its own, and '{file}' has two '{twice[0]}'; rename one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it drops cells that have no name in the header, and warns
        try:
            # by pieces, a long column would get several types
            table = pd.read_csv(file, keep_default_na=False, na_values=[""], index_col=False, low_memory=False)
        except pd.errors.ParserWarning as exc:
            raise DataError(f"a row must not have more cells than the header, and one of '{file}' has more") from exc
    for name in table.columns[table.dtypes == "float64"]:
        if (table[name].abs() >= FLOATS_ALL_WHOLE).any():
            cells = pd.read_csv(file, usecols=[name], dtype=str, index_col=False)[name].dropna()
            lost = [cell for cell in cells if cell.lstrip("+-").isdecimal() and int(cell) != float(cell)]
            if lost:
                raise DataError(
                    f"a column with fractions or gaps is float64, which must hold every number as it is, and does not "
                    f"hold {lost[0]} of '{name}' in '{file}'; use .json or .parquet, or fill the gaps"
                )
    return _with_vectors({str(name): table[name] for name in table})


def _with_vectors(columns: dict[str, Any]) -> dict[str, Any]:
    """Return the columns with those called `NAME.0` to `NAME.n` as one, unless a column is called NAME."""
    parts: dict[str, dict[int, str]] = {}
    for name in columns:
        head, _, number = name.rpartition(".")
        if head and head not in columns and number.isdecimal() and number == str(int(number)):
            parts.setdefault(head, {})[int(number)] = name
    found: dict[str, Any] = {}
    for name, column in columns.items():
        head, numbers = name.rpartition(".")[0], parts.get(name.rpartition(".")[0], {})
        if name not in numbers.values() or set(numbers) != set(range(len(numbers))):
            found[name] = column
        elif head not in found:
            found[head] = _side_by_side([columns[numbers[place]] for place in range(len(numbers))])
    return found


def _side_by_side(columns: list[Any]) -> Any:
    """Return a vector a row, of the columns' dtype; of several dtypes lists, which are looked at value by value."""
    dtypes = {column.dtype for column in columns}
    if len(dtypes) == 1 and all(isinstance(dtype, np.dtype) for dtype in dtypes):
        return np.stack(columns, axis=1)
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _read_json(file: Path) -> dict[str, list[Any]]:
    text = file.read_text(encoding="utf-8-sig")
    is_list = text.lstrip().startswith("[")
    rows = _json(text) if is_list else _json_lines(text)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f'a JSON file must hold rows, as [{{"age": 3}}, {{"age": 4}}] or one {{"age": 3}} a line, got \'{file}\''
        )
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            odd = sorted(row.keys() ^ rows[0].keys())[0]
            raise DataError(
                f"every row must have the same names, and '{odd}' is in only one of row 0 and row {number} of '{file}'"
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _json_lines(text: str) -> list[Any]:
    """Return one value a line; empty lines are left out."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [_json(line)] if line.strip() else []
        except json.JSONDecodeError as exc:
            raise ValueError(f"{exc.msg} in line {number}, column {exc.colno}") from exc
    return rows


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of two equal names, Python would keep the last one only."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a row has two '{twice}'; rename one")
    return found


def _read_parquet(file: Path) -> Any:
    import pandas as pd

    return pd.read_parquet(file)


def _read_npz(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
        return dict(archive)


READERS: dict[str, Callable[[Path], Any]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".json": _read_json,
    ".npz": _read_npz,
}
