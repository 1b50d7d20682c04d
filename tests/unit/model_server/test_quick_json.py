"""Ordinary bodies take the quick way, and what would be read otherwise there does not."""

import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.model_server import exact_json, rest_json
from tasks.model_server.rest_json import decode_quickly
from tasks.model_server.status import StatusError

FLOAT, DOUBLE, INT64, STRING = 1, 2, 9, 7


def _rows(rows: np.ndarray[Any, Any]) -> bytes:
    """Print rows as a client does: the shortest digits that read back."""
    return orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def _normal(scale: float = 1.0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(7).standard_normal((300, 8)) * scale).astype(np.float32)


def _with(*tokens: str) -> bytes:
    parts = _rows(_normal()).split(b",")
    for number, token in enumerate(tokens):
        parts[1 + number * 16] = token.encode()
    return b",".join(parts)


def _bits(body: bytes, dtype: int) -> tuple[bytes, bytes]:
    """Return the bits of the only input by the quick way, and by the exact rules."""
    quick = decode_quickly(body, lambda _name: {"x": dtype})
    assert quick is not None
    rows = exact_json.parse(body)["instances"]
    exact = rest_json._tensors_of_rows(rows, {"x": dtype})["x"]
    assert quick.inputs["x"].shape == exact.shape
    return np.asarray(quick.inputs["x"].values).tobytes(), np.asarray(exact.values).tobytes()


@pytest.mark.parametrize(
    "body",
    [
        _rows(_normal()),
        _rows(_normal(1e-6)),
        _rows(_normal(1e25)),
        _rows(_normal().astype(np.float64)),
        _rows(np.random.default_rng(7).standard_normal((300, 8))),
        _with("1e5", "1E+5", "-2.5e-05", "0e0", "1e22"),
        _with("NaN", " NaN ", "Infinity", "-Infinity", "\n-Infinity"),
        _with("NaN", "5e-7", "3", "0", "-0.0", "12345678901234567"),
        b'{"signature_name": "N and Infinit\\"y", "instances": [{"x": NaN}, {"x": -Infinity}]}',
    ],
    ids=["normal", "exponents", "large", "as float64", "float64", "signs", "not finite", "mixed", "named"],
)
def test_ordinary_floats_take_the_quick_way(body: bytes) -> None:
    """Exponents, NaN and infinities cost no other reader, and arrive with the same bits, as float64 too."""
    for dtype in (FLOAT, DOUBLE):
        found, expected = _bits(body, dtype)
        assert found == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [5NaN]}',
        b'{"instances": [NaN5]}',
        b'{"instances": [--NaN]}',
        b'{"instances": [NaN.5]}',
        b'{"instances": [Inf, 1.0]}',
        b'{"instances": [8.642e-77, NaN]}',
        b'{"instances": [NaN], "signature_name": ", NaN,"}',
        b'{"instances": [NaN], "more": ["a\\" Infinity"]}',
        b'{"instances": [NaN], "more": NaN}',
        b'{"instances": [NaN, true]}',
        b'{"instances": [NaN, "1"]}',
        b'{"instances": [[NaN], []]}',
        b'{"instances": [[NaN], 1]}',
        b'{"instances": [1e-5, 0e400]}',
        b'{"instances": [1e-5, 1' + b"0" * 310 + b"e-300]}",
        b'{"instances": [1.0, "1.0"]}',
        b'{"instances": ["12"]}',
        b'{"instances": [[1], "1"]}',
        b'{"instances": [[1], {"1": 2}]}',
    ],
)
def test_doubtful_bodies_do_not(body: bytes) -> None:
    """Whatever orjson would read otherwise, or NumPy would take for a number, is left to the exact rules."""
    assert decode_quickly(body, lambda _name: {"x": FLOAT}) is None


@given(st.lists(st.sampled_from([*'[]{},:"N5.e-+ 0a\\', "NaN", "Infinity", "Inf", "true", "x"]), max_size=12))
def test_any_text_reads_alike(parts: list[str]) -> None:
    """The quick way reads what it reads as the exact rules do, NaN and infinities in all places included."""
    body = b'{"instances": [' + "".join(parts).encode() + b"]}"
    quick = decode_quickly(body, lambda _name: {"x": FLOAT})
    if quick is None:
        return
    found, expected = _bits(body, FLOAT)
    assert found == expected


_DECIMALS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.one_of(st.just("0"), st.integers(1, 10**18).map(str), st.integers(2**53 - 9, 2**53 + 9).map(str)),
    st.one_of(st.just(""), st.from_regex(r"\.0{0,6}[0-9]{1,18}", fullmatch=True)),
    st.one_of(
        st.just(""), st.from_regex(r"[eE][+-]?0?[0-9]{1,2}", fullmatch=True), st.integers(-330, -90).map("e{}".format)
    ),
)


@given(st.lists(_DECIMALS | st.floats(allow_nan=False, allow_infinity=False).map(repr), min_size=1))
def test_decimals_become_the_doubles_of_rapidjson(numbers: list[str]) -> None:
    """However long a decimal is, a float64 input gets the same bits by the quick way as by the exact rules."""
    body = ('{"instances": [' + ", ".join(numbers) + "]}").encode()
    quick = decode_quickly(body, lambda _name: {"x": DOUBLE})
    if quick is not None:
        found, expected = _bits(body, DOUBLE)
        assert found == expected


@pytest.mark.parametrize(
    ("number", "is_quick"),
    [
        ("0.12345678901234567", True),
        ("9007199254740991.5", True),
        ("9007199254740992.5", True),
        ("90071992547409915.0", False),
        ("12345678901234567e-9", True),
        ("-0.0", True),
        ("-0", True),
        ("-0e1", True),
        ("0e-5", True),
        ("1e-307", True),
        ("-99999999999999999999.5", False),
        ("0.123456789012345678", False),
        ("1e-309", False),
    ],
)
def test_one_decimal(number: str, is_quick: bool) -> None:
    """At the edges of 53 bits and of 17 digits the two agree, and beyond the exact rules are asked."""
    body = f'{{"instances": [[{number}, 0.1234567890123456]]}}'.encode()
    if not is_quick:
        assert decode_quickly(body, lambda _name: {"x": DOUBLE}) is None
    else:
        found, expected = _bits(body, DOUBLE)
        assert found == expected


def test_long_texts_among_numbers_cost_no_memory() -> None:
    """One long text beside many short ones is refused without an array in which each takes as much room."""
    body = orjson.dumps({"instances": ["a" * 100_000, *["b"] * 100_000]})
    tracemalloc.start()
    try:
        with pytest.raises(StatusError, match="is not of expected type: float"):
            rest_json.decode_predict(body, lambda _name: {"x": FLOAT})
        assert tracemalloc.get_traced_memory()[1] < 50 * len(body)
    finally:
        tracemalloc.stop()
