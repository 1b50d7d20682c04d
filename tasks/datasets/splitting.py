"""Assigns rows to splits by their values, never by their position or by other rows.

So a row that the champion was trained on stays a training row when rows are added, removed or reordered, and equal
rows are always in the same split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from configs.sections.data import Data
from configs.times import read_moment
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.rows import Array, Rows
from tasks.errors import DataError

SPLITS = ("train", "validation", "test")
RARELY = 0.01  # the probability of an empty split with as many rows as the advice asks for


@dataclass(frozen=True)
class SplitRows:
    """How rows are split.

    Attributes:
        index: the row numbers of each split, in ascending order.
        identity: a fingerprint of the features of each row, uint64 (n,).
        units: a fingerprint of what decides the split of each row, uint64 (n,); rows with the same one stay together.
    """

    index: Mapping[str, Array]
    identity: Array
    units: Array


def take_out(rows: Rows, data: Data) -> tuple[Rows, dict[str, Array]]:
    """Return the rows without the columns that decide the split, and these columns.

    They are not features: a model that learns the identity of a customer, or the time of a row, does not generalise.

    Raises:
        DataError: a column does not exist, or no other column is left.
    """
    fields = [(f"data.{field}", name) for field in ("key", "group") for name in getattr(data, field)]
    fields += [(f"data.{field}", name) for field in ("time", "split") if (name := getattr(data, field))]
    for field, name in fields:
        if name not in rows.features:
            known = _listed(rows.features)
            raise DataError(f"{field} must name columns of the features, got '{name}'; the columns are {known}")
    names = {name for _, name in fields}
    features = {name: array for name, array in rows.features.items() if name not in names}
    if not features:
        raise DataError(f"the loader must return features besides {_listed(names)}, which only assign rows to splits")
    return Rows(features, rows.targets), {name: rows.features[name] for name in names}


def split_rows(data: Data, columns: Mapping[str, Array], units: Array) -> dict[str, Array]:
    """Return the row numbers of each split, in ascending order.

    Args:
        columns: the columns that `data` names. units: a fingerprint for each row; rows with the same one stay together.

    Raises:
        DataError: a column cannot decide the splits, or a split would be empty.
    """
    return index_of(data, assigned(data, columns, units), units)


def assigned(data: Data, columns: Mapping[str, Array], units: Array) -> Array:
    """Return the number of each row's split, which depends on no other row; the arguments are those of `split_rows`.

    Raises:
        DataError: a column cannot decide the splits.
    """
    if data.split:
        return _told(columns[data.split], data.split)
    return _in_time(columns[data.time], data) if data.time else _dealt(units, data)


def index_of(data: Data, where: Array, units: Array) -> dict[str, Array]:
    """Return the row numbers of each split, in ascending order.

    Args:
        where: the number of each row's split.

    Raises:
        DataError: a split would be empty.
    """
    index = {name: np.flatnonzero(where == number) for number, name in enumerate(SPLITS)}
    empty = [name for name in SPLITS if not len(index[name])]
    if empty:
        none = " and ".join(empty)
        raise DataError(f"every split must have at least one row, but {none} would have none: {_way_out(data, units)}")
    return index


def _dealt(units: Array, data: Data) -> Array:
    """Return the number of each row's split, by a hash that does not depend on the other split's fraction."""
    share = fingerprints({"unit": units}, f"split {data.seed}") / 2.0**64
    return np.where(share < data.test_fraction, 2, np.where(share >= 1 - data.validation_fraction, 1, 0))


def told_splits(column: Array, name: str) -> dict[str, Array]:
    """Return the row numbers of each split from the column `data.split`, in ascending order; a split may be empty.

    Raises:
        DataError: the column has other values.
    """
    where = _told(column, name)
    return {split: np.flatnonzero(where == number) for number, split in enumerate(SPLITS)}


def _told(column: Array, name: str) -> Array:
    """Return the number of each row's split from the column of the loader."""
    values, place = np.unique(_one_a_row(column, "data.split", name).astype(np.str_), return_inverse=True)
    unknown = [str(value) for value in values if value not in SPLITS]
    if unknown:
        raise DataError(f"data.split '{name}' must contain {', '.join(SPLITS)} only, got {_listed(unknown)}")
    return np.array([SPLITS.index(value) for value in values])[place]


def _in_time(column: Array, data: Data) -> Array:
    """Return the number of each row's split by its time and the configured boundaries."""
    flat = _one_a_row(column, "data.time", data.time)
    is_text = flat.dtype.kind in "USTO"
    if is_text != isinstance(data.test_from, str):
        kinds = ("text", "a number") if is_text else ("numbers", "a time")
        raise DataError(
            f"data.time and data.test_from must have the same type, but '{data.time}' contains {kinds[0]} and "
            f"data.test_from is {kinds[1]}"
        )
    limits: list[Any] = [data.validation_from, data.test_from]
    if is_text:
        read = _reader(str(data.test_from), data.time)
        texts, place = np.unique(flat.astype(np.str_), return_inverse=True)
        flat = np.array([read(str(text)) for text in texts])[place]
        limits = [read(limit) for limit in limits]
    return np.searchsorted(np.array(limits), flat, side="right")


def _reader(boundary: str, name: str) -> Callable[[str], int]:
    """Return a function that converts a text to microseconds; all texts must have a time zone, or none."""
    zoned = read_moment(boundary).tzinfo is not None

    def reading(text: str) -> int:
        try:
            moment = read_moment(text)
        except ValueError as exc:
            raise DataError(f"data.time '{name}' must contain numbers or ISO 8601, got '{text[:50]}'") from exc
        if (moment.tzinfo is not None) != zoned:
            kinds = "with a time zone" if zoned else "without a time zone"
            raise DataError(f"data.time '{name}' must contain times {kinds}, like data.test_from, got '{text[:50]}'")
        return (moment - datetime(1970, 1, 1, tzinfo=UTC if zoned else None)) // timedelta(microseconds=1)

    return reading


def _one_a_row(column: Array, field: str, name: str) -> Array:
    if column.size != len(column):
        raise DataError(f"{field} must have one value for each row, but '{name}' has the shape {column.shape}")
    flat = column.reshape(-1)
    if flat.dtype.kind not in "STO":
        return flat
    return np.array([i.decode("utf-8", "replace") if isinstance(i, bytes) else i for i in flat.tolist()], np.str_)


def _way_out(data: Data, units: Array) -> str:
    """Return what to do about an empty split."""
    if data.split:
        return f"the column '{data.split}' must contain each of {', '.join(SPLITS)}"
    if data.time:
        return f"move data.validation_from ({data.validation_from}) or data.test_from ({data.test_from})"
    smallest = min(data.test_fraction, data.validation_fraction, 1 - data.test_fraction - data.validation_fraction)
    wanted = math.ceil(math.log(RARELY) / math.log1p(-smallest))
    what = f"values of {_listed(data.identity)}" if data.identity else "rows"
    return (
        f"{len(units):,} rows have {len(np.unique(units)):,} distinct {what}, and a split with the fraction "
        f"{smallest:.3g} needs about {wanted:,}; use more rows, change the fractions, or set the splits in a column "
        "(data.split)"
    )


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)[:20])
