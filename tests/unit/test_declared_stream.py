"""Files of declared columns that are read in blocks: the values, splits and refusals of the same files in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from configs.loading import ConfigError
from configs.sections.data import Data
from tasks.datasets import column_files
from tasks.datasets.declared_rows import is_streamed, read_declared, stream_declared
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_rows
from tasks.datasets.stream import Limit
from tasks.errors import WrongFile
from tests.unit.test_declared_rows import csv_file, data

FLOAT32_ROUNDS = 2**24 + 1


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read two rows at a time."""
    monkeypatch.setattr(column_files, "BATCH_ROWS", 2)


def in_blocks(section: Data) -> tuple[dict[str, Any], Any]:
    """Return the rows of all blocks, and the classes, in the form of `read_declared`."""
    batches, classes = stream_declared(section)
    parts = list(batches)
    features = {name: np.concatenate([np.asarray(part[name]) for part, _ in parts]) for name in parts[0][0]}
    return features, (np.concatenate([target for _, target in parts]), classes)


def said(read: Any, section: Data) -> str:
    """Return what a reader refuses, without the numbers that count the rows of a block or of a file."""
    with pytest.raises(WrongFile) as caught:
        read(section)
    return re.sub(
        r"( and in [0-9,]+ more rows| in [0-9,]+ of [0-9,]+ rows, first in rows? [0-9, ]+)", "", str(caught.value)
    )


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        ("number", ["1", "2", "3", "0.5", "7"]),
        ("number", ["1", "2", str(FLOAT32_ROUNDS), "5", "0.5"]),
        ("number", ["0.5", "2", str(FLOAT32_ROUNDS), "5", "1"]),
        ({"kind": "number", "missing": -0.5}, ["1", "2", str(FLOAT32_ROUNDS), "5", ""]),
        ({"kind": "number", "dtype": "int64", "missing": -1}, ["1", "", str(2**53 + 1), "5", ""]),
        ({"kind": "number", "dtype": "float64"}, ["1", "2.5", str(2**53), "5"]),
        ("category", ["007", " x", "NA", "x" * 70, "007"]),
        ({"kind": "category", "missing": ""}, ["", "", "x"]),
        ("boolean", ["true", "No", "1", "0", "YES"]),
        ("integer_id", [str(2**63 - 1), "-1", "7"]),
        ({"kind": "date", "missing": "2026-01-31"}, ["", "", "1970-01-02"]),
        ("text", ["a b", "c", "d"]),
        ({"kind": "number", "dtype": "float64", "missing": 0.5}, ["1", "2", str(2**53 + 2), "5", ""]),
    ],
)
def test_values_are_those_of_the_whole_column(tmp_path: Path, feature: Any, cells: list[str]) -> None:
    """Every kind gives the same array, whatever the values of a block alone would have been taken for."""
    csv_file(tmp_path, "\n".join(["a,y", *(f"{cell},{n}" for n, cell in enumerate(cells))]) + "\n")
    section = data(tmp_path, {"a": feature})
    (features, target), classes = read_declared(section)
    streamed, (streamed_target, streamed_classes) = in_blocks(section)
    assert streamed["a"].dtype == features["a"].dtype
    assert streamed["a"].tolist() == features["a"].tolist()
    assert (streamed_target.tolist(), streamed_classes) == (target.tolist(), classes)


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        ("number", ["1", "2", "x y", "2"]),
        ("number", ["1", "2", "3", "4", str(FLOAT32_ROUNDS), "2"]),
        ("number", ["1", "2", "3", "4", "5", "1e39"]),
        ("number", ["1200000000.5", "1200000000.5", "1200000001.5", "1200000001.5"]),
        ({"kind": "number", "dtype": "int64"}, ["1", "2", "3", "1.5"]),
        ("number", ["1", "2", "", "3"]),
        ("boolean", ["1", "0", "2"]),
        ("integer_id", ["1", "2", "3", "A7"]),
        ("date", ["2026-01-31", "2026-01-31", "2026-01-31T10:00:00"]),
    ],
)
def test_refusals_are_those_of_the_whole_column(tmp_path: Path, feature: Any, cells: list[str]) -> None:
    """The same file, column, row, value and advice are in the message; only counts of rows are those of a block."""
    csv_file(tmp_path, "\n".join(["a,y", *(f"{cell},{n}" for n, cell in enumerate(cells))]) + "\n")
    section = data(tmp_path, {"a": feature})
    assert said(in_blocks, section) == said(read_declared, section)


