"""Files of declared columns: what each kind takes, and one line for everything that does not fit."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from configs.errors import ConfigError
from configs.loading import load_config
from configs.redaction import remember
from configs.sections.data import Data
from tasks.datasets.declared_rows import check_files, named_shares, read_declared
from tasks.datasets.given import GivenRows, prepare_given
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_rows
from tasks.errors import DataError, WrongFile

ISO_DAY = 20_484  # 2026-01-31 in days since 1970-01-01


def data(directory: Path, features: dict[str, Any], **fields: Any) -> Data:
    """Return the section `data` as a configuration in a directory gives it."""
    import yaml

    section = {"file": "rows.csv", "target": {"name": "y", "kind": "number"}, "features": features}
    section |= fields.pop("section", {}) | fields
    (directory / "cfg.yaml").write_text(yaml.safe_dump({"name": "m", "data": section}), encoding="utf-8")
    return load_config(directory / "cfg.yaml").data


def csv_file(directory: Path, text: str, name: str = "rows.csv") -> None:
    """Write a CSV file."""
    (directory / name).write_text(text, encoding="utf-8")


def column(directory: Path, feature: Any, *cells: str) -> list[Any]:
    """Return what a column `a` of a CSV file becomes."""
    csv_file(directory, "\n".join(["a,y", *(f"{cell},1" for cell in cells)]) + "\n")
    (features, _), _ = read_declared(data(directory, {"a": feature}))
    return [str(features["a"].dtype), *features["a"].tolist()]


@pytest.mark.parametrize(
    ("feature", "cells", "expected"),
    [
        ("number", ["1", " 2.5 ", "-3e2", "+.5"], ["float32", 1.0, 2.5, -300.0, 0.5]),
        ({"kind": "number", "dtype": "int64"}, ["9007199254740993", "-1"], ["int64", 2**53 + 1, -1]),
        ({"kind": "number", "missing": -1}, ["", '""', "7"], ["float32", -1.0, -1.0, 7.0]),
        ("category", ["007", " x", "NA", '"a\nb"', "東京", '"a,""b"""'],
         ["StringDType()", "007", " x", "NA", "a\nb", "東京", 'a,"b"']),
        ({"kind": "category", "missing": ""}, ["", "x"], ["StringDType()", "", "x"]),
        ("boolean", ["true", "No", "1", "0", "YES"], ["bool", True, False, True, False, True]),
        ({"kind": "boolean", "missing": True}, ["", "false"], ["bool", True, False]),
        ("integer_id", ["9223372036854775807", "-1", "007"], ["int64", 2**63 - 1, -1, 7]),
        ("date", ["2026-01-31", "1969-12-31", "20260131", "20484"], ["int64", ISO_DAY, -1, ISO_DAY, ISO_DAY]),
        ({"kind": "date", "unit": "seconds"}, ["1970-01-01T00:00:05", "1970-01-01T01:00:00.9+01:00"], ["int64", 5, 0]),
        ({"kind": "date", "missing": "2026-01-31"}, ["", "1970-01-02"], ["int64", ISO_DAY, 1]),
        ("text", ["Good day", "x"], ["StringDType()", "Good day", "x"]),
    ],
)  # fmt: skip
def test_values_of_csv(tmp_path: Path, feature: Any, cells: list[str], expected: list[Any]) -> None:
    """Each kind reads the text of a cell exactly, and a stand-in replaces an empty one, quoted or not."""
    assert column(tmp_path, feature, *cells) == expected


