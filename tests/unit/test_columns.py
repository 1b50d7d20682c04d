"""Columns of every kind: kept as they are, or refused by name; text and bytes at their own length."""

from __future__ import annotations

import base64
import json
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.datasets.fitting import fit_to_inputs, largest_changes
from tasks.datasets.predict_body import predict_body
from tasks.datasets.rows import Rows, check_rows, digest_rows, load_arrays, load_rows, save_arrays, save_rows
from tasks.errors import DataError
from tasks.records import TensorSpec

Y = [0, 1]


class Color(str, Enum):  # noqa: UP042  what users have; str() of it is "Color.RED"
    """Text by the name of a color."""

    RED = "r"
    BLUE = "b"


TEXT: Any = np.dtypes.StringDType()  # type: ignore[attr-defined,unused-ignore]


def column(values: Any) -> np.ndarray:
    return check_rows(({"c": values}, np.zeros(len(values))), "m:f").features["c"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1, 2, 3], [4]], "shape (3,) in row 0 and (1,) in row 1"),
        ([np.zeros((2, 3)), np.zeros((2, 2))], "shape (2, 3) in row 0 and (2, 2) in row 1"),
        ([[[1], [2, 3]], [[1], [2, 3]]], "got list"),
        (pa.array([[1, 2], [3]]), "in row 1"),
        ([Decimal("1.5")] * 2, "Decimal"),
        ([date(2020, 1, 1)] * 2, "date"),
        (np.array(["2020-01-01"] * 2, "M8[s]"), "whole seconds as int64"),
        (np.array([1, 2], "m8[s]"), "timedelta64[s]"),
        (pd.Series(pd.to_datetime(["2020-01-01"] * 2)).dt.tz_localize("UTC"), "UTC"),
        (pd.Series([1, pd.NA], dtype="Int64"), "missing values in 1 of 2 rows, first in row 1"),
        (pd.Series(["a", None], dtype="category"), "first in row 1"),
        (pd.Series(["a", pd.NA], dtype="string[pyarrow]"), "first in row 1"),
        (pa.array([1, None]), "first in row 1"),
        (np.ma.masked_array([1, 2], mask=[False, True]), "masked values in 1 of 2 rows, first in row 1"),
        (np.array(["a", None], np.dtypes.StringDType(na_object=None)), "row 1"),  # type: ignore[attr-defined,unused-ignore]
        (["a", None], "row 1: NoneType"),
        (["a", 1], "int, str"),
        (["a", b"a"], "row 1: bytes"),
        (["a", "\ud800"], "surrogate in '\\ud800' in row 1"),
        (np.array(["a", "\ud800"]), "in row 1"),
        (np.array([1j, 2]), "complex128"),
        (np.zeros(2, [("a", "i4")]), "each field as a column"),
        (pd.Series(pd.arrays.SparseArray([0, 1])), "dense"),
        ([2**64, 1], "64 bits"),
        ([2**53 + 1, 0.5], "9007199254740993 in row 0, which float64 would change"),
        ([2**63 + 1, -1], "in row 0, which float64 would change"),
        (pd.Series(pd.period_range("2020", periods=2, freq="D")), "Period"),
        ([np.ma.masked_array([1, 2], mask=[False, True]), np.zeros(2)], "masked values in 1 of 2 rows, first in row 0"),
        ([[np.ma.masked_array([1.5], mask=[True])], [[2.5]]], "masked values in 1 of 2 rows, first in row 0"),
        (pd.Series([np.zeros(1), np.ma.masked_array([1], mask=[True])]), "masked values in 1 of 2 rows, first in row"),
        ([1, np.ma.masked], "masked values in 1 of 2 rows, first in row 1"),
        (["a", None], "NoneType may be a missing value"),
        pytest.param(
            np.array([1 + np.finfo(np.longdouble).eps] * 2, np.longdouble), "longer number in row 0; round it",
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="no such numbers here"),
        ),
        (np.array([1, 2], ml_dtypes.bfloat16), "dtype bfloat16; convert it, for example"),
    ],
)  # fmt: skip
def test_refused_columns(values: Any, words: str) -> None:
    """What no array holds as it is, is refused by loader, column and, where one is to blame, row."""
    with pytest.raises(DataError) as caught:
        column(values)
    assert "'m:f': 'c'" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_column_is_called_by_its_type() -> None:
    """A generator, a set, a single text and what has no rows at all are refused by the name of their type."""
    for value, kind in (((n for n in Y), "generator"), ({0, 1}, "set"), ("ab", "str"), (None, "NoneType"), (5, "int")):
        with pytest.raises(DataError, match=f"'c' must be an array or a list with one entry for each row, got {kind};"):
            check_rows(({"c": value}, Y), "m:f")
    for loaded, got in (([Y, Y], "a list of 2"), ((Y, Y, Y), "a tuple of 3"), ({"c": Y}, "dict")):
        with pytest.raises(DataError, match=rf"must return a tuple \(features, target\) .* got {got}"):
            check_rows(loaded, "m:f")


