"""Which split a row is in follows from the row: not from its place, its neighbours or what it comes in."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import Config
from configs.sections.data import Data
from tasks.datasets import prepare
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.rows import Rows, load_arrays, load_rows
from tasks.datasets.seen import GROUPS, RECORD, read_record, save_record
from tasks.datasets.splitting import split_rows, take_out
from tasks.errors import DataError
from tasks.records import Splits

LOADED: Any = None


def load() -> Any:
    """Return what the test put there."""
    return LOADED


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this very module be found by its name, as a user's module is."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))


def prepared(directory: Path, features: Any, target: Any = None, **data: Any) -> Splits:
    """Run the stage on what a loader returned."""
    global LOADED  # noqa: PLW0603
    n_rows = len(next(iter(features.values()))) if isinstance(features, Mapping) else len(features)
    LOADED = (features, np.zeros(n_rows) if target is None else target)
    return prepare.prepare_splits(Data.model_validate({"load": f"{__name__}:load", **data}), directory)


def dealt(features: Mapping[str, Any], **data: Any) -> list[str]:
    """Return the split of each row."""
    settings_of = Data.model_validate({"load": "m:f", **data})
    arrays = {name: np.asarray(array) for name, array in features.items()}
    rows, columns = take_out(Rows(arrays, {"y": np.zeros(len(next(iter(arrays.values()))))}), settings_of)
    units = fingerprints(columns if settings_of.identity else rows.features, "row")
    index = split_rows(settings_of, columns, units)
    names = np.empty(len(units), object)
    for name, numbers in index.items():
        names[numbers] = name
    return list(names)


TABLE = {"n": np.arange(200), "t": np.array([f"t{n % 50}" for n in range(200)])}


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(["all", "key", "group"]))
def test_rows_stay_where_they_are(data: st.DataObject, way: str) -> None:
    """Whatever rows are taken out, put in, doubled and mixed, every row is in the split that it was in."""
    named = {"all": {}, "key": {"key": "n"}, "group": {"group": ["t"]}}[way]
    before = dealt(TABLE, **named)
    kept = data.draw(st.lists(st.integers(0, 199), max_size=50))
    added = data.draw(st.lists(st.integers(200, 10**9), max_size=50))
    numbers = data.draw(st.permutations([*range(40), *kept, *added]))  # of the first 40 some are in each split
    table = {"t": np.array([f"t{n % 50}" for n in numbers], object), "n": np.array(numbers, np.int64)}
    after = dealt(table, **named)
    assert all(after[place] == before[number] for place, number in enumerate(numbers) if number < 200)


@pytest.mark.parametrize(
    "change",
    [
        lambda n, t: {"t": t, "n": n},
        lambda n, t: {"n": n.astype(np.float64), "t": t.astype(object)},
        lambda n, t: {"n": n.astype(np.int16)[:, None], "t": t.astype("U99")},
        lambda n, t: {"n": n.astype(np.float32), "t": t.astype(np.bytes_)},
        lambda n, t: {"n": n, "t": t.astype(np.dtypes.StringDType())},
    ],
    ids=["order of columns", "float64", "int16", "float32 and bytes", "variable width"],
)
@pytest.mark.parametrize("named", [{}, {"group": ["t"]}], ids=["features", "group"])
def test_another_container_moves_no_row(change: Any, named: dict[str, Any]) -> None:
    """The order and the dtypes of the columns decide nothing."""
    assert dealt(change(TABLE["n"], TABLE["t"]), **named) == dealt(TABLE, **named)


def test_shares_are_those_asked_for() -> None:
    """Of many rows each split has its share, and changing one fraction moves no row between the other two."""
    many = {"n": np.arange(20_000)}
    before, after = dealt(many), dealt(many, test_fraction=0.3)
    assert before.count("test") / 20_000 == pytest.approx(0.2, abs=0.015)
    assert before.count("validation") / 20_000 == pytest.approx(0.2, abs=0.015)
    moves = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
    assert moves == {("train", "test")}
    assert dealt(many, seed=1) != before


def test_equal_rows_share_a_split(tmp_path: Path) -> None:
    """Duplicates do not leak: no different row is in two splits, whatever its target says."""
    found = prepared(tmp_path, {"n": np.arange(3000) % 100, "m": np.arange(3000) % 3}, np.arange(3000))
    parts = [load_rows(path).features for path in (found.train, found.validation, found.test)]
    values = [set(zip(part["n"].tolist(), part["m"].tolist(), strict=True)) for part in parts]
    assert sum(map(len, values)) == len(set.union(*values)) == 300


def test_a_group_is_in_one_split_and_no_feature(tmp_path: Path) -> None:
    """All rows of a customer are on one side, and the model is not told who the customer is."""
    customer = np.array([f"c{n % 60}" for n in range(600)])
    table = pd.DataFrame({"customer": customer, "x": np.arange(600.0)})
    found = prepared(tmp_path, table, pd.Series(customer), group="customer")
    parts = [load_rows(path) for path in (found.train, found.validation, found.test)]
    who = [set(part.targets["target"].tolist()) for part in parts]
    assert sum(map(len, who)) == len(set.union(*who)) == 60
    assert [list(part.features) for part in parts] == [["x"]] * 3
    assert found.features[0].startswith("x: ")


def test_rows_that_groups_share_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where another column decides, equal rows may be on both sides, and that is said."""
    prepared(tmp_path, {"customer": np.arange(600), "x": np.arange(600) % 5}, group=["customer"])
    assert "5 distinct rows are in more than one split" in caplog.text


