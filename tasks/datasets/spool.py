"""Collects rows that come in batches: each column of each split is a file, until the splits are saved."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from tasks.datasets.mapped import let_go
from tasks.datasets.rows import Array, Rows, save_arrays
from tasks.datasets.splitting import SPLITS
from tasks.datasets.strings import is_string, is_text, unpacked
from tasks.errors import DataError
from tasks.words import size_words

RESERVE_BYTES, RESERVE_SHARE = 2**30, 0.05
"""Room that is left to others on the disk: so many bytes, but at most this share of the whole disk."""
MOST_CHARACTERS = 64
"""Of an item of text or bytes in a column that is mapped; each item takes as much room as the longest one."""
ITEMS_AT_ONCE = 2**14


class Spools:
    """The rows of all splits, in a temporary directory beside the files that they become.

    An array of every item has the same size on the disk, so that it can be mapped. Text and bytes can only be mapped
    if no item is long and none ends with NUL, which NumPy's arrays of fixed width drop.
    """

    def __init__(self, directory: Path, source: str, names: Sequence[str] = SPLITS) -> None:
        """Collect rows for files in a directory, named by splits; `source` is what they come from, for messages."""
        self._parent, self._source, self._names = directory, source, names
        self._spools: dict[str, _Spool] = {}
        self._rows = self._bytes = 0

    def __enter__(self) -> Spools:
        with _writable(self._parent):
            self._parent.mkdir(parents=True, exist_ok=True)
            self._temporary = tempfile.TemporaryDirectory(prefix=".stream-", dir=self._parent)
            for name in self._names:
                (Path(self._temporary.name) / name).mkdir()
                self._spools[name] = _Spool(Path(self._temporary.name) / name)
        return self

    def __exit__(self, *_: object) -> None:
        for spool in self._spools.values():
            spool.close()
        self._temporary.cleanup()

    def progress(self) -> str:
        """Return what was collected so far, in words."""
        return f"the rows of '{self._source}' ({self._rows:,} rows, {size_words(self._bytes)} on the disk)"

    def append(self, rows: Rows, place: Array) -> None:
        """Add rows that have the columns of those before; `place` is the number of each row's split.

        Raises:
            DataError: the disk has too little room, or cannot be written.
        """
        with _writable(self._parent):
            for split, name in enumerate(self._names):
                self._bytes += self._spools[name].append(rows.take(np.flatnonzero(place == split)))
            self._rows += len(rows)
            self._check_room()

    def save(self) -> list[Path]:
        """Write the file of each split, which its readers map, and return their paths in the order of the splits."""
        paths = [self._parent / f"{name}.npz" for name in self._names]
        with _writable(self._parent):
            for name, path in zip(self._names, paths, strict=True):
                save_arrays(path, self._spools[name].arrays(), mapped=True)
                self._spools[name].close()  # so that the rows of one split at a time are on the disk twice
        return paths

    def _check_room(self) -> None:
        """Stop before the disk is full: what was collected is written once more, and others need room, too."""
        disk = shutil.disk_usage(self._parent)
        wanted = sum(spool.still_to_write for spool in self._spools.values()) + min(
            RESERVE_BYTES, int(disk.total * RESERVE_SHARE)
        )
        if disk.free < wanted:
            raise DataError(
                f"work_dir must have {size_words(wanted)} of room to save the rows of a stream after {self._rows:,} "
                f"rows of '{self._source}' took {size_words(self._bytes)}, got {size_words(disk.free)} free in "
                f"'{self._parent}'; free some space, set work_dir on a larger disk, or let the stream end, because its "
                "rows are written until it does"
            )


class _Spool:
    """The rows of one split."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._columns: dict[str, _Numbers | _Items] = {}

    def append(self, rows: Rows) -> int:
        """Add rows and return the bytes that they take."""
        members = {f"x/{k}": v for k, v in rows.features.items()} | {f"y/{k}": v for k, v in rows.targets.items()}
        for name, array in members.items():
            if name not in self._columns:
                kind = _Items if is_string(array) else _Numbers
                self._columns[name] = kind(self._directory / str(len(self._columns)), array)
        return sum(self._columns[name].append(array) for name, array in members.items())

    @property
    def still_to_write(self) -> int:
        """Return the bytes that saving the rows takes on the disk."""
        return sum(column.still_to_write for column in self._columns.values())

    def arrays(self) -> Mapping[str, Array]:
        """Return the rows, most of them mapped."""
        return {name: column.array() for name, column in self._columns.items()}

    def close(self) -> None:
        """Remove the files."""
        for column in self._columns.values():
            column.close()
        self._columns = {}
        shutil.rmtree(self._directory, ignore_errors=True)