def test_a_missing_value_is_no_guess() -> None:
    """Only where a type can stand for a missing value is it said."""
    with pytest.raises(DataError) as caught:
        column(["a", 1])
    assert "missing" not in str(caught.value)


def test_sparse_matrix_is_refused() -> None:
    """A sparse matrix, which has no length, is refused as well."""
    with pytest.raises(DataError, match="'features' must be a dense array"):
        check_rows((sp.csr_matrix(np.eye(2)), Y), "m:f")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), "'a' twice"),
        ({1: Y, "1": Y}, "'1' twice"),
        (pd.DataFrame([[1], [3]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "plain names"),
        (pa.table([[1, 2], [3, 4]], names=["a", "a"]), "'a' twice"),
        ({"a\0": Y}, "without NUL"),
        ({"\ud800": Y}, "valid text without NUL"),
        ({None: Y}, "has None"),
        ({}, "one feature and one target"),
    ],
)
def test_refused_names(features: Any, words: str) -> None:
    """Two columns with one name, and names that a file or a server cannot keep, are refused."""
    with pytest.raises(DataError) as caught:
        check_rows((features, Y), "m:f")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("values", "dtype", "kept"),
    [
        ([20_000_001.0, 2.0], "float64", None),
        (pd.Series([2**53 + 1, 2], dtype="Int64"), "int64", [2**53 + 1, 2]),
        (pd.Series([True, False], dtype="boolean"), "bool", [True, False]),
        (pd.Series([1, 2], dtype="int8[pyarrow]"), "int8", [1, 2]),
        (pd.Series(["a\0", "b"], dtype="string[pyarrow]"), TEXT, ["a\0", "b"]),
        (pd.Series(["b", "a", "b"], dtype="category"), TEXT, ["b", "a", "b"]),
        (pd.Categorical([3, 4]), "int64", [3, 4]),
        (pa.array(["a", "b\0"]), TEXT, ["a", "b\0"]),
        (pa.chunked_array([[1], [2]]), "int64", [1, 2]),
        (np.ma.masked_array([1, 2], mask=[False, False]), "int64", [1, 2]),
        (np.array(["a\0", "b"], TEXT), TEXT, None),
        (["a\0", "\0"], TEXT, None),
        ([b"a\0", b"\0"], "object", None),
        ([["a", "b"], ["c", "d"]], TEXT, None),
        (np.array([1, 2], dtype=object), "int64", [1, 2]),
        ([np.zeros(2), np.ones(2)], "float64", [[0, 0], [1, 1]]),
        ([Color.RED, Color.BLUE], TEXT, ["r", "b"]),
        ([np.str_("a\0"), np.str_("b")], TEXT, ["a\0", "b"]),
        ([bytearray(b"a\0"), bytearray(b"b\0")], "object", [b"a\0", b"b\0"]),
        (pd.Series([bytearray(b"a"), b"b\0"]), "object", [b"a", b"b\0"]),
        (np.array([1, 2], ">i4"), "int32", [1, 2]),
        (np.array([1.5, 2], ">f8"), "float64", [1.5, 2.0]),
        (np.array([1.5, 2], np.longdouble), "float64", [1.5, 2.0]),
        (np.ma.masked_array(["a", "b"]), TEXT, ["a", "b"]),
        ([np.ma.masked_array([1, 2]), np.ma.masked_array([3, 4])], "int64", [[1, 2], [3, 4]]),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 1, 2), "f4")), "float32", [[[1, 1]], [[1, 1]]]),
    ],
)
def test_kept_columns(values: Any, dtype: Any, kept: list[Any] | None, tmp_path: Path) -> None:
    """Every accepted kind arrives with its values, and comes back from the file with them."""
    wanted = kept if kept is not None else list(values)
    found = column(values)
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == wanted
    save_arrays(tmp_path / "a.npz", {"c.text": found, "c": found})
    assert all(back.tolist() == wanted for back in load_arrays(tmp_path / "a.npz").values())
    assert list(load_arrays(tmp_path / "a.npz")) == ["c.text", "c"]


def spec(dtype: str) -> TensorSpec:
    return TensorSpec("x", dtype, (None,))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([20_000_001.0]), "float32"),
        (np.array([20_000_001]), "float32"),
        (np.array([2**53 + 1]), "float64"),
        (np.array([2**63 - 1]), "float64"),
        (np.array([2.0**63]), "int64"),
        (np.array([-1]), "uint64"),
        (np.array([2**64 - 1], np.uint64), "int64"),
        (np.array([2049]), "float16"),
        (np.array([1e300]), "float32"),
        (np.array([70000.5]), "float16"),
        (np.array([np.nan]), "int64"),
        (np.array([2]), "bool"),
    ],
)
def test_values_that_an_input_would_change(values: np.ndarray, dtype: str) -> None:
    """Whole numbers that a cast would change, and what is out of range, are refused with column, row and value."""
    with pytest.raises(DataError, match=r"cannot hold every value of the rows: 'f' has .* in row 0"):
        fit_to_inputs({"f": values}, [spec(dtype)])


