"""Models of declared features: what the served graph holds, which rows clients send, what a champion is compared with.

The table has every kind, and values that vocabularies and scales could lose: line breaks, empty text, ids of 62 bits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
import yaml
from pyarrow import parquet

from configs.loading import load_config
from configs.schema import Config
from configs.sections.data import Data
from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets import column_files
from tasks.datasets.feature_record import drift, facts_of, read_schema, write_schema
from tasks.datasets.mapped import is_mapped
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_arrays, load_rows
from tasks.errors import TrainingError
from tasks.gates.judge import judge, judge_files
from tasks.records import Backend, Candidate, TrainedModel
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion
from tests.markdown import Page

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
EMBEDDED = Backend("embedded")
CITIES = ["Wien", "Zürich", "two\nlines", "", "[UNK]", "東京"]
IDS = [2**62, 2**62 + 1, -1, 7]
NOTES = ["leave it at the door", "ring twice", "", "second floor"]
NOW = 1_767_225_600  # 2026-01-01T00:00:00Z
FEATURES: dict[str, Any] = {
    "age": {"kind": "number", "missing": -1},
    "amount": {"kind": "number", "dtype": "int64"},
    "city": "category",
    "street": {"kind": "category", "vocabulary": 40},
    "member": "boolean",
    "account": "integer_id",
    "seen": {"kind": "date", "unit": "seconds"},
    "born": {"kind": "date", "missing": "1900-01-01"},
    "note": "text",
}
ROW: dict[str, Any] = {
    "age": 41, "amount": 2**40 + 3, "city": "Wien", "street": "street 1", "member": True, "account": 2**62,
    "seen": NOW + 5, "born": 3000, "note": "Ring, twice!",
}  # fmt: skip


def table(rows: int = 240) -> Any:
    """Return a table with every kind; the target depends on all of them."""
    draw = np.random.default_rng(3)
    n = np.arange(rows)
    city, account = draw.integers(0, len(CITIES), rows), draw.integers(0, len(IDS), rows)
    age = draw.integers(18, 90, rows).astype(float)
    score = city + account + (n % 2) + age / 30 + (n % 50) / 25
    return pa.table({
        "age": pa.array(np.where(n % 11, age, np.nan)),
        "amount": 2**40 + n,
        "city": [CITIES[k] for k in city],
        "street": [f"street {k % 50}" for k in n],
        "member": pa.array(n % 2 == 0),
        "account": [IDS[k] for k in account],
        "seen": pa.array(NOW + n, pa.timestamp("s", "UTC")),
        "born": pa.array([None if k % 7 == 0 else k + 3000 for k in n], pa.int32()).cast(pa.date32()),
        "note": [NOTES[k % len(NOTES)] for k in n],
        "risk": [("low", "medium", "high")[int(k > 4) + int(k > 7)] for k in score],
        "price": score * 1e6 + 5e6,
        "late": score > 5,
    })  # fmt: skip


def configured(directory: Path, features: dict[str, Any], target: Any, *overrides: str) -> Config:
    """Return a configuration for the table in a directory of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table(), directory / "rows.parquet")
    section = {"file": "rows.parquet", "features": features, "target": target}
    section["ignore"] = sorted({"risk", "price", "late"} - {str(target if isinstance(target, str) else target["name"])})
    (directory / "cfg.yaml").write_text(yaml.safe_dump({"name": "m", "data": section}, allow_unicode=True))
    return load_config(directory / "cfg.yaml", ["training.epochs=2", *overrides])


def trained(config: Config, run_dir: Path) -> tuple[Any, TrainedModel]:
    """Return the splits and the trained model of a configuration."""
    from tasks.training.fit import fit_model

    splits = prepare_splits(config.data, run_dir / "data")
    return splits, fit_model(config, splits, run_dir / "model.keras")


