"""Arrays that stay on the disk: numbers in a stored `.npz` that are mapped into memory when they are read.

A stream of rows may be larger than the memory. Its files are marked, so that every reader of saved arrays maps their
numbers, read-only, instead of loading them. Text and bytes are loaded. The pages of a mapped file count as memory of
the process until they are let go, which `pieces` and `let_go` do.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from tasks.datasets.strings import Array
from tasks.errors import DataError

MAPPED = b"mapped"  # the comment of such an archive
PIECE_BYTES = 2**22
ALIGNMENT = 64  # bytes; the header of an array has a multiple of them. Source: NumPy, numpy/lib/_format_impl.py
LOCAL_HEADER, ZIP64_EXTRA = 30, 20  # bytes. Source: APPNOTE.TXT 4.3.7 and 4.5.3, of PKWARE
PADDING = 0xD935  # the header id of extra fields that align, as Android's zipalign writes them


def padding(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return an extra field after which the next member of an archive begins at an aligned byte."""
    assert archive.fp
    begin = archive.fp.tell() + LOCAL_HEADER + len(name.encode()) + ZIP64_EXTRA + 4
    size = -begin % ALIGNMENT
    return struct.pack("<HH", PADDING, size) + bytes(size)


def mapped_arrays(
    path: Path, archive: zipfile.ZipFile, read: Callable[[zipfile.ZipFile, str, str], Array]
) -> dict[str, Array]:
    """Return the arrays of a marked archive: numbers mapped and read-only, others as `read` returns them.

    Args:
        read: loads a member, given its name and its form.
    """
    found: dict[str, Array] = {}
    with path.open("rb") as file:
        for info in archive.infolist():
            name, _, form = info.filename.rpartition(".")
            if form == "npy" and info.compress_type == zipfile.ZIP_STORED:
                found[name] = _mapped(file, info)
            elif form != "lengths":
                found[name] = read(archive, name, form)
    return found


def _mapped(stream: IO[bytes], info: zipfile.ZipInfo) -> Array:
    stream.seek(info.header_offset)
    header = stream.read(LOCAL_HEADER)
    stream.seek(sum(struct.unpack("<HH", header[26:30])), 1)  # its name and its extra fields
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError("it contains Python objects")
    if not np.prod(shape, dtype=np.int64):
        return np.empty(shape, dtype)
    memory = _Memory(stream.fileno(), 0, access=mmap.ACCESS_READ)
    memory.directory = Path(stream.name).parent
    return np.ndarray(shape, dtype, memory, stream.tell(), order="F" if fortran else "C")


class _Memory(mmap.mmap):
    """The bytes of a mapped file, with the directory that has room for others."""

    directory: Path


def mapped_like(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array of the same shape and another dtype to be filled: on the disk beside a mapped one, or in memory.

    Raises:
        DataError: the disk is full.
    """
    memory, size = _memory(array), array.size * dtype.itemsize
    if memory is None or not size:
        return np.empty(array.shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=memory.directory) as file:
            if hasattr(os, "posix_fallocate"):  # a page that the disk has no room for would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.truncate(size)
            filled = _Memory(file.fileno(), size)
    except OSError as exc:
        raise DataError(f"work_dir must be writable, got '{memory.directory}': {exc.strerror}") from exc
    filled.directory = memory.directory
    return np.ndarray(array.shape, dtype, filled)


def is_mapped(array: Array) -> bool:
    """Return whether an array is a part of a mapped file."""
    return _memory(array) is not None


def _mapping(array: Array) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _memory(array: Array) -> _Memory | None:
    mapping = _mapping(array)
    return mapping if isinstance(mapping, _Memory) else None


def let_go(arrays: Iterable[Array]) -> None:
    """Let the pages of mapped arrays go; they are read again where they are needed."""
    for array in arrays:
        memory = _mapping(array)
        if memory is not None:
            memory.madvise(mmap.MADV_DONTNEED)


def pieces(array: Array) -> Iterator[Array]:
    """Yield the rows of an array in pieces, and let those that were read go."""
    if not array.ndim or not len(array):
        yield array
        return
    step = max(1, PIECE_BYTES * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), step):
        yield array[start : start + step]
        let_go([array])