DAYS = [datetime.date(2026, 1, 1) + datetime.timedelta(days=n) for n in range(90)]
BOUNDARIES = {"validation_from": "2026-02-01", "test_from": "2026-03-01"}


@pytest.mark.parametrize(
    ("column", "boundaries"),
    [
        ([day.isoformat() for day in DAYS], BOUNDARIES),
        ([f"{day:%Y%m%d}" for day in DAYS], BOUNDARIES),
        (np.array(DAYS, "datetime64[D]"), BOUNDARIES),
        (np.array(DAYS, "datetime64[ns]"), {"validation_from": DAYS[31], "test_from": DAYS[59]}),
        (DAYS, BOUNDARIES),
        (pd.to_datetime(pd.Series(DAYS)), BOUNDARIES),
        (pd.to_datetime(pd.Series(DAYS)).dt.tz_localize("Asia/Tokyo"),
         {"validation_from": "2026-01-31T15:00:00Z", "test_from": "2026-02-28T15:00:00+00:00"}),
        ([day.toordinal() for day in DAYS],
         {"validation_from": DAYS[31].toordinal(), "test_from": DAYS[59].toordinal()}),
        (np.arange(90) + 0.5, {"validation_from": 31, "test_from": 59.25}),
    ],
    ids=["iso", "basic iso", "days", "nanoseconds", "dates", "pandas", "zoned", "integers", "floats"],
)  # fmt: skip
@pytest.mark.parametrize("as_table", [True, False], ids=["table", "dict"])
def test_time_splits_at_fixed_boundaries(tmp_path: Path, column: Any, boundaries: Any, as_table: bool) -> None:
    """Earlier rows are trained on, the boundary itself belongs to the later split, and order makes no difference."""
    order = np.random.default_rng(0).permutation(90)
    table = pd.DataFrame({"x": np.arange(90.0), "day": column}).iloc[order]
    features = table if as_table else {name: table[name].to_numpy() for name in table}
    found = prepared(tmp_path, features, time="day", **boundaries)
    expected = {"train": range(31), "validation": range(31, 59), "test": range(59, 90)}
    for name, days in expected.items():
        part = load_rows(getattr(found, name))
        assert sorted(part.features["x"].tolist()) == list(days)
        assert list(part.features) == ["x"]


MOMENTS = [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=n) for n in range(90)]
IN_UTC = {"validation_from": "2026-02-01T00:00Z", "test_from": "2026-03-01T00:00Z"}


