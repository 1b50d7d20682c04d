"""The JSON reader that keeps RapidJSON's rules."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.model_server.exact_json import members, parse
from tasks.model_server.status import StatusError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
def test_reads_back_what_was_written(value: Any, as_ascii: bool) -> None:
    """Any JSON document without decimals is read as Python's own reader reads it."""
    assert parse(json.dumps(value, ensure_ascii=as_ascii).encode("utf-8", "surrogatepass")) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**8), max_value=10**8))
def test_short_decimals_are_exact(value: Any) -> None:
    """A decimal of up to 15 digits is the nearest double."""
    assert parse(str(value).encode()) == float(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_long_decimals_are_a_few_units_off_at_most(value: float) -> None:
    """A decimal of 17 digits is read to within three units in the last place; subnormal ones are zero."""
    read = parse(repr(value).encode())
    if abs(value) < 2.2250738585072014e-308:
        assert read == 0
    else:
        assert abs(read - value) <= 3 * math.ulp(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"NaN", math.nan),
        (b"-NaN", math.nan),
        (b"Infinity", math.inf),
        (b"-Infinity", -math.inf),
        (b"Inf", math.inf),
        (b"-0", 0),
        (b"17e308", math.inf),
        (b"1e-400", 0.0),
        (b"5e-324", 0.0),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", 2.0**64),
        (b"-9223372036854775808", -(2**63)),
        (b"-9223372036854775809", -(2.0**63)),
        (b"123456789012345678901234567890", 1.2345678901234566e29),
        (b"123456789.123456789", 123456789.12345681),
    ],
)
def test_numbers(text: bytes, value: float) -> None:
    """Numbers at the edges are read as RapidJSON reads them, recorded roundings included."""
    read = parse(text)
    assert type(read) is type(value)
    assert read == value or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize("text", [b'\xef\xbb\xbf{"a":1}', b'{"a":1} and more', b'{"a":1}{"a":2}', b'{"a":1}\0['])
def test_what_surrounds_the_document_is_skipped(text: bytes) -> None:
    """A byte-order mark before the document and anything after it are not looked at."""
    assert parse(text) == {"a": 1}


def test_first_of_two_equal_keys_is_found() -> None:
    """Of repeated keys the first is found, and all of them are still there in order."""
    value = parse(b'{"a":1,"b":2,"a":3}')
    assert dict(value) == {"a": 1, "b": 2}
    assert members(value) == [("a", 1), ("b", 2), ("a", 3)]


def test_bytes_that_are_not_utf8_survive() -> None:
    """A string keeps bytes that are not UTF-8, and a lone low surrogate becomes its three bytes."""
    assert parse(b'"\xff\xfe"').encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert parse(b'"\\udc00"').encode("utf-8", "surrogateescape") == b"\xed\xb0\x80"


def test_depth_is_no_limit() -> None:
    """Nesting far beyond Python's recursion limit is read."""
    depth = 50_000
    value = parse(b"[" * depth + b"]" * depth)
    for _ in range(depth - 1):
        (value,) = value
    assert value == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":1', "Missing a comma or '}' after an object member. at offset: 6"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[,]", "Invalid value. at offset: 1"),
        (b"tru", "Invalid value. at offset: 3"),
        (b"nan", "Invalid value. at offset: 1"),
        (b"Infini", "Invalid value."),
        (b"-", "Invalid value. at offset: 1"),
        (b"+1", "Invalid value. at offset: 0"),
        (b"1.", "Miss fraction part in number. at offset: 2"),
        (b"1e", "Miss exponent in number. at offset: 2"),
        (b"1e+", "Miss exponent in number. at offset: 3"),
        (b" 1e309", "Number too big to be stored in double. at offset: 1"),
        (b"9" * 400, "Number too big to be stored in double."),
        (b'"a', "Missing a closing quotation mark in string. at offset: 2"),
        (b'"a\n"', "Invalid escape character in string. at offset: 2"),
        (b'"\\q"', "Invalid escape character in string. at offset: 1"),
        (b'"\\u12g4"', "Incorrect hex digit after \\u escape in string. at offset: 1"),
        (b'"\\ud800"', "The surrogate pair in string is invalid. at offset: 1"),
        (b'"\\ud800\\u0041"', "The surrogate pair in string is invalid. at offset: 1"),
    ],
)
def test_errors_name_the_place(text: bytes, message: str) -> None:
    """A document that is not JSON is refused with RapidJSON's message and offset."""
    with pytest.raises(StatusError) as raised:
        parse(text)
    assert raised.value.message.startswith(f"JSON Parse error: {message}")


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Whatever the bytes are, the answer is a value or a StatusError."""
    try:
        parse(body)
    except StatusError as error:
        assert error.message.startswith("JSON Parse error: ")
