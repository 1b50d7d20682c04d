"""The quick way from a request body to tensors: orjson, and NumPy for numbers in regular lists.

It never guesses. If orjson or NumPy could read a body differently from TensorFlow Serving, the result is None, and
the exact rules decide (`exact_json`, `json_tensors`). Both ways give equal tensors.

`NaN` and `Infinity`, which orjson refuses, are replaced by numbers that stand for them, and put back in the tensors.
"""

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from tasks.model_server import decimals
from tasks.model_server.json_tensors import TensorBuilder, is_base64_object, to_numpy
from tasks.model_server.status import StatusError
from tasks.model_server.tensors import DT_BOOL, DT_DOUBLE, DT_FLOAT, DT_STRING, NUMPY_DTYPES, Tensor

_Doubles = np.ndarray[Any, np.dtype[np.float64]]

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LONG: Final = b"0" * 17
_SHORT_BODY: Final = 8192
"""Up to this size, in bytes, searching the text for long decimals costs less than NumPy's checks."""
_LARGE: Final = 1e300
"""From this number on, RapidJSON refuses numbers that a double can still hold."""
_MANY_DIGITS: Final = b"0" * 300
_DIGITS_TO_0: Final = bytes.maketrans(b"123456789", b"0" * 9)
_DECIMALS_TO_0: Final = bytes.maketrans(b".123456789E", b"0" * 10 + b"e")
_DIMENSIONS: Final = 64
_INTEGER_RANGES: Final = {
    3: (-(2**31), 2**31 - 1), 4: (-(2**31), 2**31 - 1), 5: (-(2**31), 2**31 - 1), 6: (-(2**31), 2**31 - 1),
    9: (-(2**63), 2**63 - 1), 22: (0, 2**32 - 1), 23: (0, 2**64 - 1),
}  # fmt: skip
"""The range of a JSON integer for each integer DataType, before 8- and 16-bit ones are truncated."""
_NAN: Final = 8.642e-77
_INFINITY: Final = 8.642e-78
"""Numbers that replace these until a tensor is made; a body that contains one is left to the exact rules."""


@dataclass
class _Specials:
    """How many NaN and infinities of a body have not been put back into a tensor yet."""

    nans: int = 0
    infinities: int = 0

    def __bool__(self) -> bool:
        return bool(self.nans or self.infinities)

    def put_back(self, doubles: _Doubles) -> _Doubles:
        """Return the numbers with every NaN and infinity in its place, its sign kept."""
        sizes = np.abs(doubles)
        nans, infinities = sizes == _NAN, sizes == _INFINITY
        self.nans -= int(np.count_nonzero(nans))
        self.infinities -= int(np.count_nonzero(infinities))
        doubles = np.where(nans, np.copysign(np.nan, doubles), doubles)
        return np.where(infinities, np.copysign(np.inf, doubles), doubles)


class Document(NamedTuple):
    """A document that orjson certainly reads as RapidJSON does, but for the last places of its doubles.

    Attributes:
        content: what was read; a NaN or infinity is a number that stands for it.
        body: its text.
        text: the same with the numbers that stand for NaN and infinities.
        specials: how many of those there are.
    """

    content: Any
    body: bytes
    text: bytes
    specials: _Specials


def read(body: bytes) -> Document | None:
    """Read a body, or return None where the exact reader must."""
    text, specials = _with_stand_ins(body)
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(content, dict) or _repeats_keys(content, body) or (specials and _has_special_text(body)):
        return None
    return Document(content, body, text, specials)


def _with_stand_ins(body: bytes) -> tuple[bytes, _Specials]:
    """Replace NaN and infinities. The spaces keep each a token of its own: `5NaN` stays as wrong as it was."""
    text, specials = body, _Specials()
    if b"N" in text:  # a single letter is found at once, a word takes a third of the time of reading the body
        text, specials.nans = _replaced(text, b"NaN", b" %r " % _NAN)
    if b"I" in text:
        text, negative = _replaced(text, b"-Infinity", b" %r " % -_INFINITY)
        text, positive = _replaced(text, b"Infinity", b" %r " % _INFINITY)
        specials.infinities = negative + positive
    return text, specials