@pytest.mark.parametrize(
    ("feature", "cells", "words"),
    [
        ("number", ["1", "x y", "2"], "its kind is number, got 'x y' in row 1"),
        ("number", ["1", "nan", "inf"], "got 'nan' in row 1 and in 1 more rows"),
        ("number", ["1_000"], "got '1_000' in row 0"),
        ("number", ["1", "0x1F"], "got '0x1F' in row 1"),
        ("integer_id", ["1", "0X1f"], "got '0X1f' in row 1"),
        ("number", ["16777217"], "use another dtype for this input (int64"),
        ("number", ["12345678901234567890123"], "has more digits than float64 holds"),
        ({"kind": "number", "missing": -1}, ["", "x"], "got 'x' in row 1"),
        ({"kind": "number", "dtype": "int64"}, ["1.5"], "must fit int64"),
        ("number", ["1", "", ""], "got none in 2 of 3 rows, first in rows 1, 2; declare the value that stands for"),
        ("boolean", ["2"], "must have true or false, because its kind is boolean, got '2' in row 0"),
        ("integer_id", ["A7"], "declare it as category if it has letters or leading zeros"),
        ("integer_id", ["9223372036854775808"], "whole numbers of at most 64 bits"),
        ("integer_id", ["1.5"], "got '1.5' in row 0"),
        ("date", ["31.01.2026"], "must have dates in ISO 8601"),
        ("date", ["2026-01-31T10:00:00"], "set unit: seconds"),
        ("date", ["2026-02-30"], "got '2026-02-30' in row 0"),
        ("number", ["1200000000.5", "1200000001.5"], "float32 can tell apart, and it would round them by up to 1.5,"),
        ({"kind": "number", "missing": -1}, ["", "1200000000.5", "1200000001.5"], "set dtype: float64"),
        ({"kind": "number", "dtype": "float64"}, ["1e18", "1.0000000000000001e18"], "float64 can tell apart after"),
        ({"kind": "number", "dtype": "int64"}, ["4611686018427387904", "4611686018427387907"], "ignore the column"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, feature: Any, cells: list[str], words: str) -> None:
    """The file, the column, the first row, the value and what to do are in one line; the exit code is 2."""
    with pytest.raises(WrongFile) as caught:
        column(tmp_path, feature, *cells)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"'{tmp_path}/rows.csv': column 'a' must ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        ("number", ["1200000000.5", "-1200000000.5"]),
        ("number", ["0.1", "0.1"]),
        ("number", ["0.3", "0.30000000000000004"]),
        ({"kind": "number", "dtype": "float64"}, ["1200000000.5", "1200000001.5"]),
        ({"kind": "number", "dtype": "float64"}, ["1e18", "1e18"]),
        ({"kind": "number", "dtype": "int64"}, ["1700000000000000000", "1700003600000000000"]),
    ],
)
def test_numbers_that_may_be_rounded(tmp_path: Path, feature: Any, cells: list[str]) -> None:
    """A column whose rows differ by more than their dtype rounds, or by nothing, is taken."""
    column(tmp_path, feature, *cells)


def test_secrets_are_hidden(tmp_path: Path) -> None:
    """A value of the file that is a secret of the configuration is not in the message."""
    remember("hunter2hunter2")
    with pytest.raises(WrongFile) as caught:
        column(tmp_path, "number", "hunter2hunter2")
    assert "hunter2" not in str(caught.value)


PARQUET = {
    "number": ("number", pa.array([1, None, 3]), [1.0, -1.0, 3.0]),
    "nan": ("number", pa.array([1.5, float("nan"), 3.0]), [1.5, -1.0, 3.0]),
    "decimal": ("number", pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("3")]), [1.5, -1.0, 3.0]),
    "dictionary": ("category", pa.array(["x", None, "y"]).dictionary_encode(), ["x", "?", "y"]),
    "large_text": ("category", pa.array(["x", None, "y"], pa.large_string()), ["x", "?", "y"]),
    "codes": ("category", pa.array([1, None, 3], pa.int16()), ["1", "?", "3"]),
    "gaps": ("integer_id", pa.array([1.0, None, 3.0]), [1, -7, 3]),
    "unsigned": ("integer_id", pa.array([2**63 - 1, None, 3], pa.uint64()), [2**63 - 1, -7, 3]),
    "date32": ("date", pa.array([dt.date(1970, 1, 3), None, dt.date(2026, 1, 31)]), [2, 0, ISO_DAY]),
    "timestamp": ("date", pa.array([dt.datetime(1970, 1, 3), None, dt.datetime(2026, 1, 31)]), [2, 0, ISO_DAY]),
    "flag": ("boolean", pa.array([True, None, False]), [True, False, False]),
}
STAND_INS = {"number": -1, "category": "?", "integer_id": -7, "date": "1970-01-01", "boolean": False}