class _Numbers:
    """A column of numbers or booleans."""

    def __init__(self, file: Path, like: Array) -> None:
        self._file, self._rows, self._like = file.open("w+b"), 0, like[:0]
        self.still_to_write = 0

    def append(self, array: Array) -> int:
        self._rows += len(array)
        self.still_to_write += array.nbytes
        return self._file.write(np.ascontiguousarray(array).data)

    def array(self) -> Array:
        return _of_file(self._file, self._like.dtype, (self._rows, *self._like.shape[1:]))

    def close(self) -> None:
        _close(self._file)


class _Items:
    """A column of text or bytes: all items one after the other, and their lengths in bytes."""

    def __init__(self, file: Path, like: Array) -> None:
        self._path = file
        self._bytes, self._lengths = file.open("w+b"), file.with_suffix(".lengths").open("w+b")
        self._fixed: IO[bytes] | None = None
        self._text, self._shape, self._rows = is_text(like), like.shape[1:], 0
        self._longest, self._ends_with_nul = 1, False
        self._written = 0

    @property
    def still_to_write(self) -> int:
        if not self._can_be_fixed:
            return self._written
        return (
            2 * self._rows * math.prod(self._shape) * self._fixed_dtype.itemsize
        )  # here, and in the file of the split

    @property
    def _can_be_fixed(self) -> bool:
        return not self._ends_with_nul and self._longest <= MOST_CHARACTERS

    @property
    def _fixed_dtype(self) -> np.dtype[Any]:
        return np.dtype(f"{'U' if self._text else 'S'}{self._longest}")

    def append(self, array: Array) -> int:
        self._rows += len(array)
        items = array.ravel().tolist()
        raw = [item.encode() if isinstance(item, str) else item for item in items]
        self._longest = max(self._longest, max(map(len, items), default=0))
        self._ends_with_nul = self._ends_with_nul or any(item.endswith(b"\0") for item in raw)
        lengths = np.fromiter(map(len, raw), np.int64, len(raw))
        written = self._bytes.write(b"".join(raw)) + self._lengths.write(lengths.data)
        self._written += written
        return written

    def array(self) -> Array:
        """Return the items: mapped, in an array of fixed width, if that can hold them, or in memory."""
        shape = (self._rows, *self._shape)
        n_items = math.prod(shape)
        lengths = _of_file(self._lengths, np.dtype(np.int64), (n_items,))
        buffer = _of_file(self._bytes, np.dtype(np.uint8), (int(lengths.sum()),))
        if not self._can_be_fixed:
            return self._unpacked(buffer, lengths).reshape(shape)
        self._fixed = self._path.with_suffix(".fixed").open("w+b")
        dtype, begin = self._fixed_dtype, 0
        for start in range(0, n_items, ITEMS_AT_ONCE):
            some = lengths[start : start + ITEMS_AT_ONCE]
            end = begin + int(some.sum())
            self._fixed.write(self._unpacked(buffer[begin:end], some).astype(dtype).tobytes())
            let_go([buffer, lengths])
            begin = end
        return _of_file(self._fixed, dtype, shape)

    def _unpacked(self, buffer: Array, lengths: Array) -> Array:
        return unpacked(buffer, lengths.astype(np.uint64), text=self._text)

    def close(self) -> None:
        for file in (self._bytes, self._lengths, self._fixed):
            if file is not None:
                _close(file)


def _of_file(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    file.flush()
    if not math.prod(shape):  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(file, dtype, "r", shape=shape))


def _close(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # such as a full disk, which was reported before
        file.close()


@contextlib.contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DataError(f"work_dir must be writable, got '{directory}': {exc.strerror}") from exc