def _replaced(text: bytes, token: bytes, stand_in: bytes) -> tuple[bytes, int]:
    """Return the text with every token replaced, and how many these were."""
    parts = text.split(token)
    return stand_in.join(parts), len(parts) - 1


def _has_special_text(body: bytes) -> bool:
    """Return whether a string in a JSON document contains a token that would be replaced."""
    strings = _STRING.findall(body) if b"\\" in body else body.split(b'"')[1::2]
    return any(b"NaN" in string or b"Infinity" in string for string in strings)


def _repeats_keys(document: dict[str, Any], body: bytes) -> bool:
    """Return whether a key may be repeated: orjson keeps the last value, RapidJSON finds the first.

    Every member of an object has one colon, so the text has more colons than the document has members if a key is
    repeated (or if a string holds a colon).
    """
    colons = body.count(b":")
    rows, columns = document.get("instances"), document.get("inputs")
    known = len(document) + (len(columns) if isinstance(columns, dict) else 0)
    if colons != known and isinstance(rows, list):
        known += sum(len(row) for row in rows if isinstance(row, dict))
    return colons != known and _STRING.sub(b"", body).count(b":") != _count_members(document)


def _count_members(document: Any) -> int:
    count, left = 0, [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            count += len(value)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return count


def tensors(document: Document, inputs: Mapping[str, int], is_row_format: bool) -> dict[str, Tensor] | None:
    """Return the tensors of a predict request, or None where the exact rules must decide.

    Args:
        document: a JSON object with `instances` or `inputs`.
        inputs: the DataType of each input of the signature.
        is_row_format: whether it has `instances`.
    """
    body, specials = document.body, document.specials
    # array() takes true for 1. Single letters are found ten times faster than words, and a body of numbers has none
    # of these between its brackets.
    lists = body[body.find(b"[") : body.rfind(b"]")]
    has_bool = (b"u" in lists or b"l" in lists) and (b"true" in lists or b"false" in lists)
    if (b"e" in lists or b"E" in lists) and _may_be_too_big(lists):
        return None
    short = (len(body) <= _SHORT_BODY or DT_DOUBLE in inputs.values()) and not _has_long_decimals(body)
    try:
        columns = _columns(document.content["instances" if is_row_format else "inputs"], inputs, is_row_format)
        found = {}
        for name, dtype in inputs.items():
            if dtype == DT_STRING:
                found[name] = _string_tensor(columns[name], name, is_row_format)
                continue
            tensor = _number_tensor(columns[name], dtype, None if short else document.text, specials)
            if tensor is None or (has_bool and dtype != DT_BOOL):
                return None
            found[name] = tensor
    except (StatusError, LookupError, ValueError, TypeError, OverflowError):
        return None  # the exact rules give the right message
    return None if specials else found


def _has_long_decimals(body: bytes) -> bool:
    """Return whether there may be a decimal that RapidJSON does not round to the nearest double."""
    text = body.translate(_DECIMALS_TO_0)
    return _LONG in text or b"0e" in text


def _may_be_too_big(text: bytes) -> bool:
    """Return whether RapidJSON may call a number too big that is none.

    It refuses exponents of three digits even of 0, and many digits whatever exponent follows.
    """
    codes = np.frombuffer(text + b"    ", np.uint8)
    first = np.flatnonzero((codes | 0x20) == ord("e")) + 1
    first += codes[first] == ord("+")
    digits = (codes[first] - ord("0") < 10) & (codes[first + 1] - ord("0") < 10) & (codes[first + 2] - ord("0") < 10)
    return bool(digits.any()) or _MANY_DIGITS in text.translate(_DIGITS_TO_0)


def _columns(content: Any, inputs: Mapping[str, int], is_row_format: bool) -> dict[str, Any]:
    """Return the value that was sent for each input, by name.

    Raises:
        LookupError: a name is missing or unknown.
    """
    first = content[0] if is_row_format else content
    if not isinstance(first, dict) or is_base64_object(first):
        (name,) = inputs
        return {name: content}
    if not is_row_format:
        return dict(content)
    if any(len(row) != len(inputs) for row in content):
        raise LookupError
    return {name: [row[name] for row in content] for name in inputs}


def _string_tensor(column: Any, name: str, is_row_format: bool) -> Tensor:
    builder = TensorBuilder(name, DT_STRING)
    if not is_row_format:
        return builder.whole(column)
    for value in column:
        builder.add_row(value)
    return builder.batch(len(column))


def _number_tensor(column: Any, dtype: int, text: bytes | None, specials: _Specials) -> Tensor | None:
    """Return the tensor of nested lists of numbers, or None where NumPy cannot be trusted with them.

    Args:
        column: what was sent.
        dtype: DataType number.
        text: the whole body; None if every decimal in it is so short that all readers agree on it.
        specials: the NaN and infinities that are still to be put back.

    Raises:
        TypeError, OverflowError, ValueError: the lists are ragged, or contain other values.
    """
    flat, shape = _flattened(column)
    if dtype in (DT_FLOAT, DT_DOUBLE):
        values = _floats(flat, dtype, text, specials)
    elif dtype == DT_BOOL:
        values = np.array(flat, np.bool_) if set(map(type, flat)) <= {bool} else None
    else:
        values = _integers(flat, dtype)
    return None if values is None else Tensor(dtype, shape, values)


def _flattened(column: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Return the elements of nested lists, and their shape.

    An element that is not a number may be returned in parts (a text as its letters), which are not numbers either.

    Raises:
        ValueError: ragged, or deeper than NumPy's arrays go.
        TypeError: ragged.
    """
    if type(column) is not list:
        return [column], ()
    level, shape = column, [len(column)]
    while level and type(level[0]) is list:
        width = len(level[0])
        if set(map(len, level)) != {width} or len(shape) >= _DIMENSIONS:
            raise ValueError
        shape.append(width)
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def _floats(flat: list[Any], dtype: int, text: bytes | None, specials: _Specials) -> np.ndarray[Any, Any] | None:
    read: _Doubles = np.frombuffer(array("d", flat))
    doubles = read if text is None else _as_rapidjson_reads(read, flat, dtype, text)
    if doubles is None:
        return None
    if specials:
        doubles = specials.put_back(doubles)
    if text is None:  # nothing too large or too small can be among them
        return doubles.astype(NUMPY_DTYPES[dtype], copy=False)
    return to_numpy(doubles, dtype)


def _as_rapidjson_reads(doubles: _Doubles, flat: list[Any], dtype: int, text: bytes) -> _Doubles | None:
    """Return the doubles of long decimals, for a float32 what rounds alike; None where they cannot be told."""
    if dtype == DT_FLOAT:
        return doubles if _rounds_alike(doubles) else None
    if set(map(type, flat)) <= {int}:
        return doubles
    found = decimals.read(text[text.find(b"[") + 1 : text.rfind(b"]")])
    if found is None or len(found) != len(doubles):
        return None
    return np.where(np.isin(np.abs(doubles), (_NAN, _INFINITY)), doubles, found)


def _integers(flat: list[Any], dtype: int) -> np.ndarray[Any, Any] | None:
    low, high = _INTEGER_RANGES[dtype]
    integers = np.array(array("Q" if high >= 2**63 else "q", flat))
    if integers.size and (int(integers.min()) < low or int(integers.max()) > high):
        return None
    return to_numpy(integers, dtype)


def _rounds_alike(doubles: _Doubles) -> bool:
    """Return whether RapidJSON's doubles, a few units off at most, round to the same float32."""
    if np.abs(doubles).max(initial=0) > _LARGE:
        return False
    few_units = doubles * 2.0**-50
    with np.errstate(over="ignore", under="ignore"):
        unsure = (doubles - few_units).astype(np.float32) != (doubles + few_units).astype(np.float32)
    if not np.count_nonzero(unsure):
        return True
    # An integer that a double holds comes out exact, even half-way between two float32.
    return bool(np.all(~unsure | ((doubles == np.rint(doubles)) & (np.abs(doubles) < 2**53))))