def test_types_of_parquet(tmp_path: Path) -> None:
    """Dictionaries, decimals, timestamps, masks and integers of any width give the same values as text would."""
    table = pa.table({name: array for name, (_, array, _) in PARQUET.items()} | {"y": [1.0, 2.0, 3.0]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    features = {name: {"kind": kind, "missing": STAND_INS[kind]} for name, (kind, _, _) in PARQUET.items()}
    (found, target), classes = read_declared(data(tmp_path, features, file="rows.parquet"))
    assert {name: array.tolist() for name, array in found.items()} == {n: want for n, (_, _, want) in PARQUET.items()}
    assert (target.tolist(), classes) == ([1, 2, 3], ())


@pytest.mark.parametrize(
    ("kind", "array", "words"),
    [
        ("number", pa.array([[1], [2]]), "got list<"),
        ("category", pa.array([{"b": 1}, {"b": 2}]), "write one column for each part"),
        ("text", pa.array([b"x", b"y"]), "must have numbers, text, booleans or dates, got binary"),
        ("number", pa.array([True, False]), "its kind is number, got bool"),
        ("number", pa.array([dt.date(2026, 1, 1)] * 2), "its kind is number, got date32"),
        ("text", pa.array([1, 2]), "its kind is text, got '1' in row 0"),
        ("category", pa.array([1.5, 2.0]), "got '1.5' in row 0"),
        ("integer_id", pa.array([2**63, 1], pa.uint64()), "got '9223372036854775808' in row 0"),
        ("number", pa.array([float("inf"), 1.0]), "got 'inf' in row 0"),
        ("date", pa.array([dt.datetime(2026, 1, 31, 10)] * 2), "set unit: seconds"),
        ("boolean", pa.array([0, 2]), "got '2' in row 1"),
        ("number", pa.array([None, None]), "got none in 2 of 2 rows"),
    ],
)
def test_parquet_that_does_not_fit(tmp_path: Path, kind: str, array: Any, words: str) -> None:
    """Nested columns, bytes and types of another kind are one line, which names the column and its type or value."""
    parquet.write_table(pa.table({"a": array, "y": [1.0, 2.0]}), tmp_path / "rows.parquet")
    with pytest.raises(WrongFile) as caught:
        read_declared(data(tmp_path, {"a": kind}, file="rows.parquet"))
    assert words in str(caught.value)
    assert "column 'a'" in str(caught.value)


@pytest.mark.parametrize(
    ("array", "missing", "expected"),
    [
        (pa.array([255, None], pa.uint8()), -1, [255, -1]),
        (pa.array([1, None], pa.int64()), 0.5, [1, 0.5]),
        (pa.array([None, None], pa.float32()), -1, [-1, -1]),
        (pa.array([1.5, None], pa.float16()), 1000, [1.5, 1000]),
    ],
)
def test_stand_ins_of_another_type(tmp_path: Path, array: Any, missing: float, expected: list[float]) -> None:
    """A stand-in keeps its value, whatever integers or floats the column has."""
    parquet.write_table(pa.table({"a.b": array, "y": [1.0, 2.0]}), tmp_path / "rows.parquet")
    features = {"a": {"kind": "number", "missing": missing, "column": "a.b"}}
    (found, _), _ = read_declared(data(tmp_path, features, file="rows.parquet"))
    assert found["a"].tolist() == expected


def test_large_unsigned_numbers_are_categories(tmp_path: Path) -> None:
    """A hash of 64 bits without a sign, which no integer input holds, is a category."""
    parquet.write_table(pa.table({"a": pa.array([2**64 - 1, 3], pa.uint64()), "y": [1.0, 2.0]}), tmp_path / "r.parquet")
    (found, _), _ = read_declared(data(tmp_path, {"a": "category"}, file="r.parquet"))
    assert found["a"].tolist() == ["18446744073709551615", "3"]


def test_decimals_of_a_database_keep_their_digits(tmp_path: Path) -> None:
    """Ids of 20 digits, which float64 would make equal, are different categories and different groups."""
    ids = pa.array([decimal.Decimal(12345678901234567890 + n) for n in range(2)], pa.decimal128(38, 0))
    parquet.write_table(pa.table({"a": ids, "b": ids, "y": [1.0, 2.0]}), tmp_path / "r.parquet")
    (found, _), _ = read_declared(data(tmp_path, {"a": "category"}, file="r.parquet", group="b"))
    assert found["a"].tolist() == found["b"] == ["12345678901234567890", "12345678901234567891"]


def test_times_with_a_zone(tmp_path: Path) -> None:
    """A timestamp with a zone counts from 1970-01-01 UTC, whatever its zone and its precision are."""
    moment = dt.datetime(2026, 1, 31, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    for unit in ("s", "ms", "us", "ns"):
        times = pa.array([moment, moment], pa.timestamp(unit, "Europe/Vienna"))
        parquet.write_table(pa.table({"a": times, "y": [1.0, 2.0]}), tmp_path / "rows.parquet")
        (features, _), _ = read_declared(
            data(tmp_path, {"a": {"kind": "date", "unit": "seconds"}}, file="rows.parquet")
        )
        assert features["a"].tolist() == [int(moment.timestamp())] * 2


def test_several_files(tmp_path: Path) -> None:
    """A glob and a list are read in the order of their names, once each, whatever form each file has."""
    csv_file(tmp_path, "a,y\n1,10\n", "part-1.csv")
    csv_file(tmp_path, "y,a,new\n20,2,x\n", "part-2.csv")
    (tmp_path / "part-3.csv.gz").write_bytes(gzip.compress("\ufeffa,y\n3,30\n".encode()))
    parquet.write_table(pa.table({"a": pa.array([4], pa.int8()), "y": [40]}), tmp_path / "part-4.parquet")
    section = data(tmp_path, {"a": "number"}, file=["part-*.csv", "part-1.csv", "*.csv.gz", "part-4.parquet"])
    (features, target), _ = read_declared(section)
    assert (features["a"].tolist(), target.tolist()) == ([1, 2, 3, 4], [10, 20, 30, 40])


def test_a_directory_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """Only what the configuration writes is a pattern, not the directory that it lies in; a file's own name wins."""
    directory = tmp_path / "[x]*"
    directory.mkdir()
    csv_file(directory, "a,y\n1,1\n", "rows[1].csv")
    (features, _), _ = read_declared(data(directory, {"a": "number"}, file="rows[1].csv"))
    assert features["a"].tolist() == [1]
    assert len(check_files(data(directory, {"a": "number"}, file="*.csv"))) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,y,a\n1,1,1\n", "has two 'a'; rename one"),
        ("b,y\n1,1\n", "has no 'a'"),
        ("colour,y\n1,1\n", "has no 'a'"),
        ("a;y\n1;1\n", "its cells must be separated by commas, not ';'"),
        ("", "has no 'a', 'y'"),
        ("a,y\n", "must have rows, and there are none"),
        ("a,y\n1,1,1\n", "must name a readable file of rows"),
        ("a,y\n1,\n2,2\n", "column 'y' must have a value in every row, got none in 1 of 2 rows, first in row 0"),
        ("a,y\n1,x\n", "column 'y' must have finite numbers"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    """Lost and repeated columns, other separators, no rows and a target with gaps are one line each."""
    csv_file(tmp_path, content)
    with pytest.raises(WrongFile) as caught:
        read_declared(data(tmp_path, {"a": "number"}))
    assert words in str(caught.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is refused."""
    (tmp_path / "rows.csv").write_bytes("a,y\nK\xf6ln,1\n".encode("latin-1"))
    with pytest.raises(WrongFile, match="must name a readable file of rows"):
        read_declared(data(tmp_path, {"a": "category"}))


def test_a_renamed_column(tmp_path: Path) -> None:
    """A lost column is named with the most similar one; `column` gives the feature the column's new name."""
    csv_file(tmp_path, "Wohn Ort,y\nx,1\n")
    with pytest.raises(WrongFile, match="has no 'Wohnort': did you mean 'Wohn Ort'"):
        check_files(data(tmp_path, {"Wohnort": "category"}))
    (features, _), _ = read_declared(data(tmp_path, {"wohnort": {"kind": "category", "column": "Wohn Ort"}}))
    assert features["wohnort"].tolist() == ["x"]


def test_new_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A column that is not declared is not used and is named in a warning, unless `ignore` names it."""
    csv_file(tmp_path, "a,y,new,id\n1,1,2,3\n")
    with caplog.at_level(logging.WARNING):
        read_declared(data(tmp_path, {"a": "number"}, ignore="id"))
    assert "neither declared nor ignored, and they are not used: 'new'; declare them" in caplog.text
    caplog.clear()
    read_declared(data(tmp_path, {"a": "number"}, ignore=["id", "new", "no longer there"]))
    assert not caplog.text


def test_nothing_matches(tmp_path: Path) -> None:
    """A pattern without a match, a directory and a broken file are one line."""
    (tmp_path / "directory.csv").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip")
    unreadable = dict.fromkeys(["broken.parquet", "broken.csv.gz"], "readable file of rows")
    for name, words in {"*.a.csv": "nothing matches", "directory.csv": "must name regular files", **unreadable}.items():
        with pytest.raises(WrongFile, match=words):
            check_files(data(tmp_path, {"a": "number"}, file=name))


@pytest.mark.parametrize(
    ("target", "cells", "numbers", "classes"),
    [
        ("y", ["b", "a", "b"], [1, 0, 1], ("a", "b")),
        ("y", ["10", "9", "10"], [1, 0, 1], (9, 10)),
        ("y", ["1.5", "2", "3"], [1.5, 2, 3], ()),
        ("y", [str(number) for number in range(30)], list(range(30)), ()),
        ({"name": "y", "kind": "boolean"}, ["yes", "no", "yes"], [1, 0, 1], (False, True)),
        ({"name": "y", "kind": "category", "classes": ["b", "a", "c"]}, ["b", "a", "b"], [0, 1, 0], ("b", "a", "c")),
        ({"name": "y", "kind": "category"}, ["007", "01", "007"], [0, 1, 0], ("007", "01")),
        ({"name": "y", "kind": "number"}, ["20000001", "90000003"], [20_000_000, 90_000_000], ()),
    ],
)
def test_targets(
    tmp_path: Path, target: Any, cells: list[str], numbers: list[Any], classes: tuple[Any, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Classes are positions in a recorded order; what a bare name means follows from the values, and is logged."""
    csv_file(tmp_path, "\n".join(["a,y", *(f"1,{cell}" for cell in cells)]))
    with caplog.at_level(logging.INFO):
        (_, found), names = read_declared(data(tmp_path, {"a": "number"}, target=target))
    assert (found.tolist(), names) == (numbers, classes)
    assert ("is read as" in caplog.text) == (target == "y")


@pytest.mark.parametrize(
    ("target", "cells", "words"),
    [
        ({"name": "y", "kind": "category", "classes": ["on time", "late"]}, ["late", "Late"], "got 'Late' in 1 rows"),
        ({"name": "y", "kind": "category"}, ["a", "a"], "must have 2 to 1,000 classes, got 1"),
        ({"name": "y", "kind": "category"}, [str(n) for n in range(1001)], "got 1,001; set kind: number"),
        ({"name": "y", "kind": "number"}, ["1200000038", "1200000001"], "write the difference from a constant"),
        ({"name": "y", "kind": "number"}, ["1.2e9", "1200000001.5"], "would round them by up to 1.5, while their"),
        ({"name": "y", "kind": "number"}, ["1e39", "1"], "must fit float32, in which the model answers, got 1e+39"),
    ],
)
def test_targets_that_cannot_be_used(tmp_path: Path, target: Any, cells: list[str], words: str) -> None:
    """Classes that are not declared, a single class, a thousand of them and numbers that float32 lacks are refused."""
    csv_file(tmp_path, "\n".join(["a,y", *(f"1,{cell}" for cell in cells)]))
    with pytest.raises(WrongFile) as caught:
        read_declared(data(tmp_path, {"a": "number"}, target=target))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"load": "my_model:load"}, "load and file are two sources of rows"),
        ({"features": {}}, "file needs features and target"),
        ({"target": {}}, "file needs features and target"),
        ({"file": "rows.xlsx"}, "file must name files of .parquet, .csv, .csv.gz, got 'rows.xlsx'"),
        ({"file": []}, "features describes the columns of data.file"),
        ({"params": {"a": 1}}, "params are the arguments of load"),
        ({"features": {"y": "number"}}, "the feature 'y' must not be the target"),
        ({"features": {"a": "number"}, "key": "a"}, "give the feature another name and set column: a"),
        ({"features": {"a": "number"}, "ignore": "a"}, "ignore must not contain 'a', which is used"),
        ({"features": {"a": "numbr"}}, "data.features.a"),
        ({"features": {"km/h": "number"}}, "give it another name and set column: km/h"),
        ({"features": {"a": {"kind": "number", "unit": "seconds"}}}, "unit applies to date only, not to number"),
        ({"features": {"a": {"kind": "text", "unknown": "error"}}}, "unknown applies to category and integer_id only"),
        (
            {"features": {"a": {"kind": "category", "missing": 3}}},
            "missing must be text, in quotes if it looks like another value, for the kind category",
        ),
        ({"features": {"a": {"kind": "number", "missing": True}}}, "missing must be a number for the kind number"),
        ({"features": {"a": {"kind": "number", "missing": 1e39}}}, "missing must be a number that float32 holds"),
        ({"features": {"a": {"kind": "number", "missing": 2**24 + 1}}}, "got 16777217; set dtype: float64"),
        ({"features": {"a": {"kind": "date", "missing": "soon"}}}, "missing must be a date in ISO 8601"),
        ({"features": {"a": {"kind": "integer_id", "missing": 2**63}}}, "missing must be a whole number"),
        ({"target": {"name": "y", "classes": ["a", "b"]}}, "classes can be set for the kind category only"),
        (
            {"target": {"name": "y", "kind": "category", "classes": ["a", "a"]}},
            "classes must name at least two classes",
        ),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    """What contradicts itself is found before any file is opened."""
    with pytest.raises(ConfigError) as caught:
        data(tmp_path, {"a": "number"}, section=fields)
    assert words in str(caught.value)


ROWS = "\n".join(
    ["customer,city,age,day,part,y"]
    + [f"c{n % 40},city{n % 5},{n % 60},2026-01-{n % 28 + 1:02},{('train', 'validation', 'test')[n % 3]},{n % 2}"
       for n in range(240)]
)  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"group": "customer"}, {"key": ["customer", "day"]}, {"split": "part"},
        {"time": "day", "validation_from": "2026-01-10", "test_from": "2026-01-20"},
    ],
)  # fmt: skip
def test_splits_by_columns_that_are_not_features(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Columns that decide the splits are read from the file and are not among the features."""
    csv_file(tmp_path, ROWS)
    section = data(tmp_path, {"age": "number", "city": "category"}, target="y", **fields)
    splits = prepare_splits(section, tmp_path / "out")
    assert sum(splits.rows.values()) == 240
    assert set(load_rows(splits.train).features) == {"age", "city"}
    assert splits.classes == (0, 1)
    assert set(splits.shares["target"]) == {"0", "1"}
    assert splits.source == str(tmp_path / "rows.csv")


def test_a_split_column_with_gaps(tmp_path: Path) -> None:
    """A row without a customer, or without a time, is refused with its number."""
    csv_file(tmp_path, "a,customer,y\n1,x,1\n2,,2\n")
    with pytest.raises(WrongFile, match="column 'customer' must have a value in every row, got none in 1 of 2 rows"):
        read_declared(data(tmp_path, {"a": "number"}, group="customer"))


def test_a_column_that_is_both(tmp_path: Path) -> None:
    """A date can split the rows and be a feature under another name."""
    csv_file(tmp_path, ROWS)
    features = {"shipped": {"kind": "date", "column": "day"}}
    bounds = {"time": "day", "validation_from": "2026-01-10", "test_from": "2026-01-20"}
    splits = prepare_splits(data(tmp_path, features, target="y", **bounds), tmp_path / "out")
    assert load_rows(splits.train).features["shipped"].max() == ISO_DAY - 22  # 2026-01-09


def test_unknown_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Values that the training rows lack are counted and named, or refused where the feature says so."""
    lines = [f"c{n % 3},{('train', 'validation', 'test')[n % 3]},{n % 2}" for n in range(60)]
    csv_file(tmp_path, "\n".join(["city,part,y", *lines]))
    with caplog.at_level(logging.INFO):
        prepare_splits(data(tmp_path, {"city": "category"}, target="y", split="part"), tmp_path / "a")
    assert (
        "'city' has 2 values that the training rows lack, in 40 of 40 validation and test rows: 'c1', 'c2'"
        in caplog.text
    )
    with pytest.raises(WrongFile, match="declares unknown: error, but the training rows lack the values of 40 of 40"):
        refusing = {"city": {"kind": "category", "unknown": "error"}}
        prepare_splits(data(tmp_path, refusing, target="y", split="part"), tmp_path / "b")


@pytest.mark.parametrize("kind", ["boolean", "category", "number"])
def test_training_rows_with_one_answer(tmp_path: Path, kind: str) -> None:
    """A target that is the same in all training rows is refused, because every metric of such a model would be good."""
    lines = [f"{n},{('train', 'validation', 'test')[n % 3]},{int(n % 3 == 0)}" for n in range(60)]
    csv_file(tmp_path, "\n".join(["a,part,y", *lines]))
    section = data(tmp_path, {"a": "number"}, target={"name": "y", "kind": kind}, split="part")
    with pytest.raises(WrongFile, match="at least 2 different values in the training rows, got only '(1|True|1.0)'"):
        prepare_splits(section, tmp_path / "out")


def test_classes_without_training_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class that no training row has cannot be learned, which a warning says."""
    lines = [f"{n},{('train', 'validation', 'test')[n % 3]},{'c' if n == 2 else 'ab'[n % 2]}" for n in range(60)]
    csv_file(tmp_path, "\n".join(["a,part,y", *lines]))
    prepare_splits(data(tmp_path, {"a": "number"}, target="y", split="part"), tmp_path / "out")
    assert "the model cannot learn 1 of the 3 classes, because no training row has them: 'c'" in caplog.text


def test_the_index_of_pandas_is_no_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`DataFrame.to_csv` writes an index as a first column without a name, which is not a column that is not used."""
    csv_file(tmp_path, ",a,y\n0,5,1\n1,6,2\n")
    (features, _), _ = read_declared(data(tmp_path, {"a": "number"}))
    assert features["a"].tolist() == [5, 6]
    assert not caplog.text


def test_given_rows_may_be_alike(tmp_path: Path) -> None:
    """Rows that are judged may differ by less than float32 tells apart, as long as the training rows do not."""
    csv_file(tmp_path, "a,y\n1200000000.5,1200000000.5\n1200000001.5,1200000001.5\n")
    (features, target), _ = read_declared(data(tmp_path, {"a": "number"}), needs_target=False)
    assert (features["a"].tolist(), target.tolist()) == ([1.2e9, 1.2e9], [1.2e9, 1.2e9])


def test_given_rows_are_read_as_declared(tmp_path: Path) -> None:
    """`rehearse --rows` and its training rows take files of the declared columns: stand-ins, dates and classes."""
    csv_file(tmp_path, ROWS)
    csv_file(tmp_path, "city,age,day,y\nnew,,2026-01-31,1\nx,3,1970-01-01,0\n", "given.csv")
    csv_file(tmp_path, "city,age,day\nx,3,1970-01-01\n", "known.csv")
    features = {"city": "category", "age": {"kind": "number", "missing": -1}, "day": "date"}
    target = {"name": "y", "kind": "category", "classes": [0, 1]}
    section = data(tmp_path, features, target=target)
    gates = load_config(tmp_path / "cfg.yaml").gates
    given = GivenRows(str(tmp_path / "given.csv"), "y", str(tmp_path / "known.csv"))
    splits = prepare_given(section, gates, given, tmp_path / "out")
    test = load_rows(splits.test)
    assert {name: array.tolist() for name, array in test.features.items()} == {
        "city": ["new", "x"], "age": [-1, 3], "day": [ISO_DAY, 0],
    }  # fmt: skip
    assert test.targets["target"].tolist() == [1, 0]
    assert load_rows(splits.train).features["day"].tolist() == [0]
    with pytest.raises(DataError, match="--target must be data.target, 'y'"):
        prepare_given(section, gates, GivenRows(str(tmp_path / "given.csv"), "age"), tmp_path / "out2")
    undeclared = data(tmp_path, features, target="y")
    with pytest.raises(DataError, match="the classes of 'y' must be declared if rows are given"):
        prepare_given(undeclared, gates, GivenRows(str(tmp_path / "given.csv")), tmp_path / "out3")


def test_shares_have_the_names_of_the_classes() -> None:
    """The report shows `late` and not 1."""
    shares = {"target": {"0": {"train": 0.25}, "1": {"train": 0.75}}}
    assert named_shares(shares, ("on time", "late")) == {
        "target": {"on time": {"train": 0.25}, "late": {"train": 0.75}}
    }
    assert named_shares(shares, ()) == shares


def test_large_tables_are_read_by_column(tmp_path: Path) -> None:
    """A hundred thousand rows with as many categories and ids keep every value."""
    numbers = np.arange(100_000)
    table = pa.table({"a": [f"näme {n}" for n in numbers], "b": numbers + 2**40, "y": numbers % 2})
    parquet.write_table(table, tmp_path / "rows.parquet")
    section = data(tmp_path, {"a": "category", "b": "integer_id"}, file="rows.parquet", target="y")
    (features, target), classes = read_declared(section)
    assert (features["a"][-1], features["b"][-1], target[-1], classes) == ("näme 99999", 2**40 + 99_999, 1, (0, 1))


def test_a_configuration_that_was_shown_can_be_used(tmp_path: Path) -> None:
    """What `--dry-run` shows is a configuration again: a feature without the fields of other kinds."""
    import yaml

    from configs.loading import shown

    features = {
        "a": "number",
        "b": {"kind": "date", "unit": "seconds", "missing": 0},
        "c": {"kind": "text", "missing": ""},
    }
    data(tmp_path, features)
    found = shown(load_config(tmp_path / "cfg.yaml"))
    assert found["data"]["features"] == {**features, "a": {"kind": "number"}}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(found))
    assert shown(load_config(tmp_path / "again.yaml")) == found
    plain = load_config(Path("configs/digits.yaml"))
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(shown(plain)))
    assert load_config(tmp_path / "plain.yaml").data == plain.data
