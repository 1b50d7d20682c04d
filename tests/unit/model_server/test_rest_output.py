"""Tensors are written as TensorFlow Serving writes them."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.model_server.rest_output import encode_error, encode_predict
from tasks.model_server.status import StatusError
from tasks.model_server.tensors import NUMPY_DTYPES, Tensor

FLOAT, DOUBLE, STRING, BOOL, HALF = 1, 2, 7, 10, 19


def _tensor(dtype: int, value: Any) -> Tensor:
    array = np.asarray(value, NUMPY_DTYPES[dtype])
    return Tensor(dtype, array.shape, array.reshape(-1))


def _written(tensor: Tensor, is_row_format: bool = True) -> Any:
    text = encode_predict({"y": tensor}, is_row_format).decode("utf-8", "surrogateescape")
    return json.loads(text)["predictions" if is_row_format else "outputs"]


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=20), elements=st.floats(width=32)), st.booleans())
def test_float32_reads_back_bit_for_bit(array: np.ndarray[Any, Any], is_row_format: bool) -> None:
    """What is written reads back to the same float32, NaN and infinities too; subnormals become zero."""
    tensor = Tensor(FLOAT, array.shape, array.reshape(-1))
    read = np.asarray(_written(tensor, is_row_format), np.float32)
    expected = np.where(np.abs(array) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), array), array)
    assert np.array_equal(read, expected, equal_nan=True)
    assert np.array_equal(np.signbit(read[~np.isnan(read)]), np.signbit(expected[~np.isnan(expected)]))


@given(hnp.arrays(np.float64, hnp.array_shapes(), elements=st.floats(allow_subnormal=False)))
def test_float64_reads_back_bit_for_bit(array: np.ndarray[Any, Any]) -> None:
    """float64 is written with as many digits as it takes."""
    read = np.asarray(_written(Tensor(DOUBLE, array.shape, array.reshape(-1))))
    assert np.array_equal(read, array, equal_nan=True)


@pytest.mark.parametrize("dtype", [3, 4, 5, 6, 9, 22, 23])
def test_integers_stay_integers(dtype: int) -> None:
    """The largest and smallest integer of a DataType come out in full, without a point."""
    limits = np.iinfo(NUMPY_DTYPES[dtype])
    assert _written(_tensor(dtype, [[limits.min, limits.max]])) == [[limits.min, limits.max]]


def test_decimals_have_a_point() -> None:
    """Whole numbers of a float tensor are written as decimals."""
    assert encode_predict({"y": _tensor(FLOAT, [1, 0.1])}, True) == b'{"predictions":[1.0,0.1]}'


def test_strings_are_their_bytes() -> None:
    """A string is written byte for byte; an output named *_bytes as base64."""
    tensor = Tensor(STRING, (2,), [b'\xff"\n\x00', "é".encode()])
    assert encode_predict({"y": tensor}, True) == b'{"predictions":["\xff\\"\\n\\u0000","\xc3\xa9"]}'
    assert encode_predict({"y_bytes": tensor}, True) == b'{"predictions":[{"b64":"/yIKAA=="},{"b64":"w6k="}]}'


def test_several_outputs() -> None:
    """Several outputs are an object a row, or one object of columns."""
    outputs = {"a": _tensor(FLOAT, [[1], [np.nan]]), "b": Tensor(STRING, (2,), [b"null", b"e-"])}
    assert encode_predict(outputs, True) == b'{"predictions":[{"a":[1.0],"b":"null"},{"a":[NaN],"b":"e-"}]}'
    assert encode_predict(outputs, False) == b'{"outputs":{"a":[[1.0],[NaN]],"b":["null","e-"]}}'


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32)), st.booleans())
def test_several_outputs_are_written_as_one_is(array: np.ndarray[Any, Any], is_row_format: bool) -> None:
    """Rows that are not finite stand beside rows that are, and each output is written as if it were alone."""
    tensor = Tensor(FLOAT, array.shape, array.reshape(-1))
    answer = encode_predict({"a": tensor, "b": tensor}, is_row_format)
    written = json.loads(answer)["predictions" if is_row_format else "outputs"]
    both = {name: [row[name] for row in written] for name in "ab"} if is_row_format else written
    assert repr(both["a"]) == repr(both["b"]) == repr(_written(tensor, is_row_format))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (2, 0, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [FLOAT, STRING, HALF])
def test_empty_dimensions(shape: tuple[int, ...], dtype: int) -> None:
    """A dimension of no elements is an empty list at its depth, whatever the DataType."""
    if dtype == HALF and shape == (1, 1, 1):
        return
    count = int(np.prod(shape))
    values: Any = [b"s"] * count if dtype == STRING else np.ones(count, NUMPY_DTYPES[dtype])
    filler: Any = "s" if dtype == STRING else 1.0
    expected = np.full(shape, filler).tolist()
    assert _written(Tensor(dtype, shape, values)) == expected
    assert _written(Tensor(dtype, shape, values), is_row_format=False) == expected


def test_many_dimensions() -> None:
    """A tensor of 200 dimensions is written, in both formats."""
    tensor = Tensor(FLOAT, (1,) * 200, np.ones(1, np.float32))
    for is_row_format in (True, False):
        value = _written(tensor, is_row_format)
        for _ in range(200):
            (value,) = value
        assert value == 1.0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": _tensor(FLOAT, 1.0)}, "Tensor name: y has no shape information"),
        (
            {"a": _tensor(FLOAT, [1.0]), "b": _tensor(FLOAT, [1.0, 2.0])},
            "Tensor name: b has inconsistent batch size: 2 expecting: 1",
        ),
        ({"y": _tensor(HALF, [1.0])}, "Failed to write JSON value for tensor type: half"),
    ],
)
def test_refusals(outputs: dict[str, Tensor], message: str) -> None:
    """Outputs without a common batch, or of a DataType without JSON form, are refused by name."""
    with pytest.raises(StatusError) as raised:
        encode_predict(outputs, is_row_format=True)
    assert raised.value.message.startswith(message)


def test_scalar_in_columns() -> None:
    """A scalar output is written bare in the column format."""
    assert _written(_tensor(FLOAT, 2.5), is_row_format=False) == 2.5
    assert _written(_tensor(BOOL, True), is_row_format=False) is True
    assert _written(Tensor(STRING, (), [b"s"]), is_row_format=False) == "s"


def test_error_body() -> None:
    """An error is an object with one member; bytes that are not UTF-8 stay as they were."""
    assert encode_error('say "no"\udcff') == b'{\n    "error": "say \\"no\\"\xff"\n}'