@pytest.mark.parametrize(
    ("column", "boundaries"),
    [
        (pa.array(DAYS), BOUNDARIES),
        (pa.chunked_array([DAYS[:40], DAYS[40:]]), BOUNDARIES),
        (pa.array(MOMENTS, pa.timestamp("us", "Asia/Tokyo")), IN_UTC),
        (pd.Series(MOMENTS).astype(pd.ArrowDtype(pa.timestamp("ns", "UTC"))), IN_UTC),
        (pd.Series(DAYS).astype("category"), BOUNDARIES),
        (pd.DataFrame({"day": pd.to_datetime(pd.Series(DAYS))}), BOUNDARIES),
        (np.ma.masked_array(np.array(DAYS, "M8[D]")), BOUNDARIES),
        (np.array(DAYS, object)[:, None], BOUNDARIES),
        (MOMENTS, IN_UTC),
    ],
    ids=["arrow", "chunks", "arrow zoned", "pandas arrow", "categories", "table", "masked", "column", "datetimes"],
)
@pytest.mark.parametrize("as_table", [True, False], ids=["arrow table", "dict"])
def test_times_of_every_library(tmp_path: Path, column: Any, boundaries: Any, as_table: bool) -> None:
    """Whatever a library keeps times in, they are read with the zone that they have."""
    features: Any = {"x": np.arange(90.0), "day": column}
    if as_table and isinstance(column, pa.Array | pa.ChunkedArray):
        features = pa.table(features)
    found = prepared(tmp_path, features, time="day", **boundaries)
    assert found.rows == {"train": 31, "validation": 28, "test": 31}


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([[1, 2], [3]] * 45, "must have the same shape in every row"),
        ([np.zeros(2), np.zeros(3)] * 45, "must have the same shape in every row"),
        ((day for day in DAYS), "got generator"),
        ([None, *DAYS[1:]], "missing values in 1 of 90 rows, first in row 0"),
        (pd.to_datetime(pd.Series(DAYS)).where(np.arange(90) != 7), "missing values in 1 of 90 rows, first in row 7"),
        (pd.to_datetime(pd.Series(DAYS)).where(np.arange(90) != 7).to_numpy(), "in 1 of 90 rows, first in row 7"),
        (pa.array([*DAYS[:89], None]), "missing values in 1 of 90 rows, first in row 89"),
        (np.ma.masked_array(np.array(DAYS, "M8[D]"), mask=np.arange(90) == 3), "masked values in 1 of 90 rows"),
        ([*DAYS[:89], "2026-01-01"], "date, str (row 89: str)"),
        (pa.array(MOMENTS, pa.timestamp("us", "UTC")), "must contain times without a time zone"),
    ],
)
def test_times_that_cannot_be_read(tmp_path: Path, column: Any, words: str) -> None:
    """A column of `data.time` is refused as any other is, in one line with its name."""
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, {"x": np.arange(90.0), "day": column}, time="day", **BOUNDARIES)
    assert words in str(caught.value)
    assert "'day'" in str(caught.value)


def test_the_loaders_own_split(tmp_path: Path) -> None:
    """A column says where each row belongs, as text or bytes."""
    words = np.array(["train", "test", "validation", "train"])
    for column in (words, words.astype(np.bytes_), words.astype(object)):
        found = prepared(tmp_path, {"part": column, "x": np.arange(4.0)}, split="part")
        assert [load_rows(p).features["x"].tolist() for p in (found.train, found.validation, found.test)] == [
            [0, 3], [2], [1],
        ]  # fmt: skip