def exported(config: Config, version: int = 2) -> Candidate:
    """Train and export a configuration."""
    from tasks.savedmodel.exporter import export_savedmodel

    run_dir, version_dir = config.work_dir / "runs" / "r", config.work_dir / "candidates" / "m" / str(version)
    splits, model = trained(config, run_dir)
    version_dir.mkdir(parents=True)
    found = export_savedmodel(config, splits, model, version_dir, run_dir)
    files = run_dir / "requests.npz", run_dir / "reference.npz", splits.test
    return Candidate("m", version, version_dir, found.digest, found.signature, found.size_bytes, *files)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """Return an export of the default model with three classes and every kind of feature."""
    return exported(configured(tmp_path_factory.mktemp("classes"), FEATURES, {"name": "risk", "kind": "category"}))


@pytest.fixture(scope="module")
def ask(classes: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Return a function that posts rows, `ROW` with other values, to a server; it returns the answers or the status."""
    log = tmp_path_factory.mktemp("served") / "server.log"
    with throwaway_server(EMBEDDED, Serving(), classes, log) as (server, _):

        def asking(*changes: dict[str, Any]) -> Any:
            body = json.dumps({"instances": [ROW | change for change in changes]})
            found = requests.post(f"{server.rest_url}/v1/models/{server.served_name}:predict", body, timeout=60)
            return np.array(found.json()["predictions"]) if found.ok else found.status_code

        yield asking


def test_the_served_inputs(classes: Candidate) -> None:
    """Every kind is a scalar of its dtype under its own name, and the answer is a probability for each class."""
    assert {spec.name: (spec.dtype, spec.shape) for spec in classes.signature.inputs} == {
        "age": ("float32", (None,)), "amount": ("int64", (None,)), "city": ("string", (None,)),
        "street": ("string", (None,)), "member": ("bool", (None,)), "account": ("int64", (None,)),
        "seen": ("int64", (None,)), "born": ("int64", (None,)), "note": ("string", (None,)),
    }  # fmt: skip
    [output] = classes.signature.outputs
    assert (output.name, output.dtype, output.shape) == ("probabilities", "float32", (None, 3))


def test_natural_rows_are_answered(classes: Candidate, ask: Callable[..., Any]) -> None:
    """Rows of JSON with numbers, text, booleans and dates as numbers get the answers of the model in process."""
    sent, expected = load_arrays(classes.requests), load_arrays(classes.reference)["probabilities"]
    rows = [{name: array[n].item() if hasattr(array[n], "item") else str(array[n]) for name, array in sent.items()}
            for n in range(len(expected))]  # fmt: skip
    np.testing.assert_allclose(ask(*rows), expected, atol=1e-6)
    assert len(np.unique(expected.round(4), axis=0)) > len(expected) / 2


@pytest.mark.parametrize("feature", ["city", "street", "account", "note"])
def test_the_vocabulary_is_served(ask: Callable[..., Any], feature: str) -> None:
    """Known values have answers of their own, all unknown values share one, whatever characters they consist of."""
    known: dict[str, list[Any]] = {
        "city": [name for name in CITIES if name != "[UNK]"], "street": ["street 2", "street 3"],
        "account": IDS, "note": ["door", "ring", "floor"],
    }  # fmt: skip
    unknown: dict[str, list[Any]] = {
        "city": ["Paris", "wien", "Wien ", "two", "lines", "[UNK]"], "street": ["x", "street"],
        "account": [0, 2**62 + 2, -(2**63)], "note": ["never seen", "unheard-of"],
    }  # fmt: skip
    answers = ask(*({feature: value} for value in known[feature])).round(7)
    others = ask(*({feature: value} for value in unknown[feature])).round(7)
    assert len(np.unique(answers, axis=0)) == len(answers)
    if feature == "note":  # several unknown words are one
        others = others[1:]
    assert len(np.unique(others, axis=0)) == 1
    assert not (answers == others[0]).all(axis=1).any()


@pytest.mark.parametrize(
    ("feature", "one", "other"),
    [("seen", NOW + 5, NOW + 6), ("amount", 2**40 + 3, 2**40 + 4), ("born", 3001, 3002), ("member", True, False),
     ("age", 30, -1), ("born", 3001, -25_567)],
)  # fmt: skip
def test_numbers_keep_their_digits(ask: Callable[..., Any], feature: str, one: Any, other: Any) -> None:
    """One second of today, one unit at 2^40 and a stand-in make a difference, which float32 scales would lose."""
    first, second = ask({feature: one}, {feature: other})
    assert (first != second).any()


@pytest.mark.parametrize(
    "change", [{"age": None}, {"member": 1}, {"city": 3}, {"account": "7"}, {"account": 1.5}, {"seen": "2026-01-01"}]
)
def test_rows_of_other_types_are_refused(ask: Callable[..., Any], change: dict[str, Any]) -> None:
    """The JSON of the server has no null, and takes no number for a boolean or a text, and no text for a number."""
    assert ask(change) == 400


def test_the_safety_gate_takes_the_graph(classes: Candidate) -> None:
    """Lookup tables, text operations and scales reach nothing outside of the graph."""
    [safety] = [gate for gate in judge_files(Gates(), read_graph(classes.version_dir), None) if gate.name == "safety"]
    assert safety.passed, safety.summary


def test_the_record_of_the_features(classes: Candidate) -> None:
    """Kinds, units, stand-ins as they are sent, vocabularies and ranges of the training rows are in the version."""
    found = read_schema(classes.version_dir)
    assert found is not None
    assert (found.target, found.classes) == ("risk", ("high", "low", "medium"))
    assert found.features["seen"].unit == "seconds"
    assert (found.features["born"].unit, found.features["born"].missing) == ("days", -25_567)
    assert set(found.features["city"].values) == set(CITIES)
    assert (found.features["age"].missing, found.features["age"].low) == (-1, 18)


def test_only_training_rows_are_learned(tmp_path: Path) -> None:
    """A value that only validation or test rows have is unknown to the model, and does not change a scale."""
    from tasks.training.fit import build_model

    config = configured(tmp_path, {"street": "category", "age": {"kind": "number", "missing": -1}}, "risk")
    splits = prepare_splits(config.data, tmp_path / "data")
    rows = load_rows(splits.train)
    some = rows.take(np.flatnonzero(np.isin(rows.features["street"].astype(object), ["street 1", "street 2"])))
    model = build_model(config, some, splits.classes)
    assert model.get_layer("encode_street").get_vocabulary() == [
        "[UNK]",
        *sorted(set(some.features["street"].tolist())),
    ]
    known = some.features["age"][some.features["age"] >= 0]
    assert np.asarray(model.get_layer("encode_age")(np.array([[known.mean()]]))).item() == pytest.approx(0)


def test_a_stream_of_a_file_is_learned_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales and vocabularies of rows on the disk are those of rows in memory to the last bit; the model is trained."""
    from tasks.training import preprocessing
    from tasks.training.fit import build_model, fit_model

    monkeypatch.setattr(column_files, "BATCH_ROWS", 32)
    monkeypatch.setattr(preprocessing, "BLOCK_ROWS", 50)
    config = configured(tmp_path, FEATURES, {"name": "price", "kind": "number"})
    streamed = load_config(tmp_path / "cfg.yaml", ["training.epochs=2", "data.stream_mb=0"])
    held_splits, splits = (
        prepare_splits(one.data, tmp_path / name) for one, name in ((config, "held"), (streamed, "streamed"))
    )
    assert splits.digest == held_splits.digest
    rows = load_rows(splits.train)
    assert all(map(is_mapped, rows.features.values()))
    ours, theirs = (build_model(config, one, ()) for one in (rows, load_rows(held_splits.train)))
    for name in ("answer", *(f"encode_{name}" for name in FEATURES)):
        layer, other = ours.get_layer(name), theirs.get_layer(name)
        assert layer.get_config() == other.get_config()
        assert not hasattr(layer, "get_vocabulary") or layer.get_vocabulary() == other.get_vocabulary()
    found = fit_model(streamed, splits, tmp_path / "model.keras")
    assert found.history["loss"][1] < found.history["loss"][0]
    write_schema(tmp_path, streamed, rows)
    schema = read_schema(tmp_path)
    assert schema is not None
    assert schema.features == {
        name: facts_of(feature, load_rows(held_splits.train).features[name])
        for name, feature in config.data.features.items()
    }


@pytest.mark.parametrize("missing", [None, -1])
@pytest.mark.parametrize(("mean", "deviation"), [(3e-9, 4e-10), (0, 1e30), (1.764e9, 0.5), (0.1, 0)])
def test_numbers_of_every_size_are_scaled(tmp_path: Path, mean: float, deviation: float, missing: int | None) -> None:
    """The model gets mean 0 and deviation 1 whatever the unit of a column is, and the mean for a missing value."""
    import keras

    from tasks.training.preprocessing import DeclaredFeatures, preprocess

    array = mean + deviation * np.array([-1.0, 1.0, -1.0, 1.0])
    feature = {"kind": "number", "dtype": "float64", "missing": missing}
    section = {"file": "rows.csv", "target": "y", "features": {"a": feature}}
    sent = array if missing is None else np.append(array, float(missing))
    inputs, encoded = preprocess(
        DeclaredFeatures({"a": sent}, Data.model_validate(section), {"y": np.array([0, 1])}, (0, 1))
    )
    keras.Model(inputs, encoded).save(tmp_path / "m.keras")
    found = np.asarray(keras.saving.load_model(tmp_path / "m.keras")({"a": sent[:, None]}))
    expected = np.array([-1, 1, -1, 1] if deviation else [0] * 4)
    if missing is None:
        np.testing.assert_allclose(found, expected[:, None], atol=1e-4)
    else:
        np.testing.assert_allclose(found, [*([0, value] for value in expected), [1, 0]], atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_a_target_is_learned_in_every_unit(tmp_path: Path, unit: float) -> None:
    """The unit of the target does not change what is learned, because the loss is relative to its deviation."""
    import keras

    from tasks.training.default_model import build
    from tasks.training.preprocessing import DeclaredFeatures

    a = np.linspace(-1, 1, 64, dtype=np.float32)
    target = (unit * (3 + a)).astype(np.float32)
    data = Data.model_validate({"file": "rows.csv", "target": "y", "features": {"a": "number"}})
    model = build(DeclaredFeatures({"a": a}, data, {"y": target}, ()), hidden=[], learning_rate=0.05)
    model.fit({"a": a[:, None]}, target, epochs=60, batch_size=16, verbose=0)
    model.save(tmp_path / "m.keras")
    answers = np.asarray(keras.saving.load_model(tmp_path / "m.keras")({"a": a[:, None]})["prediction"])
    np.testing.assert_allclose(answers[:, 0] / unit, 3 + a, atol=0.05)


def test_the_same_seed_gives_the_same_model(classes: Candidate, tmp_path: Path) -> None:
    """A second training on the same rows gives exactly the same answers, with tables, embeddings and words."""
    again = exported(configured(tmp_path, FEATURES, {"name": "risk", "kind": "category"}))
    first, second = (load_arrays(one.reference)["probabilities"] for one in (classes, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.long
@pytest.mark.parametrize(
    ("target", "output", "task"), [("price", "prediction", "regression"), ("late", "probability", "binary")]
)
def test_other_targets(tmp_path: Path, target: str, output: str, task: str) -> None:
    """A number is predicted in its own unit, and a boolean as the probability that it is true."""
    config = configured(tmp_path, {"age": {"kind": "number", "missing": -1}, "city": "category"}, target)
    splits, model = trained(config, tmp_path / "run")
    assert model.readings[output].task == task
    assert splits.classes == (() if target == "price" else (False, True))
    import keras

    loaded = keras.saving.load_model(model.keras_file)
    rows = load_rows(splits.test)
    import tensorflow as tf

    fed = {name: tf.constant(array.astype(object) if name == "city" else array)[:, None]
           for name, array in sorted(rows.features.items())}  # fmt: skip
    found = np.asarray(loaded(fed)[output])
    low, high = (5e6, 15e6) if target == "price" else (0, 1)
    assert low < found.min() < found.max() < high


DOCUMENTED = Path(__file__).parents[2] / "docs" / "declared-features.md"
ALONE = """
def alone(features):
    from tasks.training.preprocessing import preprocess

    return preprocess(dict(features))
"""


def test_a_model_of_your_own(tmp_path: Path) -> None:
    """The documented model.build gets the features with what is declared, and `preprocess` makes its inputs."""
    [documented] = [block.text for block in Page(DOCUMENTED).blocks if "def build(" in block.text]
    (tmp_path / "own_declared.py").write_text(documented + ALONE)
    own = ["model.build=own_declared:build", "model.params={units: 3}"]
    features = {"city": "category", "member": "boolean"}
    _, model = trained(configured(tmp_path, features, "risk", *own), tmp_path / "run")
    assert model.readings["delivery"].task == "multiclass"
    with pytest.raises(TrainingError, match="preprocess takes the features that model.build gets with data.file"):
        trained(configured(tmp_path, features, "risk", "model.build=own_declared:alone"), tmp_path / "run2")


@pytest.mark.parametrize(
    ("params", "words"), [("{hidden: [8, 0]}", "hidden must be whole numbers"), ("{dropout: 1}", "dropout must be")]
)
def test_parameters_of_the_default_model(tmp_path: Path, params: str, words: str) -> None:
    """Values out of range are one line before the training."""
    with pytest.raises(TrainingError, match=words):
        trained(configured(tmp_path, {"street": "category"}, "risk", f"model.params={params}"), tmp_path / "run")


@pytest.mark.long
def test_another_unit_breaks_the_champions_clients(classes: Candidate, tmp_path: Path) -> None:
    """Days in place of seconds have the same dtype; the contract gate refuses them, and the report names the drift."""
    changed = {**FEATURES, "account": {"kind": "number", "dtype": "int64"}, "born": {"kind": "date", "unit": "seconds"}}
    changed["born"]["missing"] = "1900-01-01"
    candidate = exported(configured(tmp_path, changed, {"name": "risk", "kind": "category"}, "training.epochs=1"))
    shutil.copytree(classes.version_dir, tmp_path / "models" / "m" / "1")
    champion = find_champion(tmp_path / "models" / "m")
    gates = Gates.model_validate({"use": ["contract"]})
    served = rehearse(Rehearsal(Serving(), candidate, EMBEDDED, tmp_path / "server", gates, champion))
    [contract] = [gate for gate in judge(gates, candidate, served) if gate.name == "contract"]
    assert not contract.passed
    assert "the unit of input 'born' changed from days to seconds since 1970-01-01 UTC" in contract.summary
    assert "the kind of input 'account' changed from integer_id to number" in contract.summary
    [allowed] = judge(gates.model_copy(update={"allow_breaking": True}), candidate, served)
    assert allowed.passed
    assert drift(read_schema(candidate.version_dir), read_schema(classes.version_dir))[0] in contract.summary


def test_features_with_the_names_of_layers(tmp_path: Path) -> None:
    """A column may have any name, also one that a layer of the model would have."""
    columns = ["encode_city", "flat_city", "answer", "hidden_1", "features", "equal", "cast", "dense", "missing_a", "a"]
    features = {name: {"kind": "number", "column": "amount", "dtype": "int64", "missing": 0} for name in columns}
    config = configured(tmp_path, {**features, "city": "category"}, "price")
    _, model = trained(config, tmp_path / "run")
    assert model.readings["prediction"].task == "regression"
