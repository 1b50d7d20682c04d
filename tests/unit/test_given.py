"""Rows for a model that was trained elsewhere: which of them are judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.loading import ConfigError, load_config
from configs.sections.data import Data
from configs.sections.gates import Bound, Gates
from tasks.datasets.given import ROWS, GivenRows, check_trained_on, leave_out_trained, named_file, prepare_given
from tasks.datasets.rows import Rows, digest_rows, load_rows, save_rows
from tasks.errors import DataError, WrongFile

TABLE = pd.DataFrame(
    {"id": range(6), "x": [0.0, 1, 2, 3, 4, 5], "part": ["train", "test", "test", "validation", "test", "train"],
     "y": [0, 1, 0, 1, 0, 1]}
)  # fmt: skip
SPLIT = Data(split="part")


def asked(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the server is asked: x alone, as float32."""
    if "x" not in features:
        raise DataError("'x' is missing")
    return {"x": features["x"].astype(np.float32)}


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Write the table, and return its file."""
    TABLE.to_parquet(tmp_path / "rows.parquet")
    return str(tmp_path / "rows.parquet")


def test_without_a_column_all_rows_are_judged(rows: str, tmp_path: Path) -> None:
    """Nothing is known of what the model was trained on."""
    splits = prepare_given(Data(), Gates(), GivenRows(rows, "y"), tmp_path / "data")
    assert splits.rows == {"train": 0, "validation": 0, "test": 6}
    assert (splits.trained_on, splits.left_out) == (0, None)
    assert splits.digest == digest_rows([load_rows(splits.test)])


def test_rows_that_a_column_calls_test(rows: str, tmp_path: Path) -> None:
    """They alone are judged, the column is no feature, and the others are known to have been trained on."""
    splits = prepare_given(SPLIT, Gates(), GivenRows(rows, "y"), tmp_path / "data")
    assert splits.rows == {"train": 2, "validation": 1, "test": 3}
    test = load_rows(splits.test)
    assert test.features.keys() == {"id", "x"}
    assert test.features["x"].tolist() == [1, 2, 4]
    assert test.targets["target"].tolist() == [1, 0, 0]
    assert splits.trained_on == 3


@pytest.mark.parametrize("name", ["split", "split_column"])
def test_both_names_of_the_column(tmp_path: Path, name: str) -> None:
    """`data.split_column` is `data.split`; both at once are refused."""
    (tmp_path / "cfg.yaml").write_text(f"name: m\ndata: {{{name}: part}}\n")
    assert load_config(tmp_path / "cfg.yaml").data == SPLIT
    with pytest.raises(ConfigError, match=r"two names of the same field"):
        load_config(tmp_path / "cfg.yaml", ["data.split=a", "data.split_column=b"])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["train", "test", "tset"], "must contain train, validation, test only, got 'tset'"),
        (["train", "train", "validation"], "'part' contains test in no row"),
        ([0, 1, 2], "test only, got '0', '1', '2'"),
        ([["test"], ["test"], ["train"]], None),
        ([["test", "a"], ["test", "b"], ["train", "c"]], "one value for each row"),
    ],
)
def test_a_column_that_says_something_else(tmp_path: Path, parts: list[Any], said: str | None) -> None:
    """It is refused as `data.split` is of a loader."""
    pd.DataFrame({"x": [1.0, 2, 3], "part": parts}).to_parquet(tmp_path / "r.parquet")
    given = GivenRows(str(tmp_path / "r.parquet"))
    if said is None:
        assert prepare_given(SPLIT, Gates(), given, tmp_path / "data").rows["test"] == 2
        return
    with pytest.raises(DataError) as caught:
        prepare_given(SPLIT, Gates(), given, tmp_path / "data")
    assert said in str(caught.value)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    """It is one line, and so are rows of which nothing but the column is left."""
    (tmp_path / "r.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"data\.split must name a column of the rows, got 'part'; the columns are 'x'"):
        prepare_given(SPLIT, Gates(), GivenRows(str(tmp_path / "r.csv")), tmp_path / "data")
    (tmp_path / "r.csv").write_text("part\ntest\n")
    with pytest.raises(DataError, match="must have a feature besides 'part'"):
        prepare_given(SPLIT, Gates(), GivenRows(str(tmp_path / "r.csv")), tmp_path / "data")
    with pytest.raises(DataError, match=r"gates\.metrics needs a target"):
        prepare_given(
            Data(), Gates(metrics={"accuracy": Bound(min=0)}), GivenRows(str(tmp_path / "r.csv")), tmp_path / "data"
        )


def test_rows_that_the_model_was_trained_on_are_left_out(rows: str, tmp_path: Path) -> None:
    """Whatever else their table holds, and however wide its numbers; the others keep their order and targets."""
    known = pd.DataFrame({"id": [9.5, None, 7], "x": [np.float32(4), 2, 100], "when": [None, "a", None]})
    known.to_parquet(tmp_path / "known.parquet")
    given = GivenRows(rows, "y", str(tmp_path / "known.parquet"))
    with pytest.raises(DataError, match="'id' must be finite"):  # the judged rows have it
        prepare_given(Data(), Gates(), given, tmp_path / "data")
    known.drop(columns="id").to_parquet(tmp_path / "known.parquet")
    splits = leave_out_trained("m", prepare_given(Data(), Gates(), given, tmp_path / "data"), asked)
    assert (splits.left_out, splits.trained_on) == (2, 3)
    assert splits.rows == {"train": 3, "validation": 0, "test": 4}
    test = load_rows(splits.test)
    assert test.features["id"].tolist() == [0, 1, 3, 5]
    assert test.targets["target"].tolist() == [0, 1, 1, 1]
    assert splits.digest == digest_rows([load_rows(splits.train), test])


def test_rows_from_python(tmp_path: Path) -> None:
    """Rows that were checked in the caller's process are read back as they were."""
    for name, x in (("a", [1.0, 2, 3]), ("b", [3.0])):
        save_rows(tmp_path / name / ROWS, Rows({"x": np.array(x)}, {}))
    given = GivenRows(str(tmp_path / "a" / ROWS), trained_on=str(tmp_path / "b" / ROWS))
    splits = leave_out_trained("m", prepare_given(Data(), Gates(), given, tmp_path / "data"), asked)
    assert load_rows(splits.test).features["x"].tolist() == [1, 2]
    assert splits.left_out == 1


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"x": [1.0], "when": [None]}),
        {"x": [1], "when": [None]},
        [1],
        pd.Series([1.0], ["x"]),
        np.array([1], np.float32),
    ],
)
def test_forms_of_rows_that_the_model_was_trained_on(table: Any) -> None:
    """A table may have further columns, of any kind; one bare array is the only feature."""
    found = check_trained_on(table, Rows({"x": np.zeros(1)}, {}), "trained_on").features
    assert [array.tolist() for array in found.values()] == [[1]]


