"""Fingerprints of rows: keyed hashes of the values of a row, independent of order, dtype and container.

Equal values give equal fingerprints: 3 equals 3.0 of any width, -0.0 equals 0.0, and text equals its UTF-8 bytes, as
`str`, `bytes`, object or NumPy text of any width. Columns are used in the order of their names.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tasks.datasets.mapped import let_go
from tasks.datasets.rows import Array
from tasks.errors import DataError

CHUNK = 2**19  # numbers in memory at once as float64
TEXT_CHUNK = 256  # rows in memory at once as Python strings
LET_GO = 64 * TEXT_CHUNK  # rows of mapped text that are read before they are let go


def fingerprints(columns: Mapping[str, Array], key: str) -> Array:
    """Return a 64-bit fingerprint of each row, uint64 of shape (n,).

    Args:
        columns: arrays of booleans, numbers, text or bytes by name; the first axis is the row. The shape of a row has
            no influence.
        key: another key gives other fingerprints.

    Raises:
        DataError: a column of objects contains something other than text or bytes.
    """
    ordered = sorted(columns.items())
    texts = [(name, array) for name, array in ordered if array.dtype.kind in "USTO"]
    numbers = [(name, array) for name, array in ordered if array.dtype.kind not in "USTO"]
    head = repr([(kind, [(name, math.prod(array.shape[1:])) for name, array in found])
                 for kind, found in (("numbers", numbers), ("texts", texts))])  # fmt: skip
    start = hashlib.blake2b(head.encode(), key=hashlib.sha256(key.encode()).digest(), digest_size=8)
    n_rows = len(ordered[0][1]) if ordered else 0
    digests = bytearray()
    for number, text in zip(_number_rows(numbers, n_rows), _text_rows(texts, n_rows), strict=True):
        row = start.copy()
        row.update(number)
        row.update(text)
        digests += row.digest()
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _number_rows(columns: Sequence[tuple[str, Array]], n_rows: int) -> Iterator[bytes]:
    """Yield all numbers of each row as float64, followed by the remainders of integers that float64 cannot hold."""
    width = sum(math.prod(array.shape[1:]) for _, array in columns)
    if not width:
        yield from itertools.repeat(b"", n_rows)
        return
    step = max(1, CHUNK // width)
    for begin in range(0, n_rows, step):
        parts = [array[begin : begin + step] for _, array in columns]
        parts = [_plain(part).reshape(len(part), -1) for part in parts]
        floats = np.concatenate([part.astype("<f8") for part in parts], axis=1) + 0.0  # -0.0 becomes 0.0
        raw, size = floats.tobytes(), 8 * width
        rows = [raw[place : place + size] for place in range(0, len(raw), size)]
        if any(part.dtype.kind in "iu" and part.dtype.itemsize == 8 for part in parts):
            rest = np.concatenate([_rest(part) for part in parts], axis=1)
            for row in np.flatnonzero(rest.any(axis=1)):
                rows[row] += rest[row].tobytes()
        let_go(array for _, array in columns)
        yield from rows


def _plain(part: Array) -> Array:
    """Return numbers that NumPy does not support, such as bfloat16, as the bits that a file contains."""
    return np.ascontiguousarray(part).view(f"u{part.dtype.itemsize}") if part.dtype.kind == "V" else part


def _rest(part: Array) -> Array:
    """Return the differences between integers and their float64, at most 1024, as int16 of the same shape."""
    if part.dtype.kind not in "iu" or part.dtype.itemsize < 8:
        return np.zeros(part.shape, "<i2")
    floats = part.astype(np.float64)
    high = np.floor(floats / 2.0**32)
    low = floats - high * 2.0**32  # exact, and both halves fit int64
    above = (part >> 32).astype(np.int64) - high.astype(np.int64)
    return (above * 2**32 + (part & 0xFFFFFFFF).astype(np.int64) - low.astype(np.int64)).astype("<i2")


def _text_rows(columns: Sequence[tuple[str, Array]], n_rows: int) -> Iterator[bytes]:
    """Yield all texts of each row, each after its length in bytes."""
    if not columns:
        yield from itertools.repeat(b"", n_rows)
        return
    for begin in range(0, n_rows, TEXT_CHUNK):
        chunks = [array[begin : begin + TEXT_CHUNK] for _, array in columns]
        for parts in zip(*(chunk.reshape(len(chunk), -1).tolist() for chunk in chunks), strict=True):
            encoded = (_encoded(item) for part in parts for item in part)
            yield b"".join(len(item).to_bytes(8, "little") + item for item in encoded)
        if begin % LET_GO == 0:
            let_go(array for _, array in columns)


def _encoded(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    if isinstance(item, bytes):
        return item
    raise DataError(f"a column of objects must contain text or bytes, got {type(item).__name__}")
