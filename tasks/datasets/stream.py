"""Prepares rows that come as a stream of batches: they are written to the disk once, and never all in memory.

A row's split and fingerprints follow from the row itself, so that each batch is assigned alone. Eight bytes of
fingerprint for each row stay in memory, to find rows that several splits share.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from configs.sections.data import Data
from tasks.datasets.column_files import READ_AHEAD
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.mapped import let_go
from tasks.datasets.overview import MOST_LABELS, label_shares
from tasks.datasets.rows import Array, Rows, check_rows, load_rows
from tasks.datasets.splitting import SPLITS, SplitRows, assigned, index_of, take_out
from tasks.datasets.spool import Spools
from tasks.datasets.strings import dtype_words, is_string
from tasks.datasets.user_code import FOREIGN, describe
from tasks.errors import DataError, PipelineError
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
BATCH_ROWS = 8192  # of a data set without batches


@dataclass(frozen=True)
class Limit:
    """How much of a stream is read for a look at it: what is reached first ends the look, after a whole batch."""

    rows: int = 20_000
    batches: int = 1000
    size: int = 2**27  # bytes
    seconds: float = 30.0


def parquet_rows(pattern: str, target: str, batch_rows: int = BATCH_ROWS) -> Callable[[], Iterator[Any]]:
    """Return a stream of the rows of Parquet files, for a loader to return.

    Args:
        pattern: paths with wildcards, as for `glob.glob`. target: the column to predict; the others are features.

    Raises:
        FileNotFoundError: there is no such file.
    """
    files = sorted(glob(pattern))  # noqa: PTH207  an absolute pattern is allowed
    if not files:
        raise FileNotFoundError(f"'{pattern}' must name Parquet files, got none")

    def batches() -> Iterator[Any]:
        from pyarrow.parquet import ParquetFile

        for file in files:
            with ParquetFile(file, pre_buffer=False, buffer_size=READ_AHEAD) as opened:
                for group in range(opened.num_row_groups):  # all groups at once would be held until the end
                    for batch in opened.iter_batches(batch_rows, row_groups=[group]):
                        table = batch.to_pandas()
                        yield table.drop(columns=target), table[target].to_numpy()

    return batches


def batches_of(loaded: object, source: str) -> Iterator[object] | None:
    """Return the batches of a stream, or None if a loader returned rows.

    A stream is a tf.data.Dataset, an iterator such as a generator, or a function without parameters that returns an
    iterable.

    Raises:
        DataError: the stream has no end, or the function fails.
    """
    if hasattr(loaded, "as_numpy_iterator"):
        return _of_dataset(loaded, source)
    if isinstance(loaded, Iterator):
        return loaded
    if not callable(loaded):
        return None
    try:
        made = loaded()
        return _of_dataset(made, source) if hasattr(made, "as_numpy_iterator") else iter(made)
    except FOREIGN as exc:
        raise DataError(f"'{source}' must return a function that returns batches, got {describe(exc)}") from exc


def _of_dataset(dataset: Any, source: str) -> Iterator[object]:
    """Return the batches of a tf.data.Dataset; one in which a component has no batch axis is batched here."""
    import tensorflow as tf

    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"'{source}' must return a data set that ends, got one that repeats; remove .repeat()")
    specs = tf.nest.flatten(dataset.element_spec)
    unknown = [spec for spec in specs if getattr(getattr(spec, "shape", None), "rank", None) is None]
    if unknown:
        raise DataError(
            f"'{source}' must return a data set whose components are tensors of a known rank, got {unknown[0]}; set "
            "the shape with tf.ensure_shape, such as behind tf.py_function, and flatten windows"
        )
    leading = [tuple(spec.shape)[:1] for spec in specs]
    is_batched = all(leading) and len({sizes[0] for sizes in leading}) == 1
    if is_batched and leading[0][0] is not None:  # rows that happen to have one length look the same
        log.info(
            "the data set of '%s' is taken as batches of %d rows, because each of its components has a first axis of "
            "that size; if these are single rows, call .batch(...)",
            source,
            leading[0][0],
        )
    batched = dataset if is_batched else dataset.batch(BATCH_ROWS)
    yield from batched.as_numpy_iterator()


_Part = tuple[Rows, dict[str, Array]]


def save_stream(
    data: Data, batches: Iterator[object], directory: Path, limit: Limit | None = None
) -> tuple[Rows, SplitRows, bool]:
    """Check and split the rows of each batch, and save each split below `directory`.

    Args:
        limit: for a look at the first rows; None reads all of them.

    Returns:
        The first row; what splits the rows; and whether there are more rows than the limit allowed. Then the rows
        are assigned to the splits in turn, because the first ones may all be of one split.

    Raises:
        DataError: the stream failed, its rows cannot be used, or the disk has too little room for them.
    """
    parts, is_partial = _divided(data, batches), False
    if limit is not None:
        with waiting_for(f"the first rows of '{data.source}'"):
            parts, is_partial = _first_parts(parts, limit, batches, data.source)
    identity, units, where = bytearray(), bytearray(), bytearray()
    first: Rows | None = None
    with Spools(directory, data.source) as spools, waiting_for(spools.progress):
        for rows, columns in parts:
            if not len(rows):  # such as a batch of which a filter has left nothing
                continue
            first = first or rows.take(np.arange(1))
            found = fingerprints(rows.features, "row")
            identity += found.tobytes()
            if data.identity:
                found = fingerprints(columns, "group")
                units += found.tobytes()
            place = assigned(data, columns, found).astype(np.uint8)
            if is_partial:
                place = (np.arange(len(where), len(where) + len(rows)) % len(SPLITS)).astype(np.uint8)
            where += place.tobytes()
            spools.append(rows, place)
        if first is None:
            among = f" in the first {limit.batches:,} batches" if limit and is_partial else ""
            raise DataError(f"'{data.source}' must have rows, got none{among}")
        distinct = np.frombuffer(identity, np.uint64)
        grouped = np.frombuffer(units, np.uint64) if data.identity else distinct
        index = index_of(data, np.frombuffer(where, np.uint8), grouped)
        spools.save()
    return first, SplitRows(index, distinct, grouped), is_partial


def checked_batches(
    batches: Iterator[object],
    source: str,
    time_column: str = "",
    split_columns: Collection[str] = (),
    *,
    needs_target: bool = True,
) -> Iterator[Rows]:
    """Yield the rows of each batch; a batch may have no rows, such as one of which a filter has left nothing.

    Args:
        source: what the batches come from, for messages. split_columns: features whose numbers may have another dtype
            in another batch, because they decide the splits and are not kept. The others are those of `check_rows`.

    Raises:
        DataError: the stream failed, or its rows cannot be used.
    """
    first: Rows | None = None
    for number, loaded in enumerate(_read(batches, source), start=1):
        where = f"{source}, batch {number}"
        rows = check_rows(loaded, where, time_column, needs_target=needs_target, needs_rows=False)
        if len(rows):
            first = first or rows.take(np.arange(1))
            _check_alike(rows, first, where, split_columns)
        yield rows


def _divided(data: Data, batches: Iterator[object]) -> Iterator[_Part]:
    """Yield the rows of each batch, and the columns that decide their split, which must be alike in all batches."""
    for rows in checked_batches(batches, data.source, data.time, data.split_columns):
        yield take_out(rows, data) if len(rows) else (rows, {})


def _first_parts(
    parts: Iterator[_Part], limit: Limit, batches: Iterator[object], source: str
) -> tuple[Iterator[_Part], bool]:
    """Return the parts that a limit allows, and whether there are more; the stream is told that it has ended."""
    found: list[_Part] = []
    rows = size = 0
    begun = time.monotonic()
    for part in parts:
        is_over = rows >= limit.rows or size >= limit.size or time.monotonic() - begun >= limit.seconds
        if len(found) >= limit.batches or (is_over and rows >= len(SPLITS)):
            close = getattr(batches, "close", None)
            try:
                if close:
                    close()
            except FOREIGN as exc:
                log.warning("'%s' must allow to be read in part, got %s", source, describe(exc))
            return iter(found), True
        found.append(part)
        rows += len(part[0])
        size += sum(array.nbytes for array in _columns(part[0]).values())
    return iter(found), False


def _read(batches: Iterator[object], source: str) -> Iterator[object]:
    """Yield the batches; an error of the user's code says in which one it was raised."""
    number = 1
    while True:
        try:
            loaded = next(batches)
        except StopIteration:
            return
        except PipelineError:
            raise
        except FOREIGN as exc:
            raise DataError(f"'{source}' must yield batches, got {describe(exc)} in batch {number}") from exc
        yield loaded
        number += 1


