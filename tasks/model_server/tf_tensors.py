"""Copies tensors into and out of TensorFlow's memory."""

import ctypes
from ctypes import c_int64
from typing import Any

import numpy as np

from tasks.model_server.status import Code, StatusError
from tasks.model_server.tensors import DT_STRING, NUMPY_DTYPES, Tensor
from tasks.model_server.tf_library import TSTRING_SIZE, library


def to_handle(tensor: Tensor) -> int:
    """Copy a tensor into TensorFlow's own memory, which the graph may keep."""
    api = library()
    values: Any = tensor.values
    is_string = tensor.dtype == DT_STRING
    size = tensor.size * TSTRING_SIZE if is_string else values.nbytes
    rank = len(tensor.shape)
    handle: int = api.TF_AllocateTensor(tensor.dtype, (c_int64 * rank)(*tensor.shape), rank, size)
    data = api.TF_TensorData(handle)
    if not is_string:
        ctypes.memmove(data, values.tobytes(), size)
        return handle
    for index, value in enumerate(values):
        api.TF_StringInit(data + index * TSTRING_SIZE)
        api.TF_StringCopy(data + index * TSTRING_SIZE, value, len(value))
    return handle


def delete_input(handle: int, tensor: Tensor) -> None:
    """Delete a tensor that `to_handle` made of `tensor`."""
    api = library()
    if tensor.dtype == DT_STRING:  # TensorFlow frees the array, but not what long strings point to
        data = api.TF_TensorData(handle)
        for index in range(tensor.size):
            api.TF_StringDealloc(data + index * TSTRING_SIZE)
    api.TF_DeleteTensor(handle)


def from_handle(handle: int) -> Tensor:
    """Copy a tensor out of TensorFlow's memory.

    Raises:
        StatusError: a DataType without a dense layout (resource, variant).
    """
    api = library()
    dtype = api.TF_TensorType(handle)
    shape = tuple([api.TF_Dim(handle, axis) for axis in range(api.TF_NumDims(handle))])
    data = api.TF_TensorData(handle)
    if dtype == DT_STRING:
        count = int(np.prod(shape, dtype=np.int64))
        strings = [data + index * TSTRING_SIZE for index in range(count)]
        return Tensor(
            dtype, shape,
            [ctypes.string_at(api.TF_StringGetDataPointer(at), api.TF_StringGetSize(at)) for at in strings],
        )  # fmt: skip
    if dtype not in NUMPY_DTYPES:
        raise StatusError(Code.UNIMPLEMENTED, f"A tensor of DataType {dtype} cannot leave the server")
    raw = ctypes.string_at(data, api.TF_TensorByteSize(handle)) if data else b""
    return Tensor(dtype, shape, np.frombuffer(raw, dtype=NUMPY_DTYPES[dtype]))
