"""Request bodies become the tensors that TensorFlow Serving makes of them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.model_server import exact_json, rest_json
from tasks.model_server.rest_json import PredictBody, decode_predict
from tasks.model_server.status import Code, StatusError, invalid_argument
from tasks.model_server.tensors import NUMPY_DTYPES, Tensor

FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, INT64, BOOL, UINT16, UINT32, UINT64 = (
    1, 2, 3, 4, 5, 6, 7, 9, 10, 17, 22, 23,
)  # fmt: skip


def decode(body: Any, **inputs: int) -> PredictBody:
    """Decode a body (an object, or JSON text) for a signature with the given inputs."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_predict(text, lambda _name: inputs)


def refusal(body: Any, **inputs: int) -> str:
    with pytest.raises(StatusError) as raised:
        decode(body, **inputs)
    assert raised.value.code is Code.INVALID_ARGUMENT
    return raised.value.message


def same(left: Tensor, right: Tensor) -> bool:
    if isinstance(left.values, list) or isinstance(right.values, list):
        return left == right
    return (
        (left.dtype, left.shape) == (right.dtype, right.shape)
        and left.values.dtype == right.values.dtype
        and left.values.tobytes() == right.values.tobytes()
    )


def _exactly(body: bytes, inputs: Mapping[str, int]) -> dict[str, Tensor]:
    """Decode by the exact rules only, never through NumPy."""
    document = exact_json.parse(body)
    if "instances" in document:
        return rest_json._tensors_of_rows(document["instances"], inputs)
    return rest_json._tensors_of_columns(document["inputs"], inputs)


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, int]]:
    """Draw a body of numbers, regular or not, in either format, named or bare."""
    dtype = draw(st.sampled_from([FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, INT64, BOOL, UINT32, UINT64]))
    number = st.one_of(
        st.floats(width=32),
        st.floats(),
        st.integers(-300, 300),
        st.integers(-(2**64), 2**65),
        st.booleans(),
        st.sampled_from([16777217, 16777217.0, 33554434.5, 1e-40, -0.0, 3.4028235677973366e38, None, "1"]),
    )
    regular = hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=3), elements=st.floats(width=64))
    value = draw(
        st.one_of(st.lists(number, min_size=1), st.lists(st.lists(number), min_size=1), regular.map(np.ndarray.tolist))
    )
    if draw(st.booleans()):
        value = [int(item) if isinstance(item, float) and abs(item) < 1e15 else item for item in value]
    name = draw(st.sampled_from(["x", "value_u"]))
    shape = draw(st.sampled_from(["rows", "named rows", "columns", "named columns"]))
    body = {
        "rows": {"instances": value},
        "named rows": {"instances": [{name: row} for row in value]},
        "columns": {"inputs": value},
        "named columns": {"inputs": {name: value}},
    }[shape]
    padding = draw(st.sampled_from([b"", b" " * 3000]))  # large bodies are checked in another way
    return json.dumps(body).encode() + padding, {name: dtype}


@given(_bodies())
def test_the_quick_way_and_the_exact_rules_agree(case: tuple[bytes, dict[str, int]]) -> None:
    """A body gives the same tensors, or the same error, with and without the way through NumPy."""
    body, inputs = case
    try:
        expected: Any = _exactly(body, inputs)
    except StatusError as error:
        expected = (error.code, error.message)
    try:
        found: Any = decode_predict(body, lambda _name: inputs).inputs
    except StatusError as error:
        found = (error.code, error.message)
    if isinstance(expected, tuple):
        assert found == expected
    else:
        assert found.keys() == expected.keys()
        assert all(same(found[name], expected[name]) for name in expected)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(width=32)))
def test_float32_arrives_bit_for_bit(rows: np.ndarray[Any, Any]) -> None:
    """Any float32 that is not subnormal arrives with its own bits, however many rows there are."""
    rows[np.abs(rows) < np.finfo(np.float32).tiny] = 0.0
    tensor = decode({"instances": rows.tolist()}, x=FLOAT).inputs["x"]
    assert tensor.shape == rows.shape
    assert np.asarray(tensor.values).tobytes() == np.where(np.isnan(rows), np.float32("nan"), rows).tobytes()


def test_equal_keys() -> None:
    """The first of two equal keys counts, in the document and among the named inputs."""
    assert decode(b'{"inputs":[1.0],"inputs":[2.0]}', x=FLOAT).inputs["x"].values.tolist() == [1.0]
    assert decode(b'{"inputs":{"x":[1.0],"x":[2.0]}}', x=FLOAT).inputs["x"].values.tolist() == [1.0]
    assert decode(b'{"inputs":["a:b"],"inputs":["c"]}', x=STRING).inputs["x"].values == [b"a:b"]


def test_equal_keys_in_a_row_shift_what_follows() -> None:
    """A repeated key in a row adds a second value, and the surplus falls off the end, as over there."""
    body = b'{"instances":[{"x":1.0,"x":2.0},{"x":3.0}]}'
    tensor = decode(body, x=FLOAT).inputs["x"]
    assert (tensor.shape, np.asarray(tensor.values).tolist()) == ((2,), [1.0, 2.0])


@pytest.mark.parametrize(
    ("dtype", "sent", "kept"),
    [
        (INT8, 128, -128),
        (INT8, -129, 127),
        (UINT8, 256, 0),
        (UINT8, -1, 255),
        (INT16, 32768, -32768),
        (INT32, 2**31 - 1, 2**31 - 1),
        (UINT32, 2**32 - 1, 2**32 - 1),
        (INT64, -(2**63), -(2**63)),
        (UINT64, 2**64 - 1, 2**64 - 1),
        (FLOAT, 16777217, 16777216.0),
        (FLOAT, 1e39, np.inf),
        (FLOAT, -1e-40, -0.0),
        (DOUBLE, 0.1, 0.1),
    ],
)
def test_ranges(dtype: int, sent: Any, kept: Any) -> None:
    """Small integers wrap around, large ones and floats keep or round their value."""
    for body in ({"instances": [sent]}, {"inputs": [sent]}):
        (value,) = np.asarray(decode(body, x=dtype).inputs["x"].values).tolist()
        assert value == kept
        assert np.signbit(value) == np.signbit(kept)


