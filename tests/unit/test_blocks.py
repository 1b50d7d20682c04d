"""Blocks of rows and how their answers are put together again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets.blocks import joined, row_blocks, small_batches
from tasks.records import TensorSpec


@given(st.integers(1, 60), st.integers(1, 70))
def test_blocks_are_the_rows(n_rows: int, step: int) -> None:
    """Blocks hold every row once and in order, whatever their size, and their answers make one array."""
    x = np.arange(n_rows * 2).reshape(n_rows, 2)
    blocks = list(row_blocks({"x": x}, step))
    assert all(len(block["x"]) <= step for block in blocks)
    np.testing.assert_array_equal(joined(blocks, [TensorSpec("x", "int64", (None, 2))])["x"], x)


@pytest.mark.parametrize(
    ("dtype", "pad", "values", "filled"),
    [
        ("float32", None, (1.5, 2.5), 0.0),
        ("float32", -1, (1.5, 2.5), -1.0),
        ("int64", 7, (1, 2), 7),
        ("bool", True, (False, False), True),
        ("string", None, ("ab", "c"), ""),
        ("string", "padding", ("ab", "c"), "padding"),
        ("string", "padding", (b"ab", b"c"), b"padding"),
    ],
)
def test_shorter_blocks_are_filled_up(dtype: str, pad: object, values: tuple[object, object], filled: object) -> None:
    """Blocks of other lengths are filled up by what is declared, else by nothing, and keep their values."""
    spec = TensorSpec("y", dtype, (None, None), pad=pad)  # type: ignore[arg-type]
    blocks = [np.array([[values[0]] * 3] * 2), np.array([[values[1]]]), np.array([[values[0]] * 2])]
    found = joined([{"y": block} for block in blocks], [spec])["y"].tolist()
    first, second = values
    assert found == [[first] * 3, [first] * 3, [second, filled, filled], [first, first, filled]]


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3, 1)), ((2, 3), (2, 4)), ((2,), (2, 3))])
def test_blocks_that_do_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    """Blocks of other ranks, or of other extents where none are free, are an error."""
    with pytest.raises(ValueError, match="dimension"):
        joined([{"y": np.zeros(shape)} for shape in shapes], [TensorSpec("y", "float64", (None, 3))])


def test_small_batches_need_their_rows() -> None:
    """A batch is asked where there are rows for it."""
    names = {n: [name for name, _ in small_batches({"x": np.arange(n)})] for n in (1, 2, 3, 7)}
    assert names == {1: ["1"], 2: ["1", "2"], 3: ["1", "2", "the last 3"], 7: ["1", "2", "7", "the last 3"]}
    assert {name: part["x"].tolist() for name, part in small_batches({"x": np.arange(9)})}["the last 3"] == [6, 7, 8]
