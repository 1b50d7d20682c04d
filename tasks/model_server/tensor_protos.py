"""Converts tensors from and to TensorProto messages, as TensorFlow's Tensor::FromProto and AsProtoField do.

Source: tensorflow/core/framework/tensor.proto, tensor.cc.
"""

import os
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tasks.model_server.json_tensors import MAX_DIMENSIONS
from tasks.model_server.status import invalid_argument
from tasks.model_server.tensors import DT_STRING, NUMPY_DTYPES, Tensor
from tasks.model_server.tf_protos import proto

_FIELDS: Final = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val", 7: "string_val",
    8: "scomplex_val", 9: "int64_val", 10: "bool_val", 11: "int_val", 12: "int_val", 13: "int_val",
    14: "half_val", 15: "int_val", 16: "int_val", 17: "int_val", 18: "dcomplex_val", 19: "half_val",
    22: "uint32_val", 23: "uint64_val",
}  # fmt: skip
"""The repeated field that holds the values of each DataType; half precision goes as bits."""
_MOST_ELEMENTS: Final = min(2**40, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
"""The most elements: a few bytes could request a terabyte of copies of one value, more than the machine's memory."""
_COMPLEX_PARTS: Final[dict[int, np.dtype[Any]]] = {8: np.dtype("f4"), 18: np.dtype("f8")}


def from_proto(name: str, message: Any) -> Tensor:
    """Return the tensor of a TensorProto.

    Args:
        name: the input's name, for the error.
        message: a TensorProto.

    Raises:
        StatusError: the message is not a valid tensor.
    """
    dtype = message.dtype
    shape = tuple(dim.size for dim in message.tensor_shape.dim)  # whatever unknown_rank says (tensor_shape.cc, IsValid)
    well_formed = (
        dtype in _FIELDS
        and len(shape) <= MAX_DIMENSIONS
        and all(size >= 0 for size in shape)
        and prod(shape) <= _MOST_ELEMENTS
    )
    try:
        values = _values(message, dtype, prod(shape)) if well_formed else None
    except MemoryError:
        values = None
    if values is None:
        raise invalid_argument(f"tensor parsing error: {name}")
    return Tensor(dtype, shape, values)


def _values(message: Any, dtype: int, count: int) -> npt.NDArray[Any] | list[bytes] | None:
    """Return the elements, or None if they cannot be determined."""
    sent = getattr(message, _FIELDS[dtype])
    if dtype == DT_STRING:
        if message.tensor_content:
            return _packed_strings(message.tensor_content, count)
        strings = list(sent)[:count]
        return strings + (strings[-1:] or [b""]) * (count - len(strings))
    target = NUMPY_DTYPES[dtype]
    if message.tensor_content:
        if len(message.tensor_content) != count * target.itemsize:
            return None
        return np.frombuffer(message.tensor_content, target)
    if dtype in _COMPLEX_PARTS:
        array = np.array(sent, _COMPLEX_PARTS[dtype])[: len(sent) // 2 * 2].view(target)
    elif _FIELDS[dtype] == "half_val":
        array = np.array(sent, np.int64).astype(np.uint16).view(target)
    else:
        array = np.array(sent).astype(target) if sent else np.zeros(0, target)
    # Fewer values than elements: the last one is repeated; more: the first ones count.
    rest = np.broadcast_to(array[-1:] if array.size else np.zeros(1, target), max(count - array.size, 0))
    return np.concatenate([array[:count], rest])


def _packed_strings(content: bytes, count: int) -> list[bytes] | None:
    """Return strings that are packed as the length of each as a varint, then all their bytes."""
    at, lengths = 0, []
    for _ in range(count):
        length = shift = 0
        while True:
            if at >= len(content) or shift > 63:
                return None
            byte = content[at]
            length |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        return None
    ends = list(accumulate(lengths, initial=at))
    return [content[start:end] for start, end in pairwise(ends)]


def to_proto(tensor: Tensor) -> Any:
    """Return a TensorProto with the values in their typed field."""
    message = proto("tensorflow.core.framework.tensor_pb2").TensorProto(dtype=tensor.dtype)
    for size in tensor.shape:
        message.tensor_shape.dim.add().size = size
    values = tensor.values
    if tensor.dtype not in _FIELDS:
        message.tensor_content = np.asarray(values).tobytes()
        return message
    field = getattr(message, _FIELDS[tensor.dtype])
    if isinstance(values, list):
        field.extend(values)
    elif tensor.dtype in _COMPLEX_PARTS:
        field.extend(values.view(_COMPLEX_PARTS[tensor.dtype]).tolist())
    elif _FIELDS[tensor.dtype] == "half_val":
        field.extend(values.view(np.uint16).tolist())
    else:
        field.extend(values.tolist())
    return message
