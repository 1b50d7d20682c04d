"""Tables of rows with the answers of a server, for the screen or for a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.strings import Array
from tasks.datasets.user_code import translated
from tasks.errors import DataError
from tasks.words import one_line

Table = dict[str, list[Any]]
"""Maps a column to one value for each row: numbers, text, or nested lists of them."""

ANSWER = "served."  # prefix of outputs, because the rows may have a column of the same name, such as the target
SHOWN_ROWS, SHOWN_CELL, SHOWN_ITEMS = 20, 24, 3


def with_answers(rows: Mapping[str, Any], answers: Mapping[str, Array]) -> Table:
    """Return all columns of the rows, then the answers as `served.OUTPUT`.

    Args:
        rows: columns of any kind; earlier answers among them are replaced.
        answers: one array for each output; the first axis is the row.
    """
    table = {name: [None if _is_gap(value) else _plain(value) for value in rows[name]] for name in rows}
    return table | {f"{ANSWER}{name}": [_plain(row) for row in array] for name, array in answers.items()}


def _is_gap(value: Any) -> bool:
    """Return whether a cell is empty in any library's representation; NaN in an answer is not empty."""
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    """Return a value for JSON; float32 becomes the shortest number that reads back the same."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def save_table(table: Table, file: Path) -> None:
    """Write a table as .csv, .json or .parquet.

    In JSON, each row is an object. In CSV, a vector becomes the columns `NAME.0`, `NAME.1`, ..., and deeper values are
    JSON in a cell.

    Raises:
        DataError: the file cannot be written, or Parquet has no type for a column.
    """
    with translated(f"the file of --out must be writable, '{file}'", DataError):
        WRITERS[file.suffix](table, file)


def _write_csv(table: Table, file: Path) -> None:
    columns: Table = {}
    for name, values in table.items():
        columns |= _flat(name, values)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _flat(name: str, values: list[Any]) -> Table:
    sizes = {len(value) if isinstance(value, list) else -1 for value in values}
    if -1 in sizes or len(sizes) > 1 or any(isinstance(item, list) for value in values for item in value):
        return {name: [json.dumps(value) if isinstance(value, list) else value for value in values]}
    return {f"{name}.{place}": [value[place] for value in values] for place in range(*sizes)}


def _write_json(table: Table, file: Path) -> None:
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in rows)
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _write_parquet(table: Table, file: Path) -> None:
    import pandas as pd

    pd.DataFrame(table).to_parquet(file, index=False)


WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".parquet": _write_parquet,
}


def shown_table(table: Table, width: int) -> str:
    """Return the first rows as text with lines of at most `width` characters; columns that do not fit are counted."""
    n_rows = len(next(iter(table.values())))
    answers = [name for name in table if name.startswith(ANSWER)]
    columns = {name: _cells(name, values[:SHOWN_ROWS]) for name, values in table.items()}
    rows = [name for name in columns if name not in answers]
    fitting = _that_fit([*answers, *rows], columns, width)
    shown = [name for name in columns if name in fitting]
    lines = ["  ".join(columns[name][row] for name in shown).rstrip() for row in range(1 + min(n_rows, SHOWN_ROWS))]
    left = [(n_rows - SHOWN_ROWS, "rows"), (len(columns) - len(shown), "columns")]
    more = " and ".join(f"{count:,} more {what}" for count, what in left if count > 0)
    return "\n".join([*lines, *([f"... {more}"] if more else [])])


def _that_fit(names: Sequence[str], columns: Mapping[str, list[str]], width: int) -> set[str]:
    """Return the first names whose columns fit into the width, but at least one."""
    shown: set[str] = set()
    for name in names:
        width -= len(columns[name][0]) + 2
        if shown and width < -2:
            break
        shown.add(name)
    return shown


def _cells(name: str, values: list[Any]) -> list[str]:
    """Return a heading and cells of equal width; numbers are aligned to the right."""
    cells = [_cut(name), *(_cell(value) for value in values)]
    longest = max(map(len, cells))
    is_number = all(isinstance(value, int | float) for value in values)
    return [cell.rjust(longest) if is_number else cell.ljust(longest) for cell in cells]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        items = ", ".join(_cell(item) for item in value[:SHOWN_ITEMS])
        return f"[{items}, ... {len(value)}]" if len(value) > SHOWN_ITEMS else f"[{items}]"
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else _cut(str(value))


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= SHOWN_CELL else f"{line[: SHOWN_CELL - 3]}..."
