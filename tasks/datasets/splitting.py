"""Which split a row belongs to: it follows from the row itself, never from its place or from other rows.

So a row that the champion was trained on stays among the training rows when rows are added, removed or reordered, and
rows that are equal are never on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from configs.schema import Data
from configs.times import read_moment
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.rows import Array, Rows
from tasks.errors import DataError

SPLITS = ("train", "validation", "test")
RARELY = 0.01  # the chance of an empty split that the advice about more rows leaves


def take_out(rows: Rows, data: Data) -> tuple[Rows, dict[str, Array]]:
    """Return the rows without the columns that decide about their split, and those columns.

    They are no features: a model that learns who a customer is, or the time of a row, answers well only here.

    Raises:
        DataError: there is no such column, or nothing but them.
    """
    fields = [(f"data.{field}", name) for field in ("key", "group") for name in getattr(data, field)]
    fields += [(f"data.{field}", name) for field in ("time", "split") if (name := getattr(data, field))]
    for field, name in fields:
        if name not in rows.features:
            known = _listed(rows.features)
            raise DataError(f"{field} must name columns of the loader's features, got '{name}'; they are {known}")
    names = {name for _, name in fields}
    features = {name: array for name, array in rows.features.items() if name not in names}
    if not features:
        raise DataError(f"the loader must return features beside {_listed(names)}, which only decide about the splits")
    return Rows(features, rows.targets), {name: rows.features[name] for name in names}


def split_rows(data: Data, columns: Mapping[str, Array], units: Array) -> dict[str, Array]:
    """Return the row numbers of each split, in rising order.

    Args:
        columns: those that `data` names. units: what is dealt out as one, a fingerprint of each row.

    Raises:
        DataError: a column cannot decide about the splits, or a split would be empty.
    """
    if data.split:
        where = _told(columns[data.split], data.split)
    elif data.time:
        where = _in_time(columns[data.time], data)
    else:
        where = _dealt(units, data)
    index = {name: np.flatnonzero(where == number) for number, name in enumerate(SPLITS)}
    empty = [name for name in SPLITS if not len(index[name])]
    if empty:
        none = " and ".join(empty)
        raise DataError(f"every split must have a row, and {none} would have none: {_way_out(data, units)}")
    return index


def _dealt(units: Array, data: Data) -> Array:
    """Return the number of each row's split by a hash, which a changed fraction of another split does not move."""
    share = fingerprints({"unit": units}, f"split {data.seed}") / 2.0**64
    return np.where(share < data.test_fraction, 2, np.where(share >= 1 - data.validation_fraction, 1, 0))


def told_splits(column: Array, name: str) -> dict[str, Array]:
    """Return the row numbers of each split as the column `data.split` says it, in rising order; one may be empty.

    Raises:
        DataError: it says something else.
    """
    where = _told(column, name)
    return {split: np.flatnonzero(where == number) for number, split in enumerate(SPLITS)}


def _told(column: Array, name: str) -> Array:
    """Return the number of each row's split as the loader's own column says it."""
    values, place = np.unique(_one_a_row(column, "data.split", name).astype(np.str_), return_inverse=True)
    unknown = [str(value) for value in values if value not in SPLITS]
    if unknown:
        raise DataError(f"data.split must say {', '.join(SPLITS)}, and '{name}' holds {_listed(unknown)}")
    return np.array([SPLITS.index(value) for value in values])[place]


def _in_time(column: Array, data: Data) -> Array:
    """Return the number of each row's split by its time and the fixed boundaries."""
    flat = _one_a_row(column, "data.time", data.time)
    is_text = flat.dtype.kind in "USTO"
    if is_text != isinstance(data.test_from, str):
        kinds = ("text", "a number") if is_text else ("numbers", "a time")
        raise DataError(f"data.time '{data.time}' holds {kinds[0]}, and data.test_from is {kinds[1]}; write them alike")
    limits: list[Any] = [data.validation_from, data.test_from]
    if is_text:
        read = _reader(str(data.test_from), data.time)
        texts, place = np.unique(flat.astype(np.str_), return_inverse=True)
        flat = np.array([read(str(text)) for text in texts])[place]
        limits = [read(limit) for limit in limits]
    return np.searchsorted(np.array(limits), flat, side="right")


def _reader(boundary: str, name: str) -> Callable[[str], int]:
    """Return what turns a text into microseconds; all must have a time zone, or none."""
    zoned = read_moment(boundary).tzinfo is not None

    def reading(text: str) -> int:
        try:
            moment = read_moment(text)
        except ValueError as exc:
            raise DataError(f"data.time '{name}' must hold numbers or ISO 8601, got '{text[:50]}'") from exc
        if (moment.tzinfo is not None) != zoned:
            kinds = "with a time zone" if zoned else "without a time zone"
            raise DataError(f"data.time '{name}' must hold times {kinds}, as data.test_from is, got '{text[:50]}'")
        return (moment - datetime(1970, 1, 1, tzinfo=UTC if zoned else None)) // timedelta(microseconds=1)

    return reading


def _one_a_row(column: Array, field: str, name: str) -> Array:
    if column.size != len(column):
        raise DataError(f"{field} must have one value a row, and '{name}' has the shape {column.shape}")
    flat = column.reshape(-1)
    if flat.dtype.kind not in "STO":
        return flat
    return np.array([i.decode("utf-8", "replace") if isinstance(i, bytes) else i for i in flat.tolist()], np.str_)


def _way_out(data: Data, units: Array) -> str:
    """Return what to do about an empty split."""
    if data.split:
        return f"let the column '{data.split}' say each of {', '.join(SPLITS)}"
    if data.time:
        return f"move data.validation_from ({data.validation_from}) or data.test_from ({data.test_from})"
    smallest = min(data.test_fraction, data.validation_fraction, 1 - data.test_fraction - data.validation_fraction)
    wanted = math.ceil(math.log(RARELY) / math.log1p(-smallest))
    what = f"values of {_listed(data.identity)}" if data.identity else "rows"
    return (
        f"{len(units):,} rows have {len(np.unique(units)):,} different {what}, and a split of {smallest:.3g} takes "
        f"about {wanted:,}; bring more, change the fractions, or name the splits in a column (data.split)"
    )


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)[:20])
