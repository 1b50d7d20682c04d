"""Converts the values of a request body to tensors, element by element, by TensorFlow Serving's rules.

This is the whole rule book with its messages. Bodies that only hold numbers in regular lists do not
come here but through NumPy (`rest_json`), which gives the same tensors. In the place of these rules `numpy.asarray`
fails 52 of the 356 recorded answers and words 31 errors otherwise: null, booleans, texts and decimals become numbers.

Source: TensorFlow Serving, tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import numpy as np

from tasks.model_server.exact_json import members
from tasks.model_server.status import Code, StatusError, invalid_argument
from tasks.model_server.tensors import DT_BOOL, DT_STRING, NUMPY_DTYPES, Tensor, dtype_name

MAX_DIMENSIONS: Final = 254
"""Source: tensorflow/core/framework/tensor_shape.h, MaxDimensions."""
_LONGEST_TEXT: Final = 16 * 2**20
_SMALLEST_NORMAL: Final = {1: np.finfo(np.float32).tiny, 2: np.finfo(np.float64).tiny}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


_IS_INT32: Final = _is_integer(-(2**31), 2**31 - 1)
_ACCEPTED: Final[dict[int, Callable[[Any], bool]]] = {
    1: _is_number,
    2: _is_number,
    3: _IS_INT32,
    4: _IS_INT32,  # the 8 and 16 bit integers are read as int32 and cut down to their size later
    5: _IS_INT32,
    6: _IS_INT32,
    7: lambda value: type(value) is str,
    9: _is_integer(-(2**63), 2**63 - 1),
    10: lambda value: type(value) is bool,
    22: _is_integer(0, 2**32 - 1),
    23: _is_integer(0, 2**64 - 1),
}


class TensorBuilder:
    """Collects the values of one input, row by row or all at once."""

    def __init__(self, name: str, dtype: int) -> None:
        self._name = name
        self._dtype = dtype
        self._values: list[Any] = []
        self._row_shape: tuple[int, ...] | None = None

    def add_row(self, value: Any) -> None:
        """Add one row; all rows must have the shape of the first.

        Raises:
            StatusError: a value of a wrong type, a ragged list, or another shape than the first row.
        """
        before = len(self._values)
        shape = self._fill(value)
        size = len(self._values) - before
        if self._row_shape is None:
            self._row_shape = shape
        elif size != math.prod(self._row_shape):
            raise invalid_argument(f"Expecting tensor size: {math.prod(self._row_shape)} but got: {size}")
        elif shape != self._row_shape:
            raise invalid_argument(f"Expecting shape {_brackets(self._row_shape)} but got: {_brackets(shape)}")

    def batch(self, rows: int) -> Tensor:
        """Return the tensor of `rows` rows, with the batch as its first dimension."""
        return self._tensor((rows, *(self._row_shape or ())))

    def whole(self, value: Any) -> Tensor:
        """Return the tensor that is written as one value, its batch dimension included.

        Raises:
            StatusError: a value of a wrong type or a ragged list.
        """
        return self._tensor(self._fill(value))

    def _fill(self, value: Any) -> tuple[int, ...]:
        shape: list[int] = []
        first = value
        while isinstance(first, list):
            shape.append(len(first))
            if not first:
                break
            first = first[0]
        if len(shape) > MAX_DIMENSIONS:  # before descending: Python's own stack is not that deep
            raise invalid_argument(f"tensor parsing error: {self._name}")
        self._fill_level(value, 0, tuple(shape))
        return tuple(shape)

    def _fill_level(self, value: Any, level: int, shape: tuple[int, ...]) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid_argument(
                    f"JSON Value: {text_of(value)} found at incorrect level: {level + 1}"
                    f" in the JSON DOM. Expected at level: {len(shape)}"
                )
            self._values.append(self._element(value))
            return
        if level >= len(shape):
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for item in value:
            self._fill_level(item, level + 1, shape)

    def _element(self, value: Any) -> Any:
        if isinstance(value, dict) and self._dtype == DT_STRING:
            return decode_base64_object(value)
        accepted = _ACCEPTED.get(self._dtype)
        if accepted is None and not isinstance(value, dict):
            raise StatusError(
                Code.UNIMPLEMENTED,
                f"Conversion of JSON Value: {text_of(value)} to type: {dtype_name(self._dtype)}",
            )
        if isinstance(value, dict) or accepted is None or not accepted(value):
            raise invalid_argument(
                f"JSON Value: {text_of(value)} Type: {_json_type(value)}"
                f" is not of expected type: {dtype_name(self._dtype)}"
            )
        return value.encode("utf-8", "surrogateescape") if self._dtype == DT_STRING else value

    def _tensor(self, shape: tuple[int, ...]) -> Tensor:
        if len(shape) > MAX_DIMENSIONS:
            raise invalid_argument(f"tensor parsing error: {self._name}")
        # A repeated key inside a row leaves surplus values behind; TensorFlow takes the first ones.
        values = self._values[: math.prod(shape)]
        if self._dtype == DT_STRING:
            return Tensor(self._dtype, shape, values)
        return Tensor(self._dtype, shape, to_numpy(values, self._dtype))


def to_numpy(values: Any, dtype: int) -> np.ndarray[Any, Any]:
    """Cast numbers to a DataType as TensorFlow Serving does.

    Args:
        values: a list or array of Python or NumPy numbers that `dtype` accepts.
        dtype: DataType number.

    Returns:
        A flat array. Floats too large become infinite, subnormal ones zero (the server's threads run
        with flush-to-zero), integers of 8 and 16 bits wrap around.
    """
    target = NUMPY_DTYPES[dtype]
    if dtype not in _SMALLEST_NORMAL:
        read_as = target if dtype == DT_BOOL or target.itemsize >= 4 else np.dtype(np.int64)
        return np.asarray(values, dtype=read_as).astype(target, copy=False)
    doubles = np.asarray(values, dtype=np.float64).reshape(-1)
    with np.errstate(over="ignore", under="ignore"):
        floats = doubles.astype(target, copy=False)
    return flush_subnormal(floats, dtype)


def flush_subnormal(floats: np.ndarray[Any, Any], dtype: int) -> np.ndarray[Any, Any]:
    """Replace subnormal numbers of a flat float array by zeros of their sign, in a copy if need be."""
    small = np.abs(floats) < _SMALLEST_NORMAL[dtype]
    if not np.count_nonzero(small):
        return floats
    return np.where(small, np.copysign(floats.dtype.type(0), floats), floats)


def is_base64_object(value: Any) -> bool:
    """Return whether a value is `{"b64": "..."}` with nothing else in it."""
    return isinstance(value, dict) and len(pairs := members(value)) == 1 and _is_b64(*pairs[0])


def _is_b64(name: str, value: Any) -> bool:
    return name == "b64" and isinstance(value, str)


def decode_base64_object(value: dict[str, Any]) -> bytes:
    """Return the bytes of `{"b64": "..."}`.

    Raises:
        StatusError: another object, or not base64.
    """
    if not is_base64_object(value):
        raise invalid_argument(f"JSON Value: {text_of(value)} not formatted correctly for base64 data")
    # absl::Base64Unescape skips white space and does not ask for padding.
    text = re.sub(r"[ \t\n\v\f\r]", "", value["b64"])
    digits = text.rstrip("=.")
    padding = len(text) - len(digits)
    try:
        if len(digits) % 4 == 1 or padding not in (0, -len(digits) % 4):
            raise binascii.Error
        return base64.b64decode(digits.encode("ascii", "strict") + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise invalid_argument("Unable to base64 decode") from None


def text_of(value: Any) -> str:
    """Print a JSON value as TensorFlow Serving's messages show it: objects spread out, lists in a line.

    What lies deeper than any tensor goes is left out: Python's stack does not reach as far. So is what goes on after
    `_LONGEST_TEXT` characters, because a small body of deep objects would fill the memory with indentation.
    """
    parts: list[str] = []
    size = 0
    for part in _printed(value, 0):
        parts.append(part)
        size += len(part)
        if size > _LONGEST_TEXT:
            return "".join([*parts, "..."])
    return "".join(parts)


def _printed(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict | list) and depth > MAX_DIMENSIONS:
        yield "..."
    elif isinstance(value, dict):
        yield from _printed_object(members(value), depth)
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _printed(item, depth + 1)
        yield "]"
    elif isinstance(value, str):
        yield _quoted(value)
    else:
        yield _float_text(value) if isinstance(value, float) else json.dumps(value)


def _printed_object(pairs: list[tuple[str, Any]], depth: int) -> Iterator[str]:
    indent = "    " * depth
    for number, (name, item) in enumerate(pairs):
        yield f"{',' if number else '{'}\n{indent}    {_quoted(name)}: "
        yield from _printed(item, depth + 1)
    yield f"\n{indent}}}" if pairs else "{}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _float_text(value: float) -> str:
    """Print a double as RapidJSON does: the shortest digits, in full below 1e21, nothing for NaN."""
    if not math.isfinite(value):
        return ""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else text + ".0"
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), repr(value))


def _json_type(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: Mapping[type, str] = {str: "String", list: "Array"}
    return "Object" if isinstance(value, dict) else names.get(type(value), "Number")


def _brackets(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
