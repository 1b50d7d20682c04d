"""Files of rows as people have them: read as they are, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tasks.datasets.row_files import LARGEST, problem_of, read_table
from tasks.datasets.rows import check_rows
from tasks.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("r.csv", "a,b\n1,x\n2,NA\n", {"a": [1, 2], "b": ["x", "NA"]}),
        ("r.csv", "\ufeffa\n9007199254740993\n", {"a": [9007199254740993]}),
        ("r.csv", "a\n0.1\n1e23\n", {"a": [0.1, 1e23]}),
        ("r.json", '\ufeff[{"a": 9007199254740993}]', {"a": [9007199254740993]}),
        ("r.json", '{"a": "x\u2028y"}\n\n{"a": "z"}\n', {"a": ["x\u2028y", "z"]}),
    ],
)  # fmt: skip
def test_values_are_as_written(tmp_path: Path, name: str, content: str, columns: dict[str, list[object]]) -> None:
    """Large integers, texts that pandas takes for gaps, and lines within a text stay what they are."""
    table = read_table(write(tmp_path / name, content))[0]
    assert {column: list(table[column]) for column in table} == columns


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("id,x.1,x.0\n7,1,0\n8,3,2\n", {"id": [7, 8], "x": [[0, 1], [2, 3]]}),
        ("x.0,x.1\n9007199254740993,1\n2,3\n", {"x": [[9007199254740993, 1], [2, 3]]}),
        ("x.0,x.1\n1,0.5\n", {"x": [[1, 0.5]]}),
        ("x.0,x.1\na,b\n", {"x": [["a", "b"]]}),
        ("x.0\n1\n", {"x": [[1]]}),
        ("x.0,x.2\n1,2\n", {"x.0": [1], "x.2": [2]}),
        ("x.0,x\n1,2\n", {"x.0": [1], "x": [2]}),
        ("x.00,x.1,.0,x.y\n1,2,3,4\n", {"x.00": [1], "x.1": [2], ".0": [3], "x.y": [4]}),
    ],
)
def test_vectors_in_csv(tmp_path: Path, content: str, columns: dict[str, list[object]]) -> None:
    """Columns that number the elements of NAME from 0 on are one column, in that order; others stay as they are."""
    table = read_table(write(tmp_path / "r.csv", content))[0]
    assert {name: np.array(list(table[name]), object).tolist() for name in table} == columns
    assert list(table) == list(columns)


def test_a_vector_of_several_dtypes_is_not_rounded(tmp_path: Path) -> None:
    """An integer that float64 does not hold is refused beside a fraction, as everywhere."""
    table = read_table(write(tmp_path / "r.csv", "x.0,x.1\n9007199254740993,0.5\n"))[0]
    with pytest.raises(DataError, match="which float64 would change"):
        check_rows((table, None), "r.csv", needs_target=False)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.csv", "", "No columns to parse"),
        ("r.csv", b"a\n\xff\n", "can't decode byte"),
        ("r.csv", "a,b\n1,2,3\n3,4,5\n", "must not have more cells than the header"),
        ("r.csv", "a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("r.csv", "a,a\n1,2\n", "has two 'a'; rename one"),
        ("r.csv", "a,b\n9007199254740993,1\n,2\n", "does not hold 9007199254740993 of 'a'"),
        ("r.csv", 'a\n"x\n', "EOF inside string"),
        ("r.json", "", "must hold rows"),
        ("r.json", "[]", "must hold rows"),
        ("r.json", "[1]", "must hold rows"),
        ("r.json", "{", "Expecting property name enclosed in double quotes in line 1, column 2"),
        ("r.json", '{"a": 1}\n\n{"a": 2\n', "Expecting ',' delimiter in line 3, column 8"),
        ("r.json", '[{"a": 1, "a": 2}]', "a row has two 'a'; rename one"),
        ("r.json", "[{]", "JSONDecodeError"),
        ("r.json", "[" * 100_000, "RecursionError"),
        ("r.json", b"\xff", "can't decode byte"),
        ("r.json", '[{"a": 1}, {"a": 1, "b": 2}]', "'b' is in only one of row 0 and row 1"),
        ("r.npz", "", "BadZipFile"),
        ("r.npz", b"\x93NUMPY", "BadZipFile"),
        ("r.parquet", "PAR1", "Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    """What a library says of it stands in one line with the file's name, and no cell or row is dropped silently."""
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path / name, content))
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_column_has_one_type(tmp_path: Path) -> None:
    """Pandas reads a long file in pieces, and would give each piece its own type."""
    column = ["1"] * 300_000 + ["a"]
    file = write(tmp_path / "r.csv", "\n".join(["x,y", *(f"{cell},{'2' * 8}" for cell in column)]))
    assert set(read_table(file)[0]["x"]) == {"1", "a"}


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    """Pickled objects in an .npz are refused."""
    np.savez(tmp_path / "r.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle=False"):
        read_table(tmp_path / "r.npz")


def test_what_is_no_file_of_rows(tmp_path: Path) -> None:
    """A pipe is not waited for, and a file that no memory holds is not read."""
    os.mkfifo(tmp_path / "pipe.csv")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(LARGEST + 1)
    (tmp_path / "r.csv").mkdir()
    for name, said in {
        "pipe.csv": "must name a file, got",
        "huge.csv": "at most 16 GiB",
        "r.csv": "must name a file, got",
        "none.npz": "must name a file, got",
        "r.xlsx": "a file of .parquet, .csv, .json, .npz",
    }.items():
        problem = problem_of(tmp_path / name, "--rows")
        assert problem.startswith("--rows must name a file")
        assert said in problem
        with pytest.raises(DataError, match="--rows must name a file"):
            read_table(tmp_path / name)
