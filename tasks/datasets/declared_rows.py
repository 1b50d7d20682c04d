"""Reads the rows of `data.file` as `data.features` and `data.target` declare them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.redaction import redact
from configs.sections.data import Data
from configs.sections.features import Feature, Target
from configs.user_code import nearest
from tasks.datasets.column_files import batches, bytes_of, check_columns, files_of, read_columns
from tasks.datasets.kinds import INTEGER, NUMBER, ColumnOfBlocks, converted, plain, refuse_missing
from tasks.datasets.mapped import pieces
from tasks.datasets.rounding import rounding_of
from tasks.datasets.row_files import LARGEST
from tasks.datasets.strings import Array
from tasks.errors import WrongFile
from tasks.words import few, one_line

log = logging.getLogger(__name__)
FEW = 20  # up to so many different whole numbers of an undeclared target are classes
MOST_CLASSES = 1000
Classes = tuple[bool | int | str, ...]
"""The values of a target in the order of the model's answers; empty for a number."""


def check_files(data: Data) -> list[Path]:
    """Return the files of `data.file` if they exist and have all columns; only their headers are read.

    Raises:
        WrongFile: nothing matches, a file cannot be read, or a column does not exist.
    """
    files = files_of(data.file)
    for file in files:
        check_columns(file, _used(data))
    return files


def read_declared(data: Data, files: Sequence[Path] = (), *, needs_target: bool = True) -> tuple[Any, Classes]:
    """Return `(features, target)` of all rows as arrays, and the classes of the target.

    The features are in the dtypes that are served, and the columns that decide the splits are among them. A class is
    its position in the classes, as int64.

    Args:
        files: other files than `data.file`, for rows that a command is given.
        needs_target: False returns None as the target of files that do not have it.

    Raises:
        WrongFile: a file cannot be read, or a value does not fit what is declared.
    """
    files = files or files_of(data.file)
    too_large = [file for file in files if file.stat().st_size > LARGEST]
    if too_large:
        raise WrongFile(
            f"a file whose rows are held in memory must have at most {LARGEST / 2**30:g} GiB, got '{too_large[0]}'; "
            "lower data.stream_mb for a run, or give a command fewer rows"
        )
    kinds = {name: (feature.column or name, feature) for name, feature in data.features.items()}
    parts = [_part(file, data, needs_target=needs_target) for file in files]
    features: dict[str, Any] = {}
    for name, (column, feature) in kinds.items():
        field = f"data.features.{name}"
        arrays = [
            converted(part[column], feature, _where(file, column), field, given=not needs_target)
            for file, part in parts
        ]
        features[name] = np.concatenate(arrays)
    for name in dict.fromkeys(data.split_columns):
        if all(name in part for _, part in parts):
            features[name] = [value for file, part in parts for value in _of_split(part[name], data, name, file)]
    if not all(len(column) for column in features.values()):
        raise WrongFile(f"data.file must have rows, and there are none in {few([repr(str(file)) for file in files])}")
    targets = [
        (_where(file, data.target.name), part[data.target.name]) for file, part in parts if data.target.name in part
    ]
    if not targets:
        return (features, None), ()
    target, classes = _target(targets, data.target, given=not needs_target)
    return (features, target), classes


def is_streamed(data: Data) -> bool:
    """Return whether the files of `data.file` are so large that they are read as a stream.

    Raises:
        WrongFile: a file cannot be read.
    """
    return bool(data.file) and sum(map(bytes_of, files_of(data.file))) >= data.stream_mb * 1_000_000


def stream_declared(data: Data) -> tuple[Iterator[tuple[Any, Any]], Classes]:
    """Return batches of `(features, target)` as `read_declared` returns all of them, and the classes of the target.

    The targets of all rows are read at once.

    Raises:
        WrongFile: as `read_declared`, some of them when the batches are read.
    """
    files = files_of(data.file)
    states = {file: _state(file) for file in files}
    wanted = {file: _wanted(file, data, needs_target=True) for file in files}
    columns = [read_columns(file, [data.target.name])[data.target.name] for file in files]
    named = [(_where(file, data.target.name), column) for file, column in zip(files, columns, strict=True)]
    target, classes = _target(named, data.target, given=False)
    return _batches(data, wanted, states, target), classes


