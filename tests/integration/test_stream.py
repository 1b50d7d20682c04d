"""Rows that come as a stream: the same splits, files and digest as in memory, and a run from end to end."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from configs.sections.data import Data
from configs.sections.gates import Gates
from tasks.datasets import spool
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.given import GivenRows, prepare_given
from tasks.datasets.mapped import is_mapped
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_arrays, load_rows, save_arrays
from tasks.datasets.stream import Limit, parquet_rows
from tasks.datasets.strings import of_any_length
from tasks.errors import DataError
from tasks.records import Splits, TensorSpec
from tests.integration.conftest import Rehearsed

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
ROWS = 500
IN_MEMORY = ("x/city", "x/note")
"""Columns with items that end with NUL, or have more than 64 characters."""


def table() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers of several shapes and dtypes, text, and repeated rows."""
    rng = np.random.default_rng(7)
    day = np.array([f"2026-{1 + n % 12:02d}-{1 + n % 28:02d}" for n in range(ROWS)])
    features = {
        "x": rng.normal(size=(ROWS, 5)).astype(np.float32),
        "n": rng.integers(0, 9, ROWS),
        "flag": rng.random(ROWS) < 0.5,
        "city": rng.choice(np.array(["a", "b", "Köln", "東京\0"], object), ROWS),
        "code": rng.choice([b"a", b"", b"\0b"], ROWS).astype(object),
        "street": rng.choice(["", "Straße", "\0a", "東" * 64], ROWS),
        "note": rng.choice(["", "x" * 65], ROWS),
        "day": day,
        "id": rng.integers(0, 60, ROWS),
        "part": rng.choice(["train", "validation", "test"], ROWS),
    }
    for array in features.values():
        array[400:450] = array[:50]
    return features, {"y": rng.normal(size=ROWS), "label": rng.integers(0, 3, ROWS)}


def batches(size: int, part: Callable[[], tuple[Any, Any]] = table) -> Iterator[tuple[Any, Any]]:
    """Yield the table in batches."""
    features, targets = part()
    for start in range(0, ROWS, size):
        some = slice(start, start + size)
        yield {k: v[some] for k, v in features.items()}, {k: v[some] for k, v in targets.items()}


def in_sevens() -> Callable[[], Iterator[Any]]:
    """Return a generator factory."""
    return lambda: batches(7)


def all_at_once() -> Iterator[Any]:
    """Return a generator of a single batch."""
    return batches(ROWS)


def as_dataset(batched: bool = True) -> Any:
    """Return a tf.data.Dataset of the table."""
    import tensorflow as tf

    features, targets = table()
    features = {k: v.astype(object) if v.dtype.kind in "US" else v for k, v in features.items()}
    data = tf.data.Dataset.from_tensor_slices((features, targets))
    return data.batch(32) if batched else data


def prepared(load: str, directory: Path, **settings: Any) -> Splits:
    return prepare_splits(Data(load=f"tests.integration.test_stream:{load}", **settings), directory)


