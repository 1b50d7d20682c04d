"""Calls a user's loader, and saves its rows as three splits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from configs.sections.data import Data
from tasks.datasets.declared_rows import Classes, is_streamed, named_shares, read_declared, stream_declared
from tasks.datasets.feature_record import check_trained_targets, tell_unknown_values
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.overview import label_shares, shared_rows
from tasks.datasets.rows import Array, Rows, check_rows, digest_rows, load_rows, save_arrays, save_rows
from tasks.datasets.splitting import SPLITS, SplitRows, split_rows, take_out
from tasks.datasets.stream import Limit, batches_of, save_stream, shares_of_files
from tasks.datasets.strings import dtype_words
from tasks.datasets.user_code import describe, resolve
from tasks.errors import DataError
from tasks.records import Splits

log = logging.getLogger(__name__)


def prepare_splits(data: Data, directory: Path, limit: Limit | None = None) -> Splits:
    """Load, check and split the rows, and save each split below `directory`.

    Args:
        limit: for a look at the first rows of a stream; None reads all of them.

    Raises:
        DataError: the loader failed, or its rows cannot be used.
    """
    if is_streamed(data):
        batches, classes = stream_declared(data)
        return _of_stream(data, batches, directory, limit, classes)
    loaded, classes = read_declared(data) if data.file else (call_loader(data), ())
    stream = None if data.file else batches_of(loaded, data.load)
    if stream is not None:
        del loaded
        return _of_stream(data, stream, directory, limit)
    rows, columns = take_out(check_rows(loaded, data.source, data.time), data)
    del loaded
    identity = fingerprints(rows.features, "row")
    units = fingerprints(columns, "group") if data.identity else identity
    index = split_rows(data, columns, units)
    tell_unknown_values(data.features, lambda name, split: rows.features[name][index[split]])
    if data.file:
        check_trained_targets(next(iter(rows.targets.values()))[index["train"]], classes)
    digest = digest_rows(_saved(rows, index, directory))
    found = _splits(data, directory, SplitRows(index, identity, units), rows, digest)
    return replace(found, shares=named_shares(label_shares(rows.targets, index), classes), classes=classes)


def _of_stream(
    data: Data, batches: Iterator[object], directory: Path, limit: Limit | None, classes: Classes = ()
) -> Splits:
    """Return the splits of rows that come in batches."""
    first, split, is_partial = save_stream(data, batches, directory, limit)
    paths = [directory / f"{name}.npz" for name in SPLITS]
    parts = dict(zip(SPLITS, map(load_rows, paths), strict=True))
    if not is_partial:  # of the first rows, nothing follows for the others
        tell_unknown_values(data.features, lambda name, split: parts[split].features[name])
        if data.file:
            check_trained_targets(next(iter(parts["train"].targets.values())), classes)
    found = _splits(data, directory, split, first, digest_rows(parts.values()), is_partial=is_partial)
    shares = named_shares(shares_of_files(paths, found.rows), classes)
    return replace(found, shares=shares, classes=classes, streamed=True)


def _splits(  # noqa: PLR0913  parts of one record
    data: Data, directory: Path, split: SplitRows, rows: Rows, digest: str, *, is_partial: bool = False
) -> Splits:
    """Describe splits that were saved; `rows` are any of theirs. Rows that splits share are named in a warning."""
    shared = 0 if is_partial else shared_rows(split.identity, split.index)
    if shared:
        log.warning("%d distinct rows are in more than one split, so some test rows are also training rows", shared)
    groups = directory / "groups.npz" if data.identity else None
    if groups is not None:
        save_arrays(groups, {name: split.units[numbers] for name, numbers in split.index.items()})
    return Splits(
        train=directory / "train.npz",
        validation=directory / "validation.npz",
        test=directory / "test.npz",
        rows={name: len(numbers) for name, numbers in split.index.items()},
        digest=digest,
        source=data.source,
        features=columns_in_words(rows),
        groups=groups,
        is_partial=is_partial,
    )


def columns_in_words(rows: Rows) -> tuple[str, ...]:
    """Return `name: dtype (shape)` of each feature and target."""
    columns = {**rows.features, **rows.targets}
    return tuple(f"{name}: {dtype_words(array)} {array.shape[1:]}" for name, array in columns.items())


def call_loader(data: Data) -> object:
    """Return the result of the user's loader, and keep no reference to it after it has been checked."""
    load = resolve(data.load, "data.load", DataError)
    try:
        return load(**data.params)
    except Exception as exc:  # a loader may raise anything
        raise DataError(f"data.load '{data.load}' must return rows, got {describe(exc)}") from exc


def _saved(rows: Rows, index: Mapping[str, Array], directory: Path) -> Iterator[Rows]:
    """Save and yield each split, one at a time, because each is a copy."""
    for name, numbers in index.items():
        part = rows.take(numbers)
        save_rows(directory / f"{name}.npz", part)
        yield part
