"""The tensors of the server, between a request body and TensorFlow."""

from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

DT_FLOAT: Final = 1
DT_DOUBLE: Final = 2
DT_STRING: Final = 7
DT_INT64: Final = 9
DT_BOOL: Final = 10

DTYPE_NAMES: Final = {
    1: "float", 2: "double", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16",
    16: "quint16", 17: "uint16", 18: "complex128", 19: "half", 20: "resource", 21: "variant",
    22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip
"""Name of each DataType as TensorFlow prints it. Source: tensorflow/core/framework/types.cc."""

NUMPY_DTYPES: Final = {
    number: np.dtype(code)
    for number, code in {
        1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 8: "c8", 9: "i8", 10: "?", 11: "i1",
        12: "u1", 13: "i4", 14: "u2", 15: "i2", 16: "u2", 17: "u2", 18: "c16", 19: "f2", 22: "u4",
        23: "u8", 24: "u1", 25: "u1", 29: "i1", 30: "u1",
    }.items()
}  # fmt: skip
"""Layout of each DataType in memory; types that NumPy lacks are held as raw bits of the same size."""


def dtype_name(dtype: int) -> str:
    """Return the name of a DataType number as in TensorFlow's messages."""
    return DTYPE_NAMES.get(dtype, f"unknown dtype enum ({dtype})")


class Tensor(NamedTuple):
    """A dense tensor of any rank (NumPy stops at 64 dimensions, TensorFlow at 254).

    Attributes:
        dtype: DataType number.
        shape: size of each dimension; `()` for a scalar.
        values: the elements in row-major order: a flat array of `NUMPY_DTYPES[dtype]`, or for
            strings a list of bytes.
    """

    dtype: int
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | list[bytes]

    @property
    def size(self) -> int:
        """Return the number of elements of the shape."""
        return prod(self.shape)