def test_whole_numbers_beyond_float64_are_refused_among_fractions(tmp_path: Path) -> None:
    """A whole number that float64 would change is refused even if the fractions of its column are in other blocks."""
    for feature, others in (("number", ["1", "0.5"]), ({"kind": "number", "missing": 0.5}, ["1", ""])):
        cells = ["3", str(2**53 + 1), *others]
        csv_file(tmp_path, "\n".join(["a,y", *(f"{cell},{n}" for n, cell in enumerate(cells))]) + "\n")
        for read in (read_declared, in_blocks):
            with pytest.raises(WrongFile, match=rf"column 'a' must .*{2**53 + 1}'? in row 1"):
                read(data(tmp_path, {"a": feature}))


@pytest.mark.parametrize("other", ["float", "uint64"])
@pytest.mark.parametrize("field", ["group", "time"])
def test_numbers_of_any_dtype_decide_the_splits(tmp_path: Path, other: str, field: str) -> None:
    """A column that decides the splits may have another dtype of numbers in another file, as in memory."""
    numbers = np.arange(60, dtype=np.int64)
    others = numbers.astype(float) if other == "float" else numbers.astype(np.uint64) + 2**63
    for name, values in (("a.parquet", numbers), ("b.parquet", others)):
        parquet.write_table(pa.table({"a": np.arange(60), "g": values, "y": np.arange(60)}), tmp_path / name)
    limits = {"validation_from": 20, "test_from": 40} if field == "time" else {}
    section = data(tmp_path, {"a": "number"}, file=["a.parquet", "b.parquet"], **{field: "g"}, **limits)
    held = prepare_splits(section, tmp_path / "held")
    streamed = prepare_splits(section.model_copy(update={"stream_mb": 0}), tmp_path / "streamed")
    assert (streamed.rows, streamed.digest) == (held.rows, held.digest)


def test_a_time_that_is_no_number_is_named_by_its_row(tmp_path: Path) -> None:
    """The row is counted from the beginning of its file, whether the file is read at once or in blocks."""
    csv_file(tmp_path, "a,t,y\n1,1,1\n2,2,2\n3,3,3\n4,x,4\n")
    section = data(tmp_path, {"a": "number"}, time="t", validation_from=2, test_from=3)
    for read in (read_declared, in_blocks):
        with pytest.raises(WrongFile, match=r"column 't' must have numbers.* got 'x' in row 3;"):
            read(section)