WAYS = [
    {},
    {"seed": 3, "test_fraction": 0.4},
    {"group": "id"},
    {"key": ("id", "city")},
    {"time": "day", "validation_from": "2026-06-01", "test_from": "2026-09-01"},
    {"split": "part"},
]


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("load", ["in_sevens", "all_at_once"])
def test_a_stream_is_split_as_in_memory(load: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Every array of every split, the groups, the digest and the figures are those of the same rows in memory."""
    streamed, held = (prepared(name, tmp_path / name, **settings) for name in (load, "table"))
    for name in ("train", "validation", "test"):
        ours, theirs = load_arrays(getattr(streamed, name)), load_arrays(getattr(held, name))
        assert list(ours) == list(theirs)
        for key, array in ours.items():
            assert of_any_length(array).dtype == theirs[key].dtype
            assert array.tolist() == theirs[key].tolist()
            assert is_mapped(array) == (key not in IN_MEMORY)
            assert not is_mapped(array) or array.ctypes.data % 64 == 0
    if streamed.groups is not None and held.groups is not None:
        ours, theirs = load_arrays(streamed.groups), load_arrays(held.groups)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    same = {name: getattr(held, name) for name in ("train", "validation", "test", "groups", "source", "streamed")}
    assert replace(streamed, **same) == held
    assert streamed.streamed
    assert not held.streamed
    assert not list((tmp_path / load).glob(".*"))  # what it was collected in is gone


@pytest.mark.parametrize("batched", [True, False])
def test_a_tf_dataset_is_a_stream(batched: bool, tmp_path: Path) -> None:
    """A data set with or without batches has the splits of the same rows in memory; its text arrives as bytes."""
    data = Data(load="tests.integration.test_stream:as_dataset", params={"batched": batched})
    streamed, held = prepare_splits(data, tmp_path / "streamed"), prepared("table", tmp_path / "held")
    assert streamed.rows == held.rows
    ours, theirs = load_rows(streamed.test), load_rows(held.test)
    assert np.array_equal(ours.features["x"], theirs.features["x"])
    assert [city.decode() for city in ours.features["city"]] == theirs.features["city"].tolist()


def of_records(file: str) -> Any:
    """Return the rows of a TFRecord file, whose number is not known."""
    import tensorflow as tf

    spec = {"x": tf.io.FixedLenFeature([5], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}

    def parsed(record: Any) -> Any:
        row = tf.io.parse_single_example(record, spec)
        return {"x": row["x"]}, row["y"]

    return tf.data.TFRecordDataset(file).map(parsed)


def test_tf_records_are_a_stream(tmp_path: Path) -> None:
    """The rows of a TFRecord file have the splits and values of the same rows in memory."""
    import tensorflow as tf

    features, targets = table()
    with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord")) as writer:
        for x, y in zip(features["x"], targets["label"], strict=True):
            floats, ints = tf.train.FloatList(value=x), tf.train.Int64List(value=[y])
            row = {"x": tf.train.Feature(float_list=floats), "y": tf.train.Feature(int64_list=ints)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=row)).SerializeToString())
    data = Data(load="tests.integration.test_stream:of_records", params={"file": str(tmp_path / "rows.tfrecord")})
    streamed, held = prepare_splits(data, tmp_path / "a"), prepared("x_and_label", tmp_path / "b")
    for name in ("train", "validation", "test"):
        ours, theirs = load_rows(getattr(streamed, name)), load_rows(getattr(held, name))
        assert np.array_equal(ours.features["x"], theirs.features["x"])
        assert np.array_equal(ours.targets["target"], theirs.targets["target"])


def x_and_label() -> Any:
    """Return the part of the table that the records have."""
    features, targets = table()
    return {"x": features["x"]}, targets["label"]


def test_parquet_files_are_a_stream(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """Row groups of several files have the splits of the same table in memory."""
    import pandas as pd

    features, targets = table()
    frame = pd.DataFrame({k: v for k, v in features.items() if v.ndim == 1} | {"y": targets["y"]})
    frame[:300].to_parquet(tmp_path / "a.parquet", row_group_size=64)
    frame[300:].to_parquet(tmp_path / "b.parquet")
    (tmp_path / "parquet_loader.py").write_text(
        "import pandas as pd\n"
        "from tasks.datasets.stream import parquet_rows\n"
        f"def stream():\n    return parquet_rows({str(tmp_path / '*.parquet')!r}, 'y', 50)\n"
        f"def table():\n    rows = pd.concat(pd.read_parquet(f'{tmp_path}/{{n}}.parquet') for n in 'ab')\n"
        "    return rows.drop(columns='y'), {'y': rows['y']}\n"
    )
    streamed, held = (
        prepare_splits(
            make_config(f"{tmp_path}/parquet_loader.py:{name}", "tests.data.user_models:table").data, tmp_path / name
        )
        for name in ("stream", "table")
    )
    assert streamed.rows == held.rows
    assert np.array_equal(load_rows(streamed.train).features["n"], load_rows(held.train).features["n"])
    with pytest.raises(FileNotFoundError, match="must name Parquet files, got none"):
        parquet_rows(str(tmp_path / "*.csv"), "y")


def changed() -> Iterator[Any]:
    """Yield a batch with another dtype."""
    yield {"x": np.zeros(5, np.float32)}, np.arange(5)
    yield {"x": np.zeros(5, np.float64)}, np.arange(5)


def renamed() -> Iterator[Any]:
    """Yield a batch with another column."""
    yield {"x": np.zeros(5)}, np.arange(5)
    yield {"z": np.zeros(5)}, np.arange(5)


def failing() -> Iterator[Any]:
    """Fail after a batch."""
    yield {"x": np.zeros(5)}, np.arange(5)
    raise ConnectionError("the database went away")


def gaps() -> Iterator[Any]:
    """Yield a missing value in the second batch."""
    yield {"x": np.zeros(5)}, np.arange(5)
    yield {"x": np.array([0, np.nan])}, np.arange(2)


def nothing() -> Iterator[Any]:
    """Yield no batch."""
    return iter(())


def of_rows() -> Iterator[Any]:
    """Yield no pairs."""
    yield {"x": np.zeros(5)}


def endless() -> Any:
    """Return a data set that repeats."""
    return as_dataset().repeat()


def factory_fails() -> Callable[[], Any]:
    """Return a factory that fails."""
    return lambda: {}["no such key"]


def endless_factory() -> Callable[[], Any]:
    """Return a factory of a data set that repeats."""
    return endless


def python_fails() -> Any:
    """Return a data set whose rows come from a Python function that fails."""
    import tensorflow as tf

    def rows() -> Iterator[Any]:
        yield 1.0, 2.0
        raise ConnectionError("the database went away")

    return tf.data.Dataset.from_generator(rows, output_signature=(tf.TensorSpec(()), tf.TensorSpec(())))


def shapeless() -> Any:
    """Return a data set with a component whose rank is lost in a Python function."""
    import tensorflow as tf

    return as_dataset().map(lambda x, y: (tf.py_function(lambda: 1.0, [], tf.float32), y["label"]))


def windows() -> Any:
    """Return a data set of data sets."""
    return as_dataset(batched=False).window(5)


def mixed_keys() -> Iterator[Any]:
    """Yield customers as numbers and then as text, as pandas reads parts of a CSV file."""
    for features, target in batches(100):
        yield features, target
        yield {**features, "id": features["id"].astype(str)}, target


def few() -> Iterator[Any]:
    """Yield too few rows for three splits."""
    yield {"x": np.zeros(1)}, np.arange(1)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("changed", ["same columns, dtypes and shapes", "batch 2", "float64 () for 'x', and batch 1 has float32 ()"]),
        ("renamed", ["batch 2", "no column"]),
        ("failing", ["must yield batches, got ConnectionError: the database went away", "in batch 2"]),
        ("gaps", ["batch 2': 'x' must be finite"]),
        ("nothing", ["must have rows, got none"]),
        ("of_rows", ["batch 1' must return a tuple (features, target)"]),
        ("endless", ["must return a data set that ends", "remove .repeat()"]),
        ("endless_factory", ["must return a data set that ends", "remove .repeat()"]),
        ("python_fails", ["got UnknownError: ConnectionError: the database went away (test_stream.py:"]),
        ("shapeless", ["components are tensors of a known rank", "tf.ensure_shape"]),
        ("windows", ["components are tensors of a known rank", "flatten windows"]),
        ("factory_fails", ["must return a function that returns batches, got KeyError"]),
        ("few", ["every split must have at least one row"]),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_line(load: str, words: list[str], tmp_path: Path) -> None:
    """What is wrong with a batch is said with its number, and nothing is left of the rows before it."""
    with pytest.raises(DataError) as caught:
        prepared(load, tmp_path / "data")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob("*"))


def test_the_columns_that_split_are_alike_in_every_batch(tmp_path: Path) -> None:
    """A customer who is a number in one batch and text in another could be in two splits, and is refused."""
    with pytest.raises(DataError, match="batch 2' has text .. for 'id', and batch 1 has numbers"):
        prepared("mixed_keys", tmp_path, group="id")


def with_gaps() -> Callable[[], Iterator[Any]]:
    """Return a stream in which some batches have no rows, and a column has no values."""

    def generate() -> Iterator[Any]:
        for features, targets in batches(50):
            some = {**features, "none": np.zeros((50, 0), np.float32)}
            for part in (slice(0, 0), slice(None)):
                yield {k: v[part] for k, v in some.items()}, {k: v[part] for k, v in targets.items()}

    return generate


def test_batches_without_rows_are_left_out(tmp_path: Path) -> None:
    """A filter may leave nothing of a batch, and a column may have no values: the other rows are all there."""
    found = prepared("with_gaps", tmp_path / "gaps")
    assert sum(found.rows.values()) == ROWS
    rows = load_rows(found.test)
    assert rows.features["none"].shape == (found.rows["test"], 0)


@pytest.mark.parametrize("batched", [True, False])
def test_a_function_may_return_a_tf_dataset(batched: bool, tmp_path: Path) -> None:
    """A data set that a function returns is the stream that it is by itself."""
    data = Data(load="tests.integration.test_stream:dataset_factory", params={"batched": batched})
    assert prepare_splits(data, tmp_path / "a").rows == prepared("as_dataset", tmp_path / "b").rows


def dataset_factory(batched: bool) -> Callable[[], Any]:
    """Return a factory of a tf.data.Dataset."""
    return lambda: as_dataset(batched)


def squares() -> Any:
    """Return single rows of 10 numbers and 10 targets, which look like batches of 10 rows."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((np.random.default_rng(1).normal(size=(50, 10)), np.eye(50, 10)))


def test_rows_that_look_like_batches_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A data set whose components all begin with an axis of one fixed size is taken as batched, which is said."""
    with caplog.at_level("INFO"):
        assert sum(prepared("squares", tmp_path).rows.values()) == 500
    assert "is taken as batches of 10 rows" in caplog.text


def test_a_stream_ends_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator without an end is stopped while there is room for others on the disk, and leaves nothing behind."""
    monkeypatch.setattr(spool, "RESERVE_BYTES", 10**18)
    monkeypatch.setattr(spool, "RESERVE_SHARE", 1.0)  # more than is free, on every disk
    ended.clear()
    words = r"must have .* of room to save the rows of a stream after 7 rows of .* got .* free in .*end"
    with pytest.raises(DataError, match=words):
        prepared("no_end", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*"))
    assert ended == ["no_end"]


ended: list[str] = []


def no_end() -> Iterator[Any]:
    """Yield rows until nobody reads them."""
    try:
        while True:
            yield {"x": np.zeros(7), "day": np.full(7, "2026-01-01"), "city": np.full(7, "a")}, np.arange(7)
    finally:
        ended.append("no_end")


def no_rows_and_no_end() -> Iterator[Any]:
    """Yield batches without rows."""
    while True:
        yield {"x": np.zeros(0)}, np.zeros(0)


def closes_badly() -> Iterator[Any]:
    """Ignore that nobody reads any more."""
    while True:
        try:
            yield {"x": np.zeros(7)}, np.arange(7)
        except GeneratorExit:
            yield None


@pytest.mark.parametrize("settings", [{}, WAYS[4]])
def test_a_look_reads_the_first_rows(settings: dict[str, Any], tmp_path: Path) -> None:
    """A look at a stream without an end reads some rows, closes it, and has rows to try a model with in every split."""
    ended.clear()
    data = Data(load="tests.integration.test_stream:no_end", **settings)
    found = prepare_splits(data, tmp_path, Limit(rows=20))
    assert (found.is_partial, dict(found.rows)) == (True, {"train": 7, "validation": 7, "test": 7})
    assert ended == ["no_end"]
    for limit in (Limit(batches=3), Limit(size=200), Limit(seconds=0)):
        assert prepare_splits(data, tmp_path, limit).is_partial


def test_a_look_at_a_small_stream_is_a_run(tmp_path: Path) -> None:
    """A stream that a look reads to its end has the splits of a run."""
    looked, whole = (
        prepare_splits(Data(load="tests.integration.test_stream:in_sevens"), tmp_path, Limit()),
        prepared("in_sevens", tmp_path),
    )
    assert looked == whole
    assert not looked.is_partial


def test_a_look_ends_without_rows(tmp_path: Path) -> None:
    """Batches without rows that never end are an error of a look, which says how many it has read."""
    data = Data(load="tests.integration.test_stream:no_rows_and_no_end")
    with pytest.raises(DataError, match="must have rows, got none in the first 1,000 batches"):
        prepare_splits(data, tmp_path, Limit())


def test_a_generator_that_cannot_be_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong when a generator is closed is said, and does not end a look."""
    data = Data(load="tests.integration.test_stream:closes_badly")
    assert prepare_splits(data, tmp_path, Limit(rows=20)).is_partial
    assert "must allow to be read in part, got RuntimeError: generator ignored GeneratorExit" in caplog.text


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A disk that has no room for the rows of a stream is one line, and nothing of them is left."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match="work_dir must be writable, got .*File too large"):
            prepared("in_sevens", tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "data").rglob("*"))


@pytest.mark.parametrize("settings", [{}, {"split": "part"}])
def test_a_model_that_was_trained_elsewhere_is_judged_on_a_stream(settings: dict[str, Any], tmp_path: Path) -> None:
    """The rows of a stream are those of a loader that returns arrays, in the same splits, and stay on the disk."""
    streamed, held = (
        prepare_given(
            Data(load=f"tests.integration.test_stream:{load}", **settings), Gates(), GivenRows(), tmp_path / load
        )
        for load in ("in_sevens", "table")
    )
    same = {name: getattr(held, name) for name in ("train", "validation", "test", "source", "streamed")}
    assert replace(streamed, **same) == held
    assert streamed.streamed
    assert is_mapped(load_rows(streamed.test).features["x"])
    with pytest.raises(DataError, match="must have rows, got none"):
        prepare_given(Data(load="tests.integration.test_stream:nothing"), Gates(), GivenRows(), tmp_path / "nothing")


def test_rows_of_a_stream_that_a_model_was_trained_on_are_left_out(tmp_path: Path) -> None:
    """Both ways to say what a model was trained on leave the same rows of a stream as of arrays."""
    from tasks.datasets.given import leave_out_trained

    columns = {name: table()[0][name][:100].tolist() for name in ("n", "id")}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    (tmp_path / "trained.json").write_text(json.dumps(rows))
    for settings, trained_on in (({"split": "part"}, ""), ({}, str(tmp_path / "trained.json"))):
        found = []
        for load in ("in_sevens", "table"):
            data = Data(load=f"tests.integration.test_stream:{load}", **settings)
            splits = prepare_given(data, Gates(), GivenRows(trained_on=trained_on), tmp_path / load)
            found.append(leave_out_trained("m", splits, lambda features: {name: features[name] for name in columns}))
        ours, theirs = found
        assert ours.left_out == theirs.left_out
        assert ours.left_out
        assert (ours.digest, dict(ours.rows), ours.streamed) == (theirs.digest, dict(theirs.rows), True)


def line(size: int = 50) -> Callable[[], Iterator[Any]]:
    """Return a stream of x and 2 x + 1."""

    def generate() -> Iterator[Any]:
        for start in range(0, 3000, size):
            x = np.linspace(-1, 1, 3000, dtype=np.float32)[start : start + size]
            yield {"x": x}, 2 * x + 1

    return generate


def test_a_streamed_training_sees_each_row_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch has each row once, in an order of its own that depends on seed and epoch; validation keeps its order."""
    from tasks.training import order

    monkeypatch.setattr(order, "RUN_ROWS", 64)
    numbers = np.arange(1000)
    rows = order.StreamedRows({"x": numbers}, 1000, 0, 200)

    def epoch(number: int) -> list[int]:
        rows.begin(number)
        parts = [batch["x"].numpy() for batch in rows.batches(32)]
        assert [len(part) for part in parts] == [32] * 31 + [8]
        return [int(row) for part in parts for row in part]

    first, second, again = epoch(0), epoch(1), epoch(0)
    assert sorted(first) == sorted(second) == numbers.tolist()
    assert first == again != second
    assert first != sorted(first)
    kept = [int(row) for batch in rows.in_order({"x": numbers}, 1000, 32) for row in batch["x"].numpy()]
    assert kept == numbers.tolist()


@pytest.fixture(scope="module")
def streamed(make_config: Callable[..., Config]) -> Config:
    settings = {"training.epochs": 15, "training.shuffle_rows": 500, "model.params": "{rate: 0.05}"}
    return make_config("tests.integration.test_stream:line", "tests.data.user_models:one_number", **settings)


def test_a_streamed_model_is_trained_and_exported(streamed: Config) -> None:
    """A model is trained from the files, its requests are mapped, and its record of rows is that of a run in memory."""
    from tasks.datasets.seen import RECORD, read_record
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    found: list[Rehearsed | Any] = []
    for held in (False, True):
        config = streamed
        run_dir = config.work_dir / f"run-{held}"
        splits = prepare_splits(config.data, run_dir / "data")
        if held:
            splits = in_memory(splits)
        trained = fit_model(config, splits, run_dir / "model.keras")
        assert trained.history["val_loss"][-1] < 0.01
        exported = export_savedmodel(config, splits, trained, run_dir / "1", run_dir)
        assert is_mapped(load_arrays(run_dir / "requests.npz")["x"]) != held
        found.append((read_record(run_dir / "1" / RECORD), load_arrays(run_dir / "requests.npz"), exported.signature))
    (ours, requests, signature), (theirs, held_requests, held_signature) = found
    assert signature == held_signature
    assert np.array_equal(requests["x"], held_requests["x"])
    assert all(np.array_equal(ours.rows[name], theirs.rows[name]) for name in ours.rows)


def people() -> Iterator[Any]:
    """Yield a table with a column of text."""
    from tests.data.user_models import people as in_memory

    table, target = in_memory()
    for start in range(0, len(table), 25):
        part = table[start : start + 25]
        yield (
            {"age": part["age"].to_numpy(np.float32), "city": part["city"].to_numpy(object)},
            target[start : start + 25],
        )


def test_a_stream_with_text_is_trained(
    make_config: Callable[..., Config], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short text and numbers are trained from the disk; long text is held in memory, which is said."""
    from tasks.training.fit import fit_model

    config = make_config(
        "tests.integration.test_stream:people", "tests.data.user_models:table", **{"training.epochs": 2}
    )
    splits = prepare_splits(config.data, config.work_dir / "data")
    rows = load_rows(splits.train).features
    assert (is_mapped(rows["age"]), is_mapped(rows["city"])) == (True, True)
    short = fit_model(config, splits, config.work_dir / "model.keras").history
    assert len(short["loss"]) == 2
    assert "are in memory" not in caplog.text
    monkeypatch.setattr(spool, "MOST_CHARACTERS", 1)
    splits = prepare_splits(config.data, config.work_dir / "data")
    assert not is_mapped(load_rows(splits.train).features["city"])
    assert fit_model(config, splits, config.work_dir / "model.keras").history == short
    said = [record.getMessage() for record in caplog.records if "are in memory" in record.getMessage()]
    assert {line.split("'")[1] for line in said} == {"city"}


def notes() -> Iterator[Any]:
    """Yield long text and nothing else."""
    for start in range(0, 100, 25):
        cities = [f"city {number}{' ' * 70}" for number in range(start, start + 25)]
        yield {"city": cities}, np.arange(25) % 2


def test_long_text_alone_is_said_to_be_in_memory(
    make_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that has only long text is said to be in memory, too, although none of its features is on the disk."""
    from tasks.training.fit import fit_model

    config = make_config("tests.integration.test_stream:notes", "tests.integration.test_stream:of_text")
    splits = prepare_splits(config.data, config.work_dir / "data")
    fit_model(config, splits, config.work_dir / "model.keras")
    assert "all rows of input 'city' are in memory" in caplog.text


def of_text(features: Any) -> Any:
    """Return a compiled model that takes text."""
    import keras

    city = keras.Input((1,), name="city", dtype="string")
    known = keras.layers.StringLookup(vocabulary=["Wien", "Graz"], output_mode="one_hot")(city)
    model = keras.Model(city, keras.layers.Dense(1, name="y")(known))
    model.compile("sgd", "mse")
    return model


def test_wide_targets_stay_on_the_disk(tmp_path: Path) -> None:
    """Targets that are as wide as the features, as of an autoencoder, are cast for Keras on the disk, as in memory."""
    from tasks.training.fit import _target

    wide = np.random.default_rng(1).normal(size=(30_000, 64))
    save_arrays(tmp_path / "a.npz", {"wide": wide, "large": np.full(3, 1e300)}, mapped=True)
    mapped = load_arrays(tmp_path / "a.npz")
    cast = _target(mapped["wide"], "wide")
    assert is_mapped(cast)
    assert cast.dtype == np.float32
    assert np.array_equal(cast, wide.astype(np.float32))
    with pytest.raises(DataError, match="targets must fit float32"):
        _target(mapped["large"], "large")


def test_numbers_are_converted_on_the_disk(tmp_path: Path) -> None:
    """A mapped column of another dtype is cast as in memory, with the same refusals, and stays on the disk."""
    wide = np.linspace(-1, 1, 3_000_000)
    whole = np.arange(3_000_000.0)
    whole[-2] = 2**24 + 1  # no float32
    save_arrays(tmp_path / "a.npz", {"wide": wide, "whole": whole}, mapped=True)
    mapped = load_arrays(tmp_path / "a.npz")
    spec = TensorSpec("x", "float32", (None, 1))
    cast = fit_to_inputs({"x": mapped["wide"]}, [spec])["x"]
    assert is_mapped(cast)
    assert np.array_equal(cast, fit_to_inputs({"x": wide}, [spec])["x"])
    refusals = []
    for column in (mapped["whole"], whole):
        with pytest.raises(
            DataError, match="'x' has 16777217.0 in row 2999998, which would become 16777216.0"
        ) as caught:
            fit_to_inputs({"x": column}, [spec])
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def in_memory(splits: Splits) -> Splits:
    """Write the rows of a stream as those of a loader that returns arrays."""
    from tasks.datasets.rows import save_rows

    for path in (splits.train, splits.validation, splits.test):
        rows = load_rows(path)
        save_rows(path, rows.take(np.arange(len(rows))))
    return replace(splits, streamed=False)
