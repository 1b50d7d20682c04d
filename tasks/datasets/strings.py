"""Arrays of text and bytes of variable length, which keep trailing NUL characters.

Text is NumPy's StringDType (kind `T`), and bytes are an array of objects (kind `O`). Arrays of fixed width (`U` and
`S`), which drop trailing NULs and use the width of the longest item for each, are read but not created.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PIECE = 2**16  # bytes of text in memory at once
TEXT: Any = np.dtypes.StringDType()  # type: ignore[attr-defined,unused-ignore]


def is_text(array: Array) -> bool:
    """Return whether an array contains text."""
    return array.dtype.kind in "UT"


def is_string(array: Array) -> bool:
    """Return whether an array contains text or bytes, which are both `string` in TensorFlow."""
    return array.dtype.kind in "UTSO"


def dtype_words(array: Array) -> str:
    """Return a readable name of the dtype."""
    return "text" if is_text(array) else "bytes" if is_string(array) else str(array.dtype)


def text_array(values: Iterable[str], shape: tuple[int, ...]) -> Array:
    """Return text as an array of a shape."""
    array = np.empty(int(np.prod(shape, dtype=np.int64)), TEXT)
    for number, value in enumerate(values):
        # Python would cache the UTF-8 that NumPy reads in each text that is not ASCII
        array[number] = value if value.isascii() else str(value.encode(), "utf-8")
    return array.reshape(shape)


def bytes_array(values: Iterable[bytes], shape: tuple[int, ...]) -> Array:
    """Return bytes as an array of a shape."""
    array = np.empty(int(np.prod(shape, dtype=np.int64)), object)
    for number, value in enumerate(values):
        array[number] = value
    return array.reshape(shape)


def string_array(nested: Any) -> Array:
    """Return nested lists as an array of text, or of bytes if an item is bytes.

    Raises:
        TypeError: the lists contain other types, or are ragged.
    """
    array = np.array(nested, dtype=object)
    items = array.ravel().tolist()
    if not all(isinstance(item, str | bytes) for item in items):
        raise TypeError("strings must be text or bytes, in lists of the same length")
    if all(isinstance(item, str) for item in items):
        return text_array(items, array.shape)
    return bytes_array((item.encode() if isinstance(item, str) else item for item in items), array.shape)


def as_bytes(array: Array) -> Array:
    """Return text as UTF-8 and bytes unchanged in an array of objects; return any other array itself."""
    if is_text(array):
        return bytes_array((item.encode() for item in array.ravel().tolist()), array.shape)
    return array.astype(object) if array.dtype.kind == "S" else array


def as_objects(array: Array) -> Array:
    """Return text and bytes as an array of `str` or `bytes`, for TensorFlow; return any other array itself."""
    return array.astype(object) if is_string(array) else array


def of_any_length(array: Array) -> Array:
    """Return text and bytes of fixed width in an array of variable width; return any other array itself."""
    if array.dtype.kind == "U":
        return array.astype(TEXT)
    return array.astype(object) if array.dtype.kind == "S" else array


def longest_bytes(array: Array) -> int:
    """Return the number of bytes of the longest item."""
    return max(map(len, as_bytes(array).ravel().tolist()), default=0)


def plain(value: Any) -> Any:
    """Return a NumPy value as JSON-ready lists, numbers and text."""
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, list):
        return [plain(item) for item in listed]
    return listed.decode(errors="replace") if isinstance(listed, bytes) else listed


def packed_lengths(array: Array) -> Array:
    """Return the number of UTF-8 bytes of each item, as the smallest unsigned integers, in the array's shape."""
    lengths = np.fromiter((len(raw) for raw in _raw(array)), np.int64, array.size)
    return lengths.astype(np.min_scalar_type(int(lengths.max(initial=0)))).reshape(array.shape)


def packed_pieces(array: Array) -> Iterator[bytes]:
    """Yield all items as UTF-8 in pieces of about `PIECE` bytes, because the whole would double the memory."""
    held: list[bytes] = []
    size = 0
    for raw in _raw(array):
        if held and size + len(raw) > PIECE:
            yield b"".join(held)
            held, size = [], 0
        held.append(raw)
        size += len(raw)
    yield b"".join(held)


def _raw(array: Array) -> Iterator[bytes]:
    for item in array.flat:  # not as a list, for the same reason
        yield item.encode() if isinstance(item, str) else bytes(item)


def unpacked(buffer: Array, lengths: Array, *, text: bool) -> Array:
    """Return the array from which `packed_lengths` and `packed_pieces` were made.

    Raises:
        ValueError: the lengths do not fit the bytes, or text is not valid UTF-8.
    """
    ends = np.cumsum(lengths.ravel(), dtype=np.int64).tolist()
    if buffer.dtype != np.uint8 or lengths.dtype.kind != "u" or (ends[-1] if ends else 0) != len(buffer):
        raise ValueError("the lengths of its texts do not fit")
    view = np.ascontiguousarray(buffer).data
    items = (view[start:end] for start, end in zip([0, *ends], ends, strict=False))
    if text:
        return text_array((str(item, "utf-8") for item in items), lengths.shape)
    return bytes_array(map(bytes, items), lengths.shape)
