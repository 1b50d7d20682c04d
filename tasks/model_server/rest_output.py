"""Converts tensors to response bodies as TensorFlow Serving's REST interface writes them.

float32 and float64 are printed with the fewest digits that read back to the same number; NaN and the
infinities as bare tokens; strings as JSON strings of their bytes, unless the output is named `*_bytes`.

Source: TensorFlow Serving, tensorflow_serving/util/json_tensor.cc.
"""

import base64
import json
from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import orjson

from tasks.model_server.json_tensors import flush_subnormal
from tasks.model_server.status import invalid_argument
from tasks.model_server.tensors import DT_DOUBLE, DT_FLOAT, DT_STRING, Tensor, dtype_name

_WRITABLE: Final = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 10, 22, 23))
_ORJSON_DIMENSIONS: Final = 32
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
_FEW_ELEMENTS: Final = 256
"""Up to this number of elements, checking the text that orjson wrote is faster than checking with NumPy first."""


def encode_error(message: str) -> bytes:
    """Return `{"error": message}`; surrogate escapes in the message become the bytes they stand for."""
    return b'{\n    "error": ' + _string_token(message.encode("utf-8", "surrogateescape")) + b"\n}"


def encode_predict(outputs: Mapping[str, Tensor], is_row_format: bool) -> bytes:
    """Return the body that answers a predict request.

    Args:
        outputs: the tensors by name.
        is_row_format: True for one element for each row (`predictions`), False for whole tensors (`outputs`).

    Raises:
        StatusError: row format without a common batch dimension, or a DataType that JSON cannot carry.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if is_row_format:
        _check_batch(outputs)
    if sum([len(tensor.values) for tensor in outputs.values()]) <= _FEW_ELEMENTS:
        text = _encode(outputs, is_row_format, checked=False)
        # orjson writes null for what is not finite, and subnormal numbers with an exponent.
        if b"null" not in text and b"e-" not in text:
            return text
    return _encode(outputs, is_row_format, checked=True)


def _encode(outputs: Mapping[str, Tensor], is_row_format: bool, checked: bool) -> bytes:
    answer: Any
    if not is_row_format or len(outputs) == 1:
        wholes = {name: _whole(name, tensor, checked) for name, tensor in outputs.items()}
        answer = next(iter(wholes.values())) if len(wholes) == 1 else wholes
    else:
        columns = {name: _rows(name, tensor, checked) for name, tensor in outputs.items()}
        answer = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return orjson.dumps({"predictions" if is_row_format else "outputs": answer}, option=_OPTIONS)


def _check_batch(outputs: Mapping[str, Tensor]) -> None:
    batch = -1
    for name, tensor in outputs.items():
        if not tensor.shape:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, tensor.shape[0]):
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {tensor.shape[0]} expecting: {batch}"
            )
        batch = tensor.shape[0]


def _rows(name: str, tensor: Tensor, checked: bool) -> Any:
    """Return the value that orjson writes for each row, as a sequence or an array."""
    array = _plain_array(tensor)
    if array is None:
        return [orjson.Fragment(text) for text in _nest(_tokens(name, tensor), tensor.shape, keep=1)]
    if not checked or not array.size or tensor.dtype not in (DT_FLOAT, DT_DOUBLE):
        return array
    array = flush_subnormal(array, tensor.dtype)
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if finite.all():
        return array
    return [row if fine else orjson.Fragment(_text(row)) for row, fine in zip(array, finite, strict=True)]


def _whole(name: str, tensor: Tensor, checked: bool) -> Any:
    """Return the value that orjson writes for a whole tensor."""
    array = _plain_array(tensor)
    if array is None:
        return orjson.Fragment(_nest(_tokens(name, tensor), tensor.shape, keep=0)[0])
    if checked and tensor.dtype in (DT_FLOAT, DT_DOUBLE):
        array = flush_subnormal(array, tensor.dtype)
        if not np.isfinite(array).all():
            return orjson.Fragment(_text(array))
    return array if array.ndim else array[()]


def _plain_array(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """Return the array if orjson writes its finite numbers as TensorFlow Serving does."""
    if tensor.dtype not in _WRITABLE or isinstance(tensor.values, list) or len(tensor.shape) > _ORJSON_DIMENSIONS:
        return None
    return tensor.values.reshape(tensor.shape)


def _text(numbers: Any) -> bytes:
    """Return the JSON text of numbers of any shape; orjson writes null for a number that is not finite."""
    parts = orjson.dumps(numbers, option=_OPTIONS).split(b"null")
    special = np.extract(~np.isfinite(numbers), numbers)
    tokens = np.where(np.isnan(special), b"NaN", np.where(special > 0, b"Infinity", b"-Infinity")).tolist()
    return b"".join(chain.from_iterable(zip(parts, [*tokens, b""], strict=True)))


def _tokens(name: str, tensor: Tensor) -> list[bytes]:
    """Return the JSON text of each element.

    Raises:
        StatusError: the DataType has no JSON form (TensorFlow Serving refuses half, bfloat16, ... too).
    """
    if not tensor.size:
        return []
    if tensor.dtype not in _WRITABLE:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(tensor.dtype)}")
    if tensor.dtype == DT_STRING:
        if name.endswith("_bytes"):
            return [b'{"b64":"' + base64.b64encode(value) + b'"}' for value in tensor.values]
        return [_string_token(value) for value in tensor.values]
    values = np.asarray(tensor.values)
    if tensor.dtype in (DT_FLOAT, DT_DOUBLE):
        values = flush_subnormal(values, tensor.dtype)
    return _text(values)[1:-1].split(b",")


def _string_token(value: bytes) -> bytes:
    text = json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape")


def _nest(tokens: list[bytes], shape: tuple[int, ...], keep: int) -> list[bytes]:
    """Wrap elements into brackets, dimension by dimension, until `keep` dimensions are left."""
    for axis in range(len(shape) - 1, keep - 1, -1):
        width = shape[axis]
        tokens = [
            b"[" + b",".join(tokens[start * width : (start + 1) * width]) + b"]" for start in range(prod(shape[:axis]))
        ]
    return tokens