def _state(file: Path) -> tuple[int, ...]:
    """Return what is different after a file was written or replaced."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _refuse_changed(file: Path, state: tuple[int, ...]) -> None:
    """Raise `WrongFile` if a file was written after its targets were read, because they may be of other rows."""
    if not file.exists() or _state(file) != state:
        raise WrongFile(
            f"a file of data.file must not change while it is read, but '{file}' was written or replaced; run the "
            "command again when the file is complete"
        )


def _batches(
    data: Data, wanted: Mapping[Path, Sequence[str]], states: Mapping[Path, tuple[int, ...]], target: Array
) -> Iterator[tuple[Any, Any]]:
    """Yield the rows of files, whose targets are read already."""
    import pyarrow as pa

    begin = 0  # of the file, among the rows of all files
    for file, names in wanted.items():
        row = 0
        columns = {
            name: ColumnOfBlocks(feature, _where(file, feature.column or name), f"data.features.{name}")
            for name, feature in data.features.items()
        }
        for batch in batches(file, names):
            _refuse_changed(file, states[file])
            table = pa.Table.from_batches([batch])
            features: dict[str, Any] = {
                name: columns[name].block(table.column(feature.column or name))
                for name, feature in data.features.items()
            }
            for name in dict.fromkeys(data.split_columns):
                features[name] = _of_split(table.column(name), data, name, file, row)
            end = row + len(batch)
            yield features, target[begin + row : begin + end]
            row = end
        _refuse_changed(file, states[file])
        for column in columns.values():
            column.finish()
        begin += row
    if not begin:
        raise WrongFile(f"data.file must have rows, and there are none in {few([repr(str(file)) for file in wanted])}")


def _used(data: Data) -> list[str]:
    columns = [feature.column or name for name, feature in data.features.items()]
    return list(dict.fromkeys([*columns, data.target.name, *data.split_columns]))


def _part(file: Path, data: Data, *, needs_target: bool) -> tuple[Path, dict[str, Any]]:
    """Return the columns of one file that are used."""
    return file, read_columns(file, _wanted(file, data, needs_target=needs_target))


def _wanted(file: Path, data: Data, *, needs_target: bool) -> list[str]:
    """Return the names of the columns of one file that are used, and log the names of those that are not."""
    wanted = _used(data)
    if not needs_target:  # rows that are given to a command
        own = [feature.column or name for name, feature in data.features.items()]
        names = check_columns(file, own)
        wanted = [name for name in wanted if name in names]
    names = check_columns(file, wanted)
    new = [name for name in names if name not in wanted and name not in data.ignore]
    if new and needs_target:
        log.warning(
            "'%s' has columns that are neither declared nor ignored, and they are not used: %s; declare them in "
            "data.features, or name them in data.ignore", file, few([f"'{one_line(name, 60)}'" for name in new]),
        )  # fmt: skip
    return wanted


def _where(file: Path, column: str) -> str:
    return f"'{file}': column '{one_line(column, 60)}'"


def _of_split(column: Any, data: Data, name: str, file: Path, first_row: int = 0) -> list[Any]:
    """Return a column that decides the splits as text, numbers or booleans; a time is ISO 8601 text."""
    known = plain(column, _where(file, name))
    refuse_missing(known, _where(file, name), first_row)
    values = known.to_pylist()
    if name == data.time and not isinstance(data.test_from, str):
        wrong = [row for row, value in enumerate(values) if not _is_number(value)]
        if wrong:
            raise WrongFile(
                f"{_where(file, name)} must have numbers, because data.test_from is one, got "
                f"'{one_line(redact(str(values[wrong[0]])), 60)}' in row {first_row + wrong[0]}; correct the file, or "
                "set validation_from and test_from as times"
            )
        return [float(value) if isinstance(value, str) else value for value in values]
    return [value.isoformat() if hasattr(value, "isoformat") else value for value in values]


def _target(columns: Sequence[tuple[str, Any]], target: Target, *, given: bool) -> tuple[Array, Classes]:
    """Return the target of all rows: float32 numbers, or int64 positions in the classes."""
    plains = [(where, plain(column, where)) for where, column in columns]
    for where, column in plains:
        refuse_missing(column, where)
    kind = target.kind or _guessed(plains, target.name)
    if kind == "number":
        feature = Feature(kind="number", dtype="float64")
        numbers = [converted(column, feature, where, "data.target", given=True) for where, column in plains]
        return _as_float32(np.concatenate(numbers), plains[0][0], given=given), ()
    if kind == "boolean":
        feature = Feature(kind="boolean")
        found = np.concatenate([converted(column, feature, where, "data.target") for where, column in plains])
        return found.astype(np.int64), (False, True)
    feature = Feature(kind="category")
    labels = np.concatenate([converted(column, feature, where, "data.target") for where, column in plains])
    return _of_classes(labels, target, plains[0][0])


def _as_float32(numbers: Array, where: str, *, given: bool) -> Array:
    """Return a target in the dtype in which models answer; unlike an id, a whole number may be rounded."""
    lost = rounding_of(numbers)
    if lost and not given:
        raise WrongFile(
            f"{where} must have numbers that float32 can tell apart, because the model answers in float32, {lost}; "
            "write the difference from a constant into the file"
        )
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    if not np.isfinite(found).all():
        largest = np.abs(numbers).max()
        raise WrongFile(f"{where} must fit float32, in which the model answers, got {largest:g}; use another unit")
    return found


def _guessed(columns: Sequence[tuple[str, Any]], name: str) -> str:
    """Return the kind of a target that is declared by its name alone, and log it."""
    from pyarrow import types

    kind = "category"
    if all(types.is_boolean(column.type) for _, column in columns):
        kind = "boolean"
    else:
        chunks = [chunk for _, column in columns for chunk in column.chunks]
        if all(_is_number(value) for chunk in chunks for value in chunk.unique().to_pylist()):
            different: set[Any] = set()
            whole = True
            for chunk in chunks:
                values = chunk.unique().to_pylist() if whole and len(different) <= FEW else []
                whole = whole and all(_is_whole(value) for value in values)
                different.update(values)
            kind = "category" if whole and len(different) <= FEW else "number"
    log.info("the target '%s' is read as %s; set data.target: {name: ..., kind: ...} to decide that", name, kind)
    return kind


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or bool(NUMBER.fullmatch(str(value).strip()))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and bool(INTEGER.fullmatch(value.strip())))


def _of_classes(labels: Array, target: Target, where: str) -> tuple[Array, Classes]:
    texts = sorted({text for piece in pieces(labels) for text in piece.tolist()})  # all rows at once would be objects
    whole = all(INTEGER.fullmatch(text) and str(int(text)) == text and len(text) < 19 for text in texts)
    ordered: Classes = target.classes or (tuple(sorted(map(int, texts))) if whole else tuple(texts))
    places = {str(name): place for place, name in enumerate(ordered)}
    unknown = [text for text in texts if text not in places]
    if unknown:
        rows = np.flatnonzero(labels == unknown[0])
        raise WrongFile(
            f"{where} must have the classes of data.target.classes, got '{one_line(redact(unknown[0]), 60)}' in "
            f"{len(rows):,} rows; {nearest(unknown[0], list(places))} Correct the file, or add the class"
        )
    if not 2 <= len(ordered) <= MOST_CLASSES:
        raise WrongFile(
            f"{where} must have 2 to {MOST_CLASSES:,} classes, got {len(ordered):,}; set kind: number if it is a number"
        )
    positions = [np.array([places[text] for text in piece.tolist()], np.int64) for piece in pieces(labels)]
    return np.concatenate(positions), ordered


def named_shares(shares: Mapping[str, Mapping[str, Mapping[str, float]]], classes: Classes) -> dict[str, Any]:
    """Return the shares of labels by the names of the classes instead of by their positions."""
    if not classes:
        return dict(shares)
    return {
        target: {str(classes[int(label)]): found for label, found in labels.items()}
        for target, labels in shares.items()
    }
