"""Rows for a model that was trained elsewhere: from a file or from the user's loader, and all of them are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Data, Gates
from tasks.datasets.overview import label_shares
from tasks.datasets.prepare import call_loader, columns_in_words
from tasks.datasets.references import translated
from tasks.datasets.rows import check_rows, digest_rows, load_rows, save_rows
from tasks.errors import DataError
from tasks.records import Splits

ROWS = "rows-in-python.npz"  # of rows that have been checked already
KINDS = (".parquet", ".csv", ".json", ".npz")


def prepare_given(data: Data, gates: Gates, file: str, target: str, directory: Path) -> Splits:
    """Read and check rows, and save them as test rows; which rows the model was trained on is not known.

    Args:
        file: a table; empty to call `data.load`, which may return None as the target.
        target: the file's column, or array, that the model is to predict; empty where there is none.

    Raises:
        DataError: the rows cannot be read or used, or there is nothing to hold the configured metrics against.
    """
    if Path(file).name == ROWS:
        rows, source = load_rows(Path(file)), "rows that were given in Python"
    else:
        loaded, source = (read_table(Path(file), target), file) if file else (call_loader(data), data.load)
        rows = check_rows(loaded, source, needs_target=False)
    if gates.metrics and not rows.targets:
        raise DataError("gates.metrics needs a target to hold the answers against; name its column by --target")
    index = {"train": np.arange(0), "validation": np.arange(0), "test": np.arange(len(rows))}
    for name, numbers in index.items():
        save_rows(directory / f"{name}.npz", rows.take(numbers))
    return Splits(
        train=directory / "train.npz",
        validation=directory / "validation.npz",
        test=directory / "test.npz",
        rows={name: len(numbers) for name, numbers in index.items()},
        digest=digest_rows([rows]),
        source=source,
        features=columns_in_words(rows),
        shares=label_shares(rows.targets, {"test": index["test"]}),
    )


def read_table(file: Path, target: str = "") -> tuple[Any, Any]:
    """Return a file's columns, and the column `target` apart from them, or None.

    JSON is a list of rows (`[{"age": 3, ...}, ...]`) or one row a line.

    Raises:
        DataError: it is no file of a known kind, or has no such column.
    """
    if file.suffix not in KINDS:
        raise DataError(f"--rows must name a file of {', '.join(KINDS)}, got '{file}'")
    with translated(f"--rows must name a readable file of rows, '{file}'", DataError):
        table: Any = _read(file)
    columns = list(table)
    if not target:
        return table, None
    if target not in columns:
        listed = ", ".join(f"'{column}'" for column in columns[:40])
        raise DataError(f"--target must name a column of '{file}', got '{target}'; they are {listed}")
    return {name: table[name] for name in columns if name != target}, table[target]


def _read(file: Path) -> Any:
    import pandas as pd

    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    if file.suffix == ".csv":
        return pd.read_csv(file)
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    names = list(rows[0])
    return {name: [row[name] for row in rows] for name in names}
