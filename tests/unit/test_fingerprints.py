"""Fingerprints: equal rows have equal ones whatever they come in, and no others do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets.fingerprints import CHUNK, TEXT_CHUNK, fingerprints
from tasks.errors import DataError

LARGE = [2**53, 2**53 + 1, 2**53 + 2, 2**60, 2**62 + 1, 2**63 - 1, 2**63 - 1023, 2**63 - 1025]


def of(array: Any, key: str = "k") -> list[int]:
    return fingerprints({"a": np.asarray(array)}, key).tolist()


@pytest.mark.parametrize(
    "same",
    [
        [np.array([0, 1]), np.array([0, 1], np.int8), np.array([0, 1], np.uint64), np.array([False, True]),
         np.array([-0.0, 1.0]), np.array([0, 1], np.float16), np.array([[0.0], [1.0]], np.float32),
         np.array([0, 1], ">i4"), np.array([0, 9, 1, 9])[::2]],
        [np.array([0.1, 1.5], np.float32), np.array([0.1, 1.5], np.float32).astype(np.float64)],
        [np.array(["é", "bb"]), np.array(["é", "bb"], "U40"), np.array(["é", "bb"], object),
         np.array(["é", "bb"], np.dtypes.StringDType()), np.array(["é".encode(), b"bb"]),
         np.array(["é".encode(), b"bb"], object)],
        [np.array(LARGE), np.array(LARGE, np.uint64)],
        [np.array([2**60, -(2**63)]), np.array([2.0**60, -(2.0**63)])],
    ],
    ids=["numbers", "fractions", "texts", "large", "large floats"],
)  # fmt: skip
def test_equal_values_are_equal_whatever_they_come_in(same: list[np.ndarray]) -> None:
    """Dtype, width, byte order, strides, container and a last axis of one make no difference to a value."""
    assert len({tuple(of(array)) for array in same}) == 1
    assert len(set(of(same[0]))) == len(same[0])


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=2, max_size=2, unique=True))
def test_integers_that_differ_are_told_apart(pair: list[int]) -> None:
    """No two integers of 64 bits are alike, however close beyond what float64 can hold."""
    first, second = (np.array([value], np.int64 if value < 2**63 else np.uint64) for value in pair)
    assert of(first) != of(second)


@given(st.integers(-(2**63), 2**63 - 2))
def test_neighbours_are_told_apart(value: int) -> None:
    """An integer and the next one are never alike."""
    assert len(set(of(np.array([value, value + 1])))) == 2


@given(st.lists(st.text(max_size=5), min_size=2, max_size=2, unique=True))
def test_texts_that_differ_are_told_apart(pair: list[str]) -> None:
    """No two texts are alike, NULs and lone surrogates included, where their container can hold them."""
    first, second = (np.array([text], object) for text in pair)
    assert of(first) != of(second)


def test_what_is_no_same_row() -> None:
    """The key, a column's name, text that looks like a number, and where one text ends all count."""
    one = {"a": np.array(["x"]), "b": np.array(["yz"])}
    others = [
        {"a": np.array(["xy"]), "b": np.array(["z"])}, {"a": np.array(["x"]), "c": np.array(["yz"])},
        {"a": np.array(["yz"]), "b": np.array(["x"])}, {"a": np.array([["x", "yz"]])},
    ]  # fmt: skip
    found = [fingerprints(columns, "k")[0] for columns in (one, *others)]
    found += [fingerprints(one, "l")[0], *of([3]), *of(["3"]), *of([[3, 3]]), *of([3.5])]
    assert len(set(found)) == len(found)


def test_order_of_columns_does_not_count() -> None:
    """Numbers and texts in another order give the same fingerprints."""
    columns = {"n": np.arange(5), "t": np.array(list("abcde")), "m": np.ones((5, 2, 2))}
    assert (fingerprints(columns, "k") == fingerprints(dict(reversed(columns.items())), "k")).all()


@pytest.mark.parametrize("width", [1, 3, CHUNK])
def test_chunks_leave_no_trace(width: int) -> None:
    """A row alone has the fingerprint that it has among many, whatever is worked on at once."""
    n_rows = 3 if width == CHUNK else TEXT_CHUNK + 5
    columns = {"n": np.arange(n_rows * width).reshape(n_rows, width), "t": np.array([f"t{n}" for n in range(n_rows)])}
    together = fingerprints(columns, "k")
    for row in (0, 1, n_rows - 1):
        assert fingerprints({name: array[row : row + 1] for name, array in columns.items()}, "k")[0] == together[row]


def test_numbers_that_a_file_does_not_know() -> None:
    """A bfloat16 has the fingerprint that its bits have when they come back from a file."""
    import ml_dtypes

    array = np.array([1.5, 2, -3], ml_dtypes.bfloat16)
    assert of(array) == of(array.view("V2"))
    assert len(set(of(array))) == 3


def test_other_objects_are_refused() -> None:
    """An object column of something else than text is an error, not a guess."""
    with pytest.raises(DataError, match="text or bytes, got int"):
        of(np.array(["a", 5], object))


def test_no_rows_and_no_columns() -> None:
    """No rows give no fingerprints."""
    assert of(np.zeros((0, 3))) == []
    assert len(fingerprints({}, "k")) == 0