def _columns(rows: Rows) -> dict[str, Array]:
    return {**rows.features, **rows.targets}


def _check_alike(rows: Rows, first: Rows, source: str, split_columns: Collection[str]) -> None:
    """Refuse a batch with other columns, dtypes or shapes than the first one."""
    got, wanted = ([_described(found.features, split_columns), _described(found.targets)] for found in (rows, first))
    for theirs, ours in zip(got, wanted, strict=True):
        if theirs != ours:
            name = next(name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name))
            raise DataError(
                f"every batch of a stream must have the same columns, dtypes and shapes, but '{source}' has "
                f"{theirs.get(name, 'no column')} for '{name}', and batch 1 has {ours.get(name, 'no column')}; convert "
                "the columns to one dtype"
            )


def _described(columns: Mapping[str, Array], split_columns: Collection[str] = ()) -> dict[str, str]:
    """Return the dtype and shape of each column; equal numbers of any dtype are in the same split."""
    return {
        name: f"{'numbers' if name in split_columns and not is_string(array) else dtype_words(array)} {array.shape[1:]}"
        for name, array in columns.items()
    }


def shares_of_files(paths: Sequence[Path], counts: Mapping[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the share of each label in each split; only targets that may be labels are read, all rows at once."""
    targets = [load_rows(path).targets for path in paths]
    narrow = [name for name, array in targets[0].items() if math.prod(array.shape[1:]) <= MOST_LABELS]
    joined = {name: np.concatenate([part[name] for part in targets]) for name in narrow}
    for part in targets:
        let_go(part.values())
    ends = np.cumsum(list(counts.values()))
    index = {name: np.arange(end - counts[name], end) for name, end in zip(counts, ends.tolist(), strict=True)}
    return label_shares(joined, index)