@pytest.mark.parametrize("change", ["replace", "append", "remove"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    """Rows never get the targets of a file that was there before them."""
    csv_file(tmp_path, "a,y\n" + "1,1\n" * 9)
    batches, _ = stream_declared(data(tmp_path, {"a": "number"}))
    next(batches)
    if change == "remove":
        (tmp_path / "rows.csv").unlink()
    elif change == "append":
        csv_file(tmp_path, "a,y\n" + "1,1\n" * 10)
    else:
        csv_file(tmp_path, "a,y\n" + "2,2\n" * 9, "new.csv")
        (tmp_path / "new.csv").replace(tmp_path / "rows.csv")
    with pytest.raises(WrongFile, match="must not change while it is read"):
        list(batches)


def test_a_missing_value_is_named_by_its_row(tmp_path: Path) -> None:
    """The number of a row is counted from the beginning of its file."""
    csv_file(tmp_path, "a,y\n1,1\n2,1\n3,1\n,1\n")
    with pytest.raises(WrongFile, match=r"got none in 1 of 2 rows, first in row 3;"):
        in_blocks(data(tmp_path, {"a": "number"}))
    csv_file(tmp_path, "a,y,g\n1,1,1\n2,1,1\n3,1,\n")
    with pytest.raises(WrongFile, match=r"column 'g' must have a value in every row, got none in .* row 2;"):
        in_blocks(data(tmp_path, {"a": "number"}, group="g"))


def test_files_without_rows(tmp_path: Path) -> None:
    """Files that have only a header are refused."""
    csv_file(tmp_path, "a,y\n")
    with pytest.raises(WrongFile, match="must have rows"):
        list(stream_declared(data(tmp_path, {"a": "number"}))[0])


TABLE: Mapping[str, Any] = {
    "city": [f"city {n % 7}" for n in range(90)],
    "age": [None if n % 9 == 0 else n / 4 for n in range(90)],
    "id": [2**62 + n % 11 for n in range(90)],
    "day": [f"2026-01-{1 + n % 28:02d}" for n in range(90)],
    "part": [("train", "validation", "test")[n % 3] for n in range(90)],
    "y": [f"class {n % 4}" for n in range(90)],
}
FEATURES = {"city": "category", "age": {"kind": "number", "missing": -1}, "id": "integer_id"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"key": "day"},
        {"time": "day", "validation_from": "2026-01-10", "test_from": "2026-01-20"},
        {"split": "part"},
    ],
)
def test_splits_are_those_of_the_files_in_memory(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Several files of both forms have the same splits, digest, classes and shares when they are read in blocks."""
    table = pa.table(TABLE)
    parquet.write_table(table[:50], tmp_path / "a.parquet", row_group_size=7)
    pa.csv.write_csv(table[50:], tmp_path / "b.csv")
    section = data(
        tmp_path, FEATURES, file=["a.parquet", "b.csv"], target={"name": "y"},
        ignore=sorted({"day", "part"} - set(map(str, settings.values()))), **settings,
    )  # fmt: skip
    held = prepare_splits(section, tmp_path / "held")
    streamed = prepare_splits(section.model_copy(update={"stream_mb": 0}), tmp_path / "streamed")
    assert (held.streamed, streamed.streamed) == (False, True)
    same = {name: getattr(held, name) for name in ("train", "validation", "test", "groups", "streamed")}
    assert replace(streamed, **same) == held
    assert held.classes == ("class 0", "class 1", "class 2", "class 3")
    for split in ("train", "validation", "test"):
        ours, theirs = load_rows(getattr(streamed, split)), load_rows(getattr(held, split))
        for name, array in theirs.features.items():
            assert ours.features[name].tolist() == array.tolist()
    assert not list((tmp_path / "streamed").glob(".*"))


def test_unknown_values_are_refused(tmp_path: Path) -> None:
    """`unknown: error` is the same error for rows that are read in blocks."""
    rows = ["a,part,y", *(f"{value},{part},{n}" for n, (value, part) in enumerate(
        [("x", "train"), ("x", "train"), ("x", "validation"), ("new", "test")]))]  # fmt: skip
    csv_file(tmp_path, "\n".join(rows) + "\n")
    section = data(tmp_path, {"a": {"kind": "category", "unknown": "error"}}, split="part")
    words = "declares unknown: error, but the training rows lack the values of 1 of 2 validation and test rows: 'new'"
    for stream_mb in (256, 0):
        with pytest.raises(WrongFile, match=words):
            prepare_splits(section.model_copy(update={"stream_mb": stream_mb}), tmp_path / str(stream_mb))


def test_a_look_reads_the_first_rows(tmp_path: Path) -> None:
    """A look at a large file knows all classes, reads few other columns, and concludes nothing about other rows."""
    rows = [
        "a,b,y",
        *(f"{n % 2},z,first" for n in range(50)),
        *(f"{n % 2},z,second" for n in range(50)),
        "wrong,z,first",
    ]
    csv_file(tmp_path, "\n".join(rows) + "\n")
    section = data(tmp_path, {"a": "number", "b": "category"}, target={"name": "y"}, stream_mb=0)
    found = prepare_splits(section, tmp_path / "look", Limit(rows=10))
    assert (found.is_partial, found.classes, sum(found.rows.values())) == (True, ("first", "second"), 10)
    with pytest.raises(WrongFile, match="got 'wrong' in row 100"):
        prepare_splits(section, tmp_path / "run")


def test_when_files_are_streamed(tmp_path: Path) -> None:
    """The size of all files together decides, for Parquet the size before the compression."""
    table = pa.table({"a": np.random.default_rng(1).permutation(200_000), "y": np.zeros(200_000)})
    parquet.write_table(table, tmp_path / "rows.parquet", compression="zstd")
    section = data(tmp_path, {"a": "number"}, file="rows.parquet", target="y")
    assert not is_streamed(section)
    assert is_streamed(section.model_copy(update={"stream_mb": 1}))
    assert not is_streamed(Data(load="a:b"))
    with pytest.raises(ConfigError, match="stream_mb has no effect without file"):
        data(tmp_path, {}, file=(), target="", load="configs.digits:load", stream_mb=1)


@pytest.mark.parametrize("groups", [1, 15])
def test_a_row_group_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Reading 48 MB of Parquet allocates at most half of that at a time, in one row group or in many."""
    monkeypatch.undo()
    rows, rng = 1_500_000, np.random.default_rng(1)
    table = pa.table({f"x{n}": rng.random(rows) for n in range(4)})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=rows // groups)
    del table
    before, found, most = pa.total_allocated_bytes(), 0, 0
    for batch in column_files.batches(tmp_path / "rows.parquet", ["x0", "x1", "x2", "x3"]):
        found += len(batch)
        most = max(most, pa.total_allocated_bytes() - before)
    assert found == rows
    assert most < 24_000_000
