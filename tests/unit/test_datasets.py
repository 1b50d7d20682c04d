"""Rows: what is refused, how they are split, how they fit a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.sections.data import Data
from tasks.datasets import prepare
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.rows import Rows, check_rows, load_arrays, load_rows, save_arrays, save_rows
from tasks.errors import DataError
from tasks.records import Splits, TensorSpec

LOADED: Any = None


def load() -> Any:
    """Return what the test put there; named by the configuration as a user's loader is."""
    return LOADED


def broken() -> Any:
    """Fail as a user's loader does on an unreadable file."""
    return pd.read_csv("no-such-file.csv")


def split(tmp_path: Path, loaded: object, seed: int = 0, **settings: Any) -> Splits:
    global LOADED  # noqa: PLW0603
    LOADED = loaded
    return prepare.prepare_splits(Data(load=f"{__name__}:load", seed=seed, **settings), tmp_path)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this very module be found by its name, as a user's module is."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        (np.zeros(3), "must return a tuple (features, target)"),
        ((np.zeros(3), np.zeros(2)), "the same number of rows"),
        ((np.zeros((0, 2)), np.zeros(0)), "must have rows, got none"),
        (({"x": np.zeros(0, object)}, np.zeros(0)), "must have rows, got none"),
        ((np.array([1.0, np.nan]), np.zeros(2)), "NaN or infinity in 1 of 2 rows, first in row 1"),
        (({"a": [1.0, np.inf]}, np.zeros(2)), "'a' must be finite"),
        (({"city": ["x", None]}, np.zeros(2)), "NoneType"),
        ((np.array([1j, 2]), np.zeros(2)), "dtype complex128"),
        ((pd.DataFrame({"d": pd.to_datetime(["2020-01-01", "2020-01-02"])}), np.zeros(2)), "datetime64"),
        ((5, np.zeros(2)), "one entry for each row"),
    ],
)
def test_unusable_rows(loaded: object, words: str) -> None:
    """Rows that cannot be used are refused by loader, column and row."""
    with pytest.raises(DataError) as caught:
        check_rows(loaded, "m:f")
    assert words in str(caught.value)


def test_table_keeps_its_columns() -> None:
    """A DataFrame's columns are features by name, text stays text, float64 stays float64."""
    rows = check_rows((pd.DataFrame({"age": [1.0, 2.0], "city": ["a", "bb"]}), pd.Series([0, 1])), "m:f")
    assert {k: v.dtype.kind for k, v in rows.features.items()} == {"age": "f", "city": "T"}
    assert rows.features["age"].dtype == np.float64
    assert rows.targets["target"].tolist() == [0, 1]


def test_rows_survive_the_file(tmp_path: Path) -> None:
    """Saved rows come back with names, dtypes and values."""
    rows = Rows({"a/b": np.array([[1.5]], np.float32), "s": np.array(["ä"])}, {"t": np.array([3])})
    save_arrays(tmp_path / "q.npz", {"file": np.ones(1), "allow_pickle": np.zeros(1)})
    assert sorted(load_arrays(tmp_path / "q.npz")) == ["allow_pickle", "file"]
    save_rows(tmp_path / "r.npz", rows)
    back = load_rows(tmp_path / "r.npz")
    assert back.features["a/b"].dtype == np.float32
    assert back.features["s"].tolist() == ["ä"]
    assert back.targets["t"].tolist() == [3]


def test_same_seed_same_split(tmp_path: Path) -> None:
    """A seed decides the split; the parts share no row and miss none."""
    loaded = (np.arange(100.0), np.arange(100) % 3)
    first, again, other = (split(tmp_path / str(n), loaded, seed) for n, seed in enumerate((1, 1, 2)))
    assert first.digest == again.digest != other.digest
    parts = [load_rows(path).features["features"] for path in (first.train, first.validation, first.test)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert first.rows == {name: len(part) for name, part in zip(first.rows, parts, strict=True)}


def test_loader_errors_are_one_line(tmp_path: Path) -> None:
    """What a user's loader raises becomes one line with its class and words."""
    with pytest.raises(DataError, match="FileNotFoundError.*no-such-file.csv") as caught:
        prepare.prepare_splits(Data(load=f"{__name__}:broken"), tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="has no function 'absent'"):
        prepare.prepare_splits(Data(load="configs.digits:absent"), tmp_path)


def test_fit_to_inputs() -> None:
    """One input takes the one feature; (n,) and (n, 1) fit each other; dtypes are cast to the signature's."""
    x = np.arange(3)
    assert fit_to_inputs({"features": x}, [TensorSpec("p", "float32", (None, 1))])["p"].shape == (3, 1)
    fitted = fit_to_inputs(
        {"b": x, "a": x[:, None]}, [TensorSpec("a", "float32", (None,)), TensorSpec("b", "int64", (None,))]
    )
    assert fitted["a"].dtype == np.float32
    assert list(fitted) == ["a", "b"]


@pytest.mark.parametrize(
    ("features", "spec", "words"),
    [
        (
            {"a": np.zeros((3, 5))},
            TensorSpec("x", "float32", (None, 4)),
            "x: float32 (?, 4), but the rows have the shape (3, 5)",
        ),
        ({"a": np.zeros((3, 5, 1))}, TensorSpec("x", "float32", (None, 5)), "shape (3, 5, 1)"),
        ({"a": np.array([300])}, TensorSpec("x", "uint8", (None,)), "cannot hold every value"),
        ({"a": np.array([1.5])}, TensorSpec("x", "int64", (None,)), "cannot hold every value"),
        ({"a": np.array(["q"])}, TensorSpec("x", "float32", (None,)), "the rows of 'a' are text"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, TensorSpec("x", "float32", (None,)), "there is none for 'x'"),
    ],
)
def test_features_that_do_not_fit(features: dict[str, np.ndarray], spec: TensorSpec, words: str) -> None:
    """An input without a feature, or with another shape or kind, is refused with both sides."""
    with pytest.raises(DataError) as caught:
        fit_to_inputs(features, [spec])
    assert words in str(caught.value)


def test_bfloat16_comes_back_as_the_same_numbers(tmp_path: Path) -> None:
    """Saved bfloat16 is read back as float32 of the same values, not as nameless bytes."""
    import ml_dtypes

    values = np.array([0.1, -3e38, 1e-40, np.nan]).astype(ml_dtypes.bfloat16)
    save_arrays(tmp_path / "a.npz", {"x": values})
    found = load_arrays(tmp_path / "a.npz")["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))