def test_fractions_are_rounded_and_said() -> None:
    """Float64 fractions are rounded to float32; by how much at most is known, and of which value."""
    features = {"f": np.array([0.1, 20_000_001.0])}
    assert fit_to_inputs(features, [spec("float32")])["x"].tolist() == [np.float32(0.1), 20_000_000.0]
    said = "float64 to float32, by at most 1 (20000001.0 to 20000000.0)"
    assert largest_changes(features, [spec("float32")]) == {"x": said}
    several = {"f": features["f"], "g": np.array([0.5, 1])}
    specs = [TensorSpec(name, "float32", (None, 1)) for name in several]
    assert largest_changes(several, specs) == {"f": said}
    assert largest_changes({"f": np.array([0.5])}, [spec("float32")]) == {}


LEAVES = [st.text(), st.binary(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_subnormal=True), st.booleans()]
DTYPES = {str: "string", bytes: "string", int: "int64", float: "float64", bool: "bool"}


@settings(max_examples=200, deadline=None)
@given(st.one_of([st.lists(leaf, min_size=1, max_size=5) for leaf in LEAVES]))
def test_a_column_arrives_exactly_or_is_refused(values: list[Any]) -> None:
    """From the loader through the file to the body of a request nothing changes without a word."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = check_rows(({"c": values}, np.zeros(len(values))), "m:f")
            save_rows(Path(folder) / "r.npz", rows)
            back = load_rows(Path(folder) / "r.npz")
            assert digest_rows([back]) == digest_rows([rows])
            fitted = fit_to_inputs(back.features, [spec(DTYPES[type(values[0])])])
        except DataError as exc:
            assert "'c'" in str(exc)
            return
    sent = json.loads(predict_body(fitted))["inputs"]["x"]
    assert [base64.b64decode(v["b64"]) if isinstance(v, dict) else v for v in sent] == values


def test_text_costs_what_it_holds(tmp_path: Path) -> None:
    """Long texts, and one of 1 MB among 10,000 short ones, take at most three times their bytes in the file."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(7.0, 0.55, 10_000), 13_700).astype(int)
    reviews = ["word " * (length // 5) for length in lengths]
    one_long = ["x" * 1_000_000, *(["a short text of some words"] * 9_999)]
    for texts in (reviews, one_long):
        for values in (texts, [text.encode() for text in texts]):
            rows = check_rows((values, np.zeros(len(values), np.int8)), "m:f")
            save_rows(tmp_path / "r.npz", rows)
            n_bytes = sum(map(len, values))
            assert rows.features["features"].nbytes <= 16 * len(values)  # besides the items themselves
            assert (tmp_path / "r.npz").stat().st_size <= 1.5 * n_bytes
            assert load_rows(tmp_path / "r.npz").features["features"].tolist() == values


def test_files_of_fixed_width_are_still_read(tmp_path: Path) -> None:
    """What was written before, text at the width of the longest, is read."""
    np.savez(tmp_path / "old.npz", **{"x/u": np.array(["ä", "bb"]), "x/s": np.array([b"a", b"bb"]), "y/t": np.array(Y)})
    rows = load_rows(tmp_path / "old.npz")
    assert rows.features["u"].tolist() == ["ä", "bb"]
    fitted = fit_to_inputs(rows.features, [TensorSpec(name, "string", (None,)) for name in "us"])
    assert json.loads(predict_body(fitted))["inputs"]["u"] == ["ä", "bb"]


def test_damaged_text_is_refused(tmp_path: Path) -> None:
    """Lengths that do not fit the bytes are an error of the file."""
    import zipfile

    save_arrays(tmp_path / "a.npz", {"t": np.array(["abc"], TEXT)})
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(tmp_path / "b.npz", "w") as new:
        new.writestr("t.text", old.read("t.text")[:-1] + b"\xff")
        new.writestr("t.lengths", old.read("t.lengths"))
    with pytest.raises(DataError, match="must be readable"):
        load_arrays(tmp_path / "b.npz")


def test_digest_tells_where_texts_end() -> None:
    """Texts that are the same one after the other, and columns that swap sides, have digests of their own."""
    first, second = (Rows({"a": np.array(texts, TEXT)}, {"t": np.zeros(2)}) for texts in (["ab", "c"], ["a", "bc"]))
    assert digest_rows([first]) != digest_rows([second])


def test_integers_beyond_int64_beside_small_ones() -> None:
    """A list of ids that need uint64 is uint64; NumPy makes float64 of it."""
    array = check_rows(({"x": [2**64 - 1, 2**63 + 1, 3]}, None), "load", needs_target=False).features["x"]
    assert (array.dtype, array.tolist()) == (np.uint64, [2**64 - 1, 2**63 + 1, 3])
