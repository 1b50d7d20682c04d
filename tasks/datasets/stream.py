"""Prepares rows that come as a stream of batches: they are written to the disk once, and never all in memory.

A row's split and fingerprints follow from the row itself, so that each batch is assigned alone. Eight bytes of
fingerprint for each row stay in memory, to find rows that several splits share.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import IO, Any

import numpy as np

from configs.sections.data import Data
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.mapped import let_go
from tasks.datasets.overview import MOST_LABELS, label_shares, shared_rows
from tasks.datasets.rows import Array, Rows, check_rows, digest_rows, load_rows, save_arrays
from tasks.datasets.splitting import SPLITS, assigned, index_of, take_out
from tasks.datasets.strings import dtype_words, is_string
from tasks.datasets.user_code import FOREIGN, describe
from tasks.errors import DataError, PipelineError
from tasks.records import Splits

log = logging.getLogger(__name__)
BATCH_ROWS = 8192  # of a data set without batches


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
            with ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_rows):
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


def prepare_stream(data: Data, batches: Iterator[object], directory: Path) -> Splits:
    """Check and split the rows of each batch, and save each split below `directory`, as `prepare_splits` does.

    Raises:
        DataError: the stream failed, or its rows cannot be used.
    """
    identity, units, where = bytearray(), bytearray(), bytearray()
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_Spool(directory)) for name in SPLITS}
        first_given: Rows | None = None  # with the columns that decide the split, which must be alike, too
        first: Rows | None = None
        for number, loaded in enumerate(_read(batches, data.load), start=1):
            source = f"{data.load}, batch {number}"
            given = check_rows(loaded, source, data.time, needs_rows=False)
            if not len(given):  # such as one of which a filter has left nothing
                continue
            first_given = first_given or given.take(np.arange(1))
            _check_alike(given, first_given, source)
            rows, columns = take_out(given, data)
            first = first or rows.take(np.arange(1))
            found = fingerprints(rows.features, "row")
            identity += found.tobytes()
            if data.identity:
                found = fingerprints(columns, "group")
                units += found.tobytes()
            place = assigned(data, columns, found)
            where += place.astype(np.uint8).tobytes()
            for split, name in enumerate(SPLITS):
                files[name].append(rows.take(np.flatnonzero(place == split)))
        if first is None:
            raise DataError(f"'{data.load}' must have rows, got none")
        distinct = np.frombuffer(identity, np.uint64)
        grouped = np.frombuffer(units, np.uint64) if data.identity else distinct
        index = index_of(data, np.frombuffer(where, np.uint8), grouped)
        for name in SPLITS:
            files[name].save(directory / f"{name}.npz")
    shared = shared_rows(distinct, index)
    if shared:
        log.warning("%d distinct rows are in more than one split, so some test rows are also training rows", shared)
    groups = directory / "groups.npz" if data.identity else None
    if groups is not None:
        save_arrays(groups, {name: grouped[numbers] for name, numbers in index.items()})
    paths = train, validation, test = [directory / f"{name}.npz" for name in SPLITS]
    counts = {name: len(numbers) for name, numbers in index.items()}
    return Splits(
        train=train,
        validation=validation,
        test=test,
        rows=counts,
        digest=digest_rows(map(load_rows, paths)),
        source=data.load,
        features=tuple(f"{name}: {dtype_words(array)} {array.shape[1:]}" for name, array in _columns(first).items()),
        groups=groups,
        shares=_shares(paths, counts),
        streamed=True,
    )


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


def _check_alike(rows: Rows, first: Rows, source: str) -> None:
    """Refuse a batch with other columns, dtypes or shapes than the first one."""
    got, wanted = ([_described(part) for part in (found.features, found.targets)] for found in (rows, first))
    for theirs, ours in zip(got, wanted, strict=True):
        if theirs != ours:
            name = next(name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name))
            raise DataError(
                f"every batch of a stream must have the same columns, dtypes and shapes, but '{source}' has "
                f"{theirs.get(name, 'no column')} for '{name}', and batch 1 has {ours.get(name, 'no column')}; convert "
                "the columns to one dtype"
            )


def _described(columns: Mapping[str, Array]) -> dict[str, str]:
    return {name: f"{dtype_words(array)} {array.shape[1:]}" for name, array in columns.items()}


def _shares(paths: Sequence[Path], counts: Mapping[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the share of each label in each split; only targets that may be labels are read, all rows at once."""
    targets = [load_rows(path).targets for path in paths]
    narrow = [name for name, array in targets[0].items() if math.prod(array.shape[1:]) <= MOST_LABELS]
    joined = {name: np.concatenate([part[name] for part in targets]) for name in narrow}
    for part in targets:
        let_go(part.values())
    ends = np.cumsum(list(counts.values()))
    index = {name: np.arange(end - counts[name], end) for name, end in zip(counts, ends.tolist(), strict=True)}
    return label_shares(joined, index)


class _Spool:
    """Collects the rows of one split: numbers in a file for each column, text and bytes in memory."""

    def __init__(self, directory: Path) -> None:
        self._parent, self._rows = directory, 0
        self._files: dict[str, IO[bytes]] = {}
        self._texts: dict[str, list[Array]] = {}
        self._like: dict[str, Array] = {}  # no rows, but dtype and shape

    def __enter__(self) -> _Spool:
        with _writable(self._parent):
            self._parent.mkdir(parents=True, exist_ok=True)
            self._directory = tempfile.TemporaryDirectory(prefix=".stream-", dir=self._parent)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # such as a full disk, which was reported before
                file.close()
        self._directory.cleanup()

    def append(self, rows: Rows) -> None:
        """Add rows that have the columns of those before."""
        members = {f"x/{k}": v for k, v in rows.features.items()} | {f"y/{k}": v for k, v in rows.targets.items()}
        self._rows += len(rows)
        with _writable(self._parent):
            for number, (name, array) in enumerate(members.items()):
                self._like.setdefault(name, array[:0])
                if is_string(array):
                    self._texts.setdefault(name, []).append(array)
                    continue
                if name not in self._files:
                    self._files[name] = (Path(self._directory.name) / str(number)).open("w+b")
                self._files[name].write(np.ascontiguousarray(array).data)

    def save(self, path: Path) -> None:
        """Write the file of the split, whose numbers are mapped by its readers."""
        with _writable(self._parent):
            save_arrays(path, {name: self._joined(name, like) for name, like in self._like.items()}, mapped=True)

    def _joined(self, name: str, like: Array) -> Array:
        if name in self._texts:
            return np.concatenate(self._texts[name])
        self._files[name].flush()
        shape = (self._rows, *like.shape[1:])
        if not math.prod(shape):  # an empty file cannot be mapped
            return np.empty(shape, like.dtype)
        return np.asarray(np.memmap(self._files[name], like.dtype, "r", shape=shape))


@contextlib.contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DataError(f"work_dir must be writable, got '{directory}': {exc.strerror}") from exc
