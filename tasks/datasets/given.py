"""Reads rows for a model that was trained elsewhere: from a file, from the user's loader, or from Python."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.sections.data import Data
from configs.sections.gates import Gates
from tasks.datasets.column_files import is_declared
from tasks.datasets.declared_rows import read_declared
from tasks.datasets.mapped import let_go
from tasks.datasets.overview import label_shares
from tasks.datasets.prepare import call_loader, columns_in_words
from tasks.datasets.row_files import read_table
from tasks.datasets.rows import Array, Rows, check_rows, digest_rows, load_rows, save_rows
from tasks.datasets.seen import AsRequests, request_fingerprints
from tasks.datasets.splitting import SPLITS, told_splits
from tasks.datasets.spool import Spools
from tasks.datasets.stream import BATCH_ROWS, batches_of, checked_batches
from tasks.errors import DataError, WrongFile
from tasks.records import Splits
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
ROWS = "rows-in-python.npz"  # contains rows that were checked already


@dataclass(frozen=True)
class GivenRows:
    """The source of rows.

    Attributes:
        file: a table; empty calls `data.load`, which may return None as the target.
        target: the column or array of the file that the model predicts; empty if there is none.
        trained_on: a table of rows that the model was trained or validated on; empty if they are not known.
    """

    file: str = ""
    target: str = ""
    trained_on: str = ""


@contextlib.contextmanager
def named_file(file: str) -> Iterator[None]:
    """Raise `WrongFile` for rows of the block that cannot be used, if they are in a file that the user named."""
    try:
        yield
    except DataError as exc:
        if not file or Path(file).name == ROWS:
            raise
        raise WrongFile(str(exc), exc.detail) from exc


def prepare_given(data: Data, gates: Gates, given: GivenRows, directory: Path) -> Splits:
    """Read, check and save rows: all of them are test rows, unless `data.split` assigns them to splits.

    Raises:
        DataError: the rows cannot be read or used, or the configured metrics have no target.
    """
    rows, source = _read(data, given)
    if not isinstance(rows, Rows):
        return _of_stream(rows, source, data, gates, given, directory)
    _check_targets(rows, gates)
    rows, index = _told(rows, data)
    _check_judged(len(index["test"]), data)
    parts = {name: rows.take(numbers) for name, numbers in index.items()}
    if given.trained_on:
        _check_one_record(parts, data)
        parts["train"] = _trained_on(Path(given.trained_on), rows, data)
    return saved(parts, source, directory)


def _of_stream(  # noqa: PLR0913, PLR0917  those of prepare_given, and what was read
    batches: Iterator[object], source: str, data: Data, gates: Gates, given: GivenRows, directory: Path
) -> Splits:
    """Check and save rows that come in batches, as `prepare_given` does."""
    is_empty = True
    with Spools(directory, source) as spools, waiting_for(spools.progress):
        for batch in checked_batches(batches, source, needs_target=False):
            if not len(batch):
                continue
            _check_targets(batch, gates)
            rows, index = _told(batch, data)
            place = np.empty(len(rows), np.uint8)
            for split, name in enumerate(SPLITS):
                place[index[name]] = split
            spools.append(rows, place)
            is_empty = False
        if is_empty:
            raise DataError(f"'{source}' must have rows, got none")
        paths = spools.save()
    parts = dict(zip(SPLITS, map(load_rows, paths), strict=True))
    _check_judged(len(parts["test"]), data)
    if given.trained_on:
        _check_one_record(parts, data)
        parts["train"] = _trained_on(Path(given.trained_on), parts["test"], data)
        save_rows(directory / "train.npz", parts["train"])
    return replace(_described(parts, source, directory), streamed=True)


def _check_targets(rows: Rows, gates: Gates) -> None:
    if gates.metrics and not rows.targets:
        raise DataError("gates.metrics needs a target to compare the answers with; name its column with --target")


def _check_judged(n_rows: int, data: Data) -> None:
    if not n_rows:
        raise DataError(f"there must be rows to judge, but '{data.split}' contains test in no row")


def _check_one_record(parts: Mapping[str, Rows], data: Data) -> None:
    """Refuse rows of which two sources say that the model was trained on them."""
    if len(parts["train"]) or len(parts["validation"]):
        raise DataError(
            f"the training rows must be given either by --trained-on or by '{data.split}' (rows with train or "
            "validation), got both; remove one of them"
        )


def saved(parts: dict[str, Rows], source: str, directory: Path) -> Splits:
    """Save the rows of each split."""
    for name, part in parts.items():
        save_rows(directory / f"{name}.npz", part)
    return _described(parts, source, directory)


def _described(parts: Mapping[str, Rows], source: str, directory: Path) -> Splits:
    """Return the splits that were saved in a directory."""
    test = parts["test"]
    return Splits(
        train=directory / "train.npz",
        validation=directory / "validation.npz",
        test=directory / "test.npz",
        rows={name: len(part) for name, part in parts.items()},
        digest=digest_rows(part for part in parts.values() if len(part)),
        source=source,
        features=columns_in_words(test),
        shares=label_shares(test.targets, {"test": np.arange(len(test))}),
    )


def _read(data: Data, given: GivenRows) -> tuple[Rows | Iterator[object], str]:
    """Return the rows, or the batches of a stream, and their source."""
    if Path(given.file).name == ROWS:
        return load_rows(Path(given.file)), "rows that were given in Python"
    if data.file and (not given.file or is_declared(Path(given.file))):
        return check_rows(
            declared(data, given), given.file or data.source, needs_target=False
        ), given.file or data.source
    source = given.file or data.load
    loaded = read_table(Path(given.file), given.target) if given.file else call_loader(data)
    batches = None if given.file else batches_of(loaded, source)
    if batches is not None:
        return batches, source
    return check_rows(loaded, source, needs_target=False), source


def declared(data: Data, given: GivenRows) -> Any:
    """Return `(features, target)` of a file that is read as `data.features` declares its columns.

    Raises:
        DataError: the file does not fit the declaration, or the target is another column than the declared one.
    """
    if given.target not in ("", data.target.name):
        raise DataError(f"--target must be data.target, '{data.target.name}', or be left out, got '{given.target}'")
    files = [Path(given.file)] if given.file else []
    (features, target), classes = read_declared(data, files, needs_target=False)
    if files and target is not None and classes and data.target.kind != "boolean" and not data.target.classes:
        raise DataError(
            f"the classes of '{data.target.name}' must be declared if rows are given, because a file may lack some of "
            "them, and the others would get other positions; set kind: category and classes: [...] in data.target, in "
            "the order of the model's answers, which assets.extra/features.json of its version contains"
        )
    unused = set(data.split_columns) - {data.split}
    return {name: column for name, column in features.items() if name not in unused}, target


def _told(rows: Rows, data: Data) -> tuple[Rows, dict[str, Array]]:
    """Return the rows without the column `data.split`, and the row numbers of each split; by default all are test."""
    nothing = {name: np.arange(0) for name in SPLITS}
    if not data.split:
        return rows, nothing | {"test": np.arange(len(rows))}
    if data.split not in rows.features:
        known = ", ".join(f"'{name}'" for name in list(rows.features)[:40])
        raise DataError(
            f"data.split must name a column of the rows, got '{data.split}'; the columns are {known}. Remove "
            "data.split to judge all rows"
        )
    index = told_splits(rows.features[data.split], data.split)
    features = {name: array for name, array in rows.features.items() if name != data.split}
    if not features:
        raise DataError(f"the rows must have a feature besides '{data.split}', which only assigns rows to splits")
    return Rows(features, rows.targets), index


def _trained_on(file: Path, rows: Rows, data: Data) -> Rows:
    """Return the rows that the model was trained on; columns that the judged rows do not have are ignored."""
    if file.name == ROWS:
        return load_rows(file)
    if data.file and is_declared(file):
        return check_trained_on(read_declared(data, [file], needs_target=False)[0][0], rows, str(file))
    return check_trained_on(read_table(file, option="--trained-on")[0], rows, str(file))


def check_trained_on(table: Any, rows: Rows, source: str) -> Rows:
    """Return the columns of a table of training rows that the judged rows have too, or all if there are none.

    Raises:
        DataError: the columns cannot be used.
    """
    shared = {}
    if isinstance(table, Mapping) or hasattr(table, "columns"):
        shared = {name: table[name] for name in table if str(name) in rows.features}
    return check_rows((shared or table, None), source, needs_target=False)


def leave_out_trained(name: str, splits: Splits, as_requests: AsRequests) -> Splits:
    """Remove the test rows that the model was trained or validated on, and count them.

    Args:
        name: the name of the model.
        as_requests: converts features to requests. Rows that differ only in other columns are equal.

    Raises:
        DataError: rows do not fit the model's inputs, or no row would be left.
    """
    files = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    parts = {split: load_rows(file) for split, file in files.items()}
    test = request_fingerprints(as_requests(parts["test"].features), name)
    try:
        seen = [request_fingerprints(as_requests(part.features), name)
                for split, part in parts.items() if split != "test" and len(part)]  # fmt: skip
    except DataError as exc:
        raise DataError(f"the rows that the model was trained on cannot be used: {exc}") from exc
    known = np.isin(test, np.concatenate(seen))
    if known.all():
        raise DataError(f"there must be rows to judge, but the model was trained on all {len(known):,} of them")
    left_out = int(known.sum())
    log.info("%d of %d rows are not judged, because the model was trained on them", left_out, len(known))
    if splits.streamed:
        parts["test"] = _kept(parts["test"], known, splits)
        return replace(_described(parts, splits.source, splits.test.parent), streamed=True, left_out=left_out)
    parts["test"] = parts["test"].take(np.flatnonzero(~known))
    return replace(saved(parts, splits.source, splits.test.parent), left_out=left_out)


def _kept(test: Rows, known: Array, splits: Splits) -> Rows:
    """Write the test rows of a stream again, without those that are known, and return them."""
    with Spools(splits.test.parent, splits.source, ["test"]) as spools:
        for begin in range(0, len(test), BATCH_ROWS):
            kept = begin + np.flatnonzero(~known[begin : begin + BATCH_ROWS])
            spools.append(test.take(kept), np.zeros(len(kept), np.uint8))
            let_go([*test.features.values(), *test.targets.values()])
        [path] = spools.save()
    return load_rows(path)
