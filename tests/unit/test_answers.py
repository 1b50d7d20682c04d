"""Tables of rows and answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.datasets.answers import SHOWN_ROWS, save_table, shown_table, with_answers
from tasks.datasets.row_files import read_table
from tasks.errors import DataError

ANSWERS = {"score": np.float32([0.1, np.nan]), "p": np.float32([[0.25, 0.75], [1, 0]])}


def test_a_column_of_the_output_s_name_stays() -> None:
    """The rows' own column, such as the target, stands beside the answer; an earlier answer is replaced."""
    rows = {"score": np.array([1, 0]), "served.score": ["old", "older"]}
    table = with_answers(rows, {"score": np.float32([0.1, 0.2])})
    assert table == {"score": [1, 0], "served.score": [0.1, 0.2]}


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_what_is_saved_reads_back(tmp_path: Path, suffix: str) -> None:
    """Integers beyond 2**53, text with a comma, NaN and vectors survive."""
    file = tmp_path / f"t{suffix}"
    save_table(with_answers({"id": [2**53 + 1, 2**63 - 1], "text": ["a,b\n", "NA"]}, ANSWERS), file)
    back = read_table(file)[0]
    assert [int(number) for number in back["id"]] == [2**53 + 1, 2**63 - 1]
    assert list(back["text"]) == ["a,b\n", "NA"]
    np.testing.assert_array_equal(np.array(list(back["served.score"]), float), [0.1, np.nan])
    np.testing.assert_array_equal(np.stack(list(back["served.p"])), [[0.25, 0.75], [1, 0]])


@pytest.mark.parametrize("gap", [None, float("nan"), pd.NA, pd.NaT])
def test_a_gap_of_the_rows_stays_a_gap(tmp_path: Path, gap: object) -> None:
    """A column that the model does not take may have gaps; an answer that is no number is seen as that."""
    table = with_answers({"note": ["a", gap]}, {"y": np.float64([np.nan, 1])})
    save_table(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "note,served.y\na,nan\n,1.0\n"
    assert shown_table(table, 80).splitlines()[1].split() == ["a", "nan"]
    save_table(table, tmp_path / "t.json")
    assert '{"note": null, "served.y": 1.0}' in (tmp_path / "t.json").read_text()


def test_deeper_answers_are_json_in_a_cell(tmp_path: Path) -> None:
    """CSV has no matrices."""
    save_table(with_answers({}, {"m": np.zeros((1, 2, 2), np.int32)}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == 'served.m\n"[[0, 0], [0, 0]]"\n'


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It is one line that names the option."""
    with pytest.raises(DataError, match="the file of --out must be writable"):
        save_table({"a": [1]}, tmp_path / "none" / "t.json")


def test_a_wide_and_long_table_is_shown_in_part() -> None:
    """Lines keep to the width, the answers come before the rows' columns, and what is left out is counted."""
    rows = {f"column{number}": ["\x1b[31mx" * 30] * 100 for number in range(20)}
    lines = shown_table(with_answers(rows, {"y": np.arange(100.0)}), 80).splitlines()
    assert len(lines) == SHOWN_ROWS + 2
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["column0", "column1", "served.y"]
    assert lines[-1] == "... 80 more rows and 18 more columns"
    assert "\x1b" not in "".join(lines)
