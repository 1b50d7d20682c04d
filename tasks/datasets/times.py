"""Converts the time column of rows, in every representation of dates, to ISO 8601 text."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.datasets.strings import Array, text_array
from tasks.errors import DataError

MISSING = ("NoneType", "NaTType", "NAType")


def plain_times(column: Any, where: str) -> Any:
    """Return a column of dates or times as ISO 8601 text with their time zone; return any other column unchanged.

    Raises:
        DataError: a time is missing.
    """
    if np.ma.is_masked(column):
        return column
    if getattr(column, "ndim", 1) == 2 and hasattr(column, "to_numpy"):  # a table with one column
        column = column.to_numpy()
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        _refuse_missing(np.isnat(np.asarray(column)), where)
        return np.datetime_as_string(np.asarray(column).astype("M8[us]"))
    items = _items(column)
    is_time = [hasattr(item, "isoformat") for item in items]  # so has pandas' NaT
    missing = np.array([type(item).__name__ in MISSING for item in items], np.bool_)
    if not any(is_time) or not all(is_time | missing):
        return column
    shape = column.shape if isinstance(column, np.ndarray) else (len(items),)
    _refuse_missing(missing.reshape(shape), where)
    return text_array((item.isoformat() for item in items), shape)


def _items(column: Any) -> list[Any]:
    """Return the items of a column that may contain times of Python or pandas."""
    if isinstance(column, np.ndarray):
        return column.ravel().tolist() if column.dtype.kind == "O" else []
    if hasattr(column, "to_pylist"):  # of pyarrow
        found: list[Any] = column.to_pylist()
        return found
    return list(column) if isinstance(column, list | tuple) or _is_of_pandas(column) else []


def _is_of_pandas(column: Any) -> bool:
    return type(column).__module__.split(".")[0] == "pandas" and hasattr(column, "__iter__")


def _refuse_missing(missing: Array, where: str) -> None:
    if missing.any():
        row = int(np.argwhere(missing)[0][0])
        raise DataError(
            f"{where} must have no missing values, got missing values in {int(missing.sum())} of {missing.size} rows, "
            f"first in row {row}; drop these rows or fill in the values"
        )
