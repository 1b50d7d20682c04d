"""What is said of two sets of rows that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.datasets.compared import changed_requests, changed_rows
from tasks.datasets.rows import Rows, save_rows
from tasks.datasets.seen import Record, write_record

X = np.arange(12, dtype=np.float32)
WORDS = np.array([f"w{number}" for number in range(12)])


def splits(directory: Path, x: Any = X, word: Any = WORDS, target: Any = X, **more: Any) -> dict[str, Path]:
    """Save rows as three splits of equal size."""
    directory.mkdir()
    parts = zip(*(np.split(array, [4, 8]) for array in (x, word, target, *more.values())), strict=True)
    files = {}
    for name, (a, b, c, *rest) in zip(("train", "validation", "test"), parts, strict=True):
        files[name] = directory / f"{name}.npz"
        save_rows(files[name], Rows({"x": a, "word": b, **dict(zip(more, rest, strict=True))}, {"target": c}))
    return files


def changed(array: Any, row: int, value: object) -> Any:
    array = array.copy()
    array[row] = value
    return array


def test_equal_rows_have_no_difference(tmp_path: Path) -> None:
    """Rows that are saved twice are the same."""
    assert changed_rows(splits(tmp_path / "a"), splits(tmp_path / "b")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": changed(X, 1, 50)}, "train row 2 has other values: x was 1.0 and is 50.0"),
        ({"word": changed(WORDS, 11, "new")}, "test row 4 has other values: word was 'w11' and is 'new'"),
        ({"target": changed(X, 5, -1)}, "validation row 2 has other values: target target was 5.0 and is -1.0"),
    ],
)
def test_one_changed_row_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    """The split, the row and the column with both values are named, also of a target."""
    found = changed_rows(splits(tmp_path / "a"), splits(tmp_path / "b", **change))
    assert found == ["1 row is gone, and 1 row is new", words]


LONG = np.array([f"{number:0100}" for number in range(12)])
RAW = np.array([b"r%d" % number for number in range(12)], object)
IMAGE = np.arange(768, dtype=np.float64).reshape(12, 8, 8)


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (WORDS, changed(WORDS.astype("U9"), 2, "w2 "), "more was 'w2' and is 'w2 '"),
        (LONG, changed(LONG, 3, "0" * 99 + "e"), "more was '3' and is 'e' from position 100 on"),
        (RAW, changed(RAW, 3, b"r3\0"), r"more was b'r3' and is b'r3\x00'"),
        (
            WORDS,
            np.array([word.encode() for word in WORDS], object),
            "'more' has the dtype bytes, and had text",
        ),
        (X, changed(X, 0, -0.0), "the column 'more' has equal numbers with other bytes, as -0.0 and 0.0 are"),
        (
            IMAGE,
            changed(IMAGE, (3, 7, slice(6, 8)), 0),
            "more[7, 6] was 254.0 and is 0.0 (and 1 more of its",
        ),
    ],
)
def test_a_difference_can_be_seen(then: Any, now: Any, words: str, tmp_path: Path) -> None:
    """A change of one value, or of how values are stored, has a line that shows it, whatever the column holds."""
    found = changed_rows(splits(tmp_path / "a", more=then), splits(tmp_path / "b", more=now))
    assert words in " ".join(found)


def test_a_changed_row_that_moved_to_another_split(tmp_path: Path) -> None:
    """A row is assigned to a split by what it holds: the changed one is found where it is now."""
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0]
    now = splits(tmp_path / "b", changed(X, 0, 99)[order], WORDS[order], X[order])
    counts, example = changed_rows(splits(tmp_path / "a"), now)
    assert counts == "1 row is gone, and 1 row is new"
    assert example == "train row 1, which is a test row now, has other values: x was 0.0 and is 99.0"


def test_more_rows(tmp_path: Path) -> None:
    """Of several new rows the number is said, and the first one is shown; a row that is there twice counts twice."""
    then = splits(tmp_path / "a", X, WORDS, X)
    twice = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert changed_rows(then, splits(tmp_path / "b", X[twice], WORDS[twice], X[twice])) == [
        "1 row is gone, and 1 row is new",
        "test row 4, which is a train row now, has other values: x was 11.0 and is 0.0; word was 'w11' and is 'w0'; "
        "target target was 11.0 and is 0.0",
    ]
    counts, gone, new = changed_rows(then, splits(tmp_path / "c", changed(changed(X, 0, 70), 1, 71)))
    assert counts == "2 rows are gone, and 2 rows are new"
    assert gone == "the first gone row is train row 1: x 0.0, word 'w0', target target 0.0"
    assert new == "the first new row is train row 1: x 70.0, word 'w0', target target 0.0"


def test_another_order(tmp_path: Path) -> None:
    """The same rows in another order give another digest, and this is said."""
    order = np.arange(12)[::-1]
    now = splits(tmp_path / "b", X[order], WORDS[order], X[order])
    assert changed_rows(splits(tmp_path / "a"), now) == ["the rows are the same, in another order or in other splits"]


def test_other_columns(tmp_path: Path) -> None:
    """A column that is new, gone, or has another dtype is named, instead of every row."""
    then = splits(tmp_path / "a")
    assert changed_rows(then, splits(tmp_path / "b", y=X)) == ["the column 'y' is new"]
    assert changed_rows(then, splits(tmp_path / "c", X.astype(np.float64))) == [
        "the column 'x' has the dtype float64, and had float32"
    ]
    assert changed_rows(splits(tmp_path / "d", y=X), then) == ["the column 'y' is gone"]


def test_what_a_version_knows_of_its_rows(tmp_path: Path) -> None:
    """Without the rows, the fingerprints in the version say how many distinct requests are gone and new."""
    rows = {name: np.arange(10, dtype=np.uint64) for name in ("train", "validation", "test")}
    write_record(tmp_path / "a.npz", Record(rows))
    write_record(tmp_path / "b.npz", Record({**rows, "train": np.arange(1, 12, dtype=np.uint64)}))
    assert changed_requests(tmp_path / "a.npz", tmp_path / "b.npz") == [
        "1 distinct train request is gone, and 2 are new"
    ]
    assert changed_requests(tmp_path / "a.npz", tmp_path / "a.npz") == []