X = np.arange(40.0)
DAY = ["2026-01-01"] * 39
IN_TIME = {"time": "d", **BOUNDARIES}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"x": X}, {"key": "id"}, "data.key must name columns of the features, got 'id'; the columns are 'x'"),
    ({"x": X}, {"group": ["x"]}, "must return features besides 'x'"),
    ({"x": X, "p": ["train"] * 39 + ["dev"]}, {"split": "p"}, "must contain train, validation, test only, got 'dev'"),
    ({"x": X, "p": ["train", "test"] * 20}, {"split": "p"}, "validation would have none: the column 'p' must"),
    ({"x": X, "p": X}, {"split": "p"}, "data.split 'p' must contain"),
    ({"x": X, "p": [["train", "test"]] * 40}, {"split": "p"}, "one value for each row, but 'p' has the shape (40, 2)"),
    ({"x": X, "d": X}, IN_TIME, "contains numbers and data.test_from is a time"),
    ({"x": X, "d": [*DAY, ""]}, {"time": "d", "validation_from": 1, "test_from": 2}, "data.test_from is a number"),
    ({"x": X, "d": [*DAY, "soon"]}, IN_TIME, "must contain numbers or ISO 8601, got 'soon'"),
    ({"x": X, "d": np.array([*DAY, "NaT"], "M8[D]")}, IN_TIME, "missing values in 1 of 40 rows, first in row 39"),
    ({"x": X, "d": ["2026-01-01T00:00Z"] * 40}, IN_TIME, "must contain times without a time zone"),
    ({"x": X, "d": [*DAY, *DAY[:1]]}, IN_TIME, "test would have none: move data.validation_from (2026-02-01)"),
    ({"x": X % 2}, {}, "40 rows have 2 distinct rows, and a split with the fraction 0.2 needs about 21;"),
    ({"x": X, "c": X * 0}, {"group": "c"}, "40 rows have 1 distinct values of 'c', and "),
    ({"x": X}, {"test_fraction": 0.001}, "a split with the fraction 0.001 needs about 4,603;"),
]


@pytest.mark.parametrize(("features", "data", "words"), WRONG, ids=range(len(WRONG)))
def test_columns_that_cannot_decide(tmp_path: Path, features: Any, data: Any, words: str) -> None:
    """One line names the field, the column, what it holds and what to do, or how many rows a split takes."""
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, features, **data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_as_many_rows_as_advised_are_enough() -> None:
    """With as many rows as the advice names, hardly a seed leaves a split empty."""
    empty = 0
    for seed in range(200):
        try:
            dealt({"n": np.arange(21)}, seed=seed)
        except DataError:
            empty += 1
    assert empty <= 8  # 1 in 100 for each of the two small splits


def test_label_shares(tmp_path: Path) -> None:
    """The shares of each label in each split are those of the rows: of classes, of texts, of columns of 0 and 1."""
    x, kind = np.arange(1000.0), np.where(np.arange(1000) % 4 == 0, "rare", "common")
    one_hot = np.stack([kind == "rare", kind == "common"], axis=1).astype(np.float32)
    found = prepared(tmp_path, {"x": x}, {"kind": kind, "hot": one_hot, "size": x * 1.5})
    assert set(found.shares) == {"kind", "hot"}  # a number of many values has no labels
    for split in ("train", "validation", "test"):
        targets = load_rows(getattr(found, split)).targets
        share = float((targets["kind"] == "rare").mean())
        assert found.shares["kind"]["rare"][split] == pytest.approx(share)
        assert found.shares["hot"]["column 0"][split] == pytest.approx(share)
        assert sum(found.shares["kind"][label][split] for label in ("rare", "common")) == pytest.approx(1)


def test_groups_reach_the_record(tmp_path: Path) -> None:
    """What a version keeps of a grouped run are the customers of each split, by another key than the split's own."""
    customer = np.array([f"c{n % 60}" for n in range(600)])
    found = prepared(tmp_path, {"customer": customer, "x": np.arange(600.0)}, group="customer")
    config = Config.model_validate({
        "name": "m", "data": {"load": "m:f", "group": "customer"}, "model": {"build": "m:f"},
    })  # fmt: skip
    save_record(config, found, lambda features: features, tmp_path / "1", tmp_path / "run")
    record = read_record(tmp_path / "1" / RECORD)
    assert record.columns == ("customer",)
    assert len(np.unique(np.concatenate(list(record.groups.values())))) == sum(map(len, record.groups.values())) == 60
    assert sum(map(len, record.rows.values())) == 600
    assert found.groups is not None
    assert not np.isin(record.groups["train"], load_arrays(found.groups)["train"]).any()
    assert len(load_arrays(tmp_path / "run" / GROUPS)["test"]) == found.rows["test"]