def test_nothing_is_left_to_judge(rows: str, tmp_path: Path) -> None:
    """It is an error, not a verdict on no rows."""
    splits = prepare_given(Data(), Gates(), GivenRows(rows, "y", rows), tmp_path / "data")
    with pytest.raises(DataError, match="the model was trained on all 6 of them"):
        leave_out_trained("m", splits, asked)


def test_trained_on_in_two_ways(rows: str, tmp_path: Path) -> None:
    """Rows that say train and a file beside them would contradict each other."""
    with pytest.raises(DataError, match="either by --trained-on or by 'part'"):
        prepare_given(SPLIT, Gates(), GivenRows(rows, "y", rows), tmp_path / "data")


def test_a_table_of_other_columns(rows: str, tmp_path: Path) -> None:
    """The message says that it is about the rows that the model was trained on."""
    (tmp_path / "known.csv").write_text("z\n1\n")
    splits = prepare_given(Data(), Gates(), GivenRows(rows, "y", str(tmp_path / "known.csv")), tmp_path / "data")
    with pytest.raises(DataError, match="the rows that the model was trained on cannot be used: 'x' is missing"):
        leave_out_trained("m", splits, asked)


def test_a_file_that_an_option_names(tmp_path: Path) -> None:
    """Its rows are the user's mistake, as a wrong option is; rows of a loader or of Python are not a file's."""
    (tmp_path / "rows.json").write_text('[{"x": 1},')
    with pytest.raises(WrongFile, match="JSONDecodeError"), named_file("rows.json"):
        prepare_given(Data(), Gates(), GivenRows(str(tmp_path / "rows.json")), tmp_path / "data")
    for other in ("", str(tmp_path / ROWS)):
        with pytest.raises(DataError) as caught, named_file(other):
            raise DataError("'x' is missing")
        assert not isinstance(caught.value, WrongFile)