@pytest.mark.parametrize(
    ("dtype", "sent", "kind"),
    [
        (INT32, 2**31, "Number"),
        (INT8, 2**31, "Number"),
        (UINT32, -1, "Number"),
        (INT64, 2**63, "Number"),
        (UINT64, -1, "Number"),
        (INT32, 1.0, "Number"),
        (FLOAT, True, "True"),
        (FLOAT, False, "False"),
        (FLOAT, None, "Null"),
        (FLOAT, "1", "String"),
        (FLOAT, {"b64": ""}, "Object"),
        (BOOL, 1, "Number"),
        (STRING, 1, "Number"),
    ],
)
def test_wrong_types(dtype: int, sent: Any, kind: str) -> None:
    """A value that the DataType cannot hold is refused, also next to values that it can hold."""
    good = {STRING: "a", BOOL: True}.get(dtype, 1)
    for values in ([sent], [good, sent]):
        assert f"Type: {kind} is not of expected type" in refusal({"inputs": values}, x=dtype)


def test_types_without_json_form() -> None:
    """uint16 is refused with 501 in columns and, wrapped into the row's error, with 400 in rows."""
    with pytest.raises(StatusError) as raised:
        decode({"inputs": [1]}, x=UINT16)
    assert raised.value.code is Code.UNIMPLEMENTED
    message = refusal({"instances": [1]}, x=UINT16)
    assert "Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: uint16" in message


@pytest.mark.parametrize(
    ("text", "decoded"),
    [("", b""), ("aGk=", b"hi"), ("aGk", b"hi"), ("a G\nk =", b"hi"), ("aGk.", b"hi"), ("/+8=", b"\xff\xef")],
)
def test_base64(text: str, decoded: bytes) -> None:
    """base64 may lack its padding and hold white space."""
    assert decode({"instances": [{"b64": text}]}, x=STRING).inputs["x"].values == [decoded]


@pytest.mark.parametrize("text", ["!!!", "a", "aGk==", "=", "aG=k", "_-8=", "é"])
def test_not_base64(text: str) -> None:
    """What is not base64 is refused."""
    assert "Unable to base64 decode" in refusal({"instances": [{"b64": text}]}, x=STRING)


def test_several_inputs() -> None:
    """Rows of objects and an object of columns give the same tensors, numbers beside strings."""
    inputs = {"age": FLOAT, "city": STRING}
    rows = decode({"instances": [{"age": 3, "city": "a"}, {"city": "b", "age": 4.5}]}, **inputs).inputs
    columns = decode({"inputs": {"age": [3, 4.5], "city": ["a", "b"], "more": 1}}, **inputs).inputs
    assert all(same(rows[name], columns[name]) for name in inputs)
    assert rows["city"].values == [b"a", b"b"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [1], "instances": [1]}, "expecting only one of 'inputs' or 'instances' keys"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": 1.0}, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"inputs": [1], "signature_name": 1}, "'signature_name' key must be a string value"),
        ([], "JSON Value: [] Is not object"),
        ({"inputs": [[1], 2]}, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"inputs": [1, [2]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[1], [1, 2]]}, "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor"),
        ({"instances": [[[1, 2]], [[1], [2]]]}, "Expecting shape [1,2] but got: [2,1]"),
        ({"instances": [{"x": 1}, 2]}, "Expecting object but got list at item 1"),
        ({"instances": [{"b64": ""}, {"x": 1}]}, "element: 0 of 'instances' list"),
    ],
)
def test_refusals(body: Any, message: str) -> None:
    """Each malformed request is refused in TensorFlow Serving's words."""
    assert message in refusal(body, x=FLOAT)


def test_too_many_dimensions() -> None:
    """254 dimensions pass, one more does not."""
    assert decode(b'{"inputs":' + b"[" * 254 + b"1" + b"]" * 254 + b"}", x=FLOAT).inputs["x"].shape == (1,) * 254
    assert refusal(b'{"inputs":' + b"[" * 255 + b"1" + b"]" * 255 + b"}", x=FLOAT) == "tensor parsing error: x"
    assert refusal(b'{"inputs":' + b"[" * 9999 + b"]" * 9999 + b"}", x=FLOAT) == "tensor parsing error: x"


def test_message_about_a_deep_document() -> None:
    """A message that shows a document deeper than Python's stack is cut, not an error of its own."""
    assert "..." in refusal(b'{"instances":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", x=FLOAT)


def test_signature_errors_come_before_format_errors() -> None:
    """A signature that is not there is reported even if the rest of the document is wrong too."""

    def nothing(name: str) -> Mapping[str, int]:
        raise invalid_argument(f"no {name}")

    with pytest.raises(StatusError, match="no such"):
        decode_predict(b'{"signature_name":"such"}', nothing)
    assert refusal({"inputs": 1}) == "Failed to get input map for signature: DEFAULT"


def test_every_numeric_dtype_has_a_layout() -> None:
    """The element sizes are those of tensorflow/core/framework/types.proto."""
    sizes = {FLOAT: 4, DOUBLE: 8, INT32: 4, UINT8: 1, INT16: 2, INT8: 1, INT64: 8, BOOL: 1, UINT16: 2}
    assert {dtype: NUMPY_DTYPES[dtype].itemsize for dtype in sizes} == sizes
