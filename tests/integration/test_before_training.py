"""What cannot be served is said before the first epoch, in one line with its remedy: many models in one process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import yaml

from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import check_rows
from tasks.errors import DataError, ExportError, PipelineError, SignatureMismatch, TrainingError
from tasks.records import TrainedModel

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`:UserWarning"),
]
MODELS = "tests.data.unservable_models"
Prepare = Callable[..., TrainedModel]


@pytest.fixture
def fit(make_config: Callable[..., Config], tmp_path: Path) -> Prepare:
    """Return a function that fits a model of `unservable_models`."""
    from tasks.training.fit import fit_model

    def fitting(load: str, build: str, **settings: Any) -> TrainedModel:
        written = {key: json.dumps(value) for key, value in settings.items()}
        config = make_config(f"{MODELS}:{load}", f"{MODELS}:{build}", **written)
        return fit_model(config, prepare_splits(config.data, tmp_path), tmp_path / "m" / "model.keras")

    return fitting


@pytest.fixture
def never_fitted(fit: Prepare, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Return the same, with a training that must not begin."""

    def began(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise AssertionError("the training began")

    monkeypatch.setattr("tasks.training.fit._fit", began)
    return fit


def is_one_line(error: PipelineError) -> bool:
    """Return whether an error is one line without a code that a terminal obeys."""
    return str(error).isprintable()


def test_what_tensorflow_has_for_rows() -> None:
    """Tensors and variables are columns; what is no array of TensorFlow's is refused by its type."""
    import tensorflow as tf

    y, data = np.zeros(2), tf.data.Dataset.from_tensor_slices([1.5, 2.5])
    for column in (tf.constant([1.5, 2.5]), tf.Variable([1.5, 2.5]), [tf.constant(1.5), tf.constant(2.5)]):
        assert check_rows(({"c": column}, y), "m:f").features["c"].tolist() == [1.5, 2.5]
    refused = [(data, "TensorSliceDataset"), (tf.ragged.constant([[1], []]), "ragged")]
    refused += [(tf.sparse.from_dense([1.0, 0]), "sparse"), (tf.constant([1, 2], tf.bfloat16), "dtype bfloat16")]
    for column, words in refused:
        with pytest.raises(DataError, match=f"'c' must .*{words}"):
            check_rows(({"c": column}, y), "m:f")


OUTPUTS = [
    ("scalar", ["'extra' of shape ()", "remove it from"]),
    ("one row", ["'extra' of shape (1, 1)", "remove it from"]),
    ("flattened", ["9 of 'extra' for 3 rows", "remove it from"]),
    ("transposed", ["'extra' of shape (3, None)"]),
    ("nested", ["flat dictionary", "'score': ...", "'more_twice': ...", "'more_deep_thrice': ..."]),
    ("tuple", ["flat list", "'output_0': ...", "'output_1_0': ...", "'output_1_1': ..."]),
    ("number as name", ["printable text", "got 0"]),
    ("line break in name", ["printable text", r"'a\nb'"]),
    (
        "half",
        ["extra: float16 (?, 1)", "below export: cast: {extra: float32},", "protocol: grpc"],
    ),
    ("bfloat16", ["extra: bfloat16 (?, 1)", "cast: {extra: float32}", "serving.protocol: grpc"]),
    ("uint16", ["extra: uint16 (?, 1)", "cast: {extra: int32}"]),
]
LAYERS = [
    ("lambda", ["Lambda", "enable_unsafe_deserialization()"]),
    ("layer", ["Could not locate class 'Scale'", "register_keras_serializable"]),
    ("activation", ["Could not interpret activation function", "enable_unsafe_deserialization"]),
    ("table", ["be able to export the model", "'untracked' resource", "assigning them to an attribute", "HashTable"]),
    ("untraced", ["be able to export the model", "Untraced.call()", "unservable_models.py:"]),
]
INPUTS = [
    ("fixed batch", ["'x' of shape (32, 3)", "without batch_size"]),
    ("fixed inside", ["'score' of shape (20, 1)", "not the batch"]),
    ("half", ["x: float16 (?, 3)", "cast: {x: float32}"]),
    ("bfloat16", ["x: bfloat16 (?, 3)", "cast: {x: float32}"]),
    ("uint16", ["x: uint16 (?, 3)", "cast: {x: int32}"]),
]


@pytest.mark.parametrize(
    ("build", "how", "words"),
    [
        (build, *case)
        for build, cases in (("outputs", OUTPUTS), ("layers", LAYERS), ("inputs", INPUTS))
        for case in cases
    ],
)
def test_what_cannot_be_served_is_never_fitted(
    never_fitted: Prepare, tmp_path: Path, build: str, how: str, words: list[str]
) -> None:
    """Outputs, layers and inputs that a later stage does not take end the run before it trains, with the remedy."""
    with pytest.raises(ExportError) as caught:
        never_fitted("counts" if how == "uint16" else "rows", build, **{"model.params.how": how})
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert is_one_line(caught.value)
    assert not list(tmp_path.glob("m/*"))  # and nothing of it is left


NAMES = ["a:0", "a b", "größe (cm)", "π", "it's", 'a"b', "_a", "self", "lambda", "None", "-a", "a/", "a%", "", "漢字"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_exported(never_fitted: Prepare, name: str) -> None:
    """Such a served name is refused with the entry of `export` that mends it, ready to paste."""
    with pytest.raises(SignatureMismatch) as caught:
        never_fitted("rows", "inputs", **{"model.params.how": "", "export.inputs": {name: "x"}})
    entry = mending(caught.value)
    assert list(entry.values()) == ["x"]
    with pytest.raises(AssertionError, match="the training began"):
        never_fitted("rows", "inputs", **{"model.params.how": "", "export.inputs": entry})


def mending(error: PipelineError) -> dict[str, str]:
    """Return the entry that an error offers, read as the YAML that it is."""
    assert is_one_line(error)
    found = yaml.safe_load(re.sub("^.*; to rename them, add this line below export: ", "", str(error)))
    assert list(found) == ["inputs"]
    entry: dict[str, str] = found["inputs"]
    return entry


TOGETHER = [
    ["a.b", "a_b"],
    ["A", "a", "A_"],
    ["1st", "arg_1st"],
    ["a b", "a_b", "a:b"],
    ["sepal length (cm)", "sepal width (cm)", "self", "plain"],
]


@pytest.mark.parametrize("names", TOGETHER)
def test_names_that_cannot_be_exported_together(never_fitted: Prepare, names: list[str]) -> None:
    """Names that differ in case and punctuation alone are refused; the entry keeps those that are good."""
    columns = {"data.params": {"names": names}}
    with pytest.raises(SignatureMismatch) as caught:
        never_fitted("columns", "by_column", **columns)
    entry = mending(caught.value)
    assert list(entry.values()) == names
    with pytest.raises(AssertionError, match="the training began"):
        never_fitted("columns", "by_column", **columns, **{"export.inputs": entry})


def test_case_22_odd_names(never_fitted: Prepare) -> None:
    """Names that the configuration itself gives are refused like the model's own; odd output names are served."""
    wanted = {"input_1:0": "age", "größe (cm)": "size", "a/b": "w.x"}
    settings = {"data.params": {"names": ["age", "size", "w.x"]}, "export.outputs": {"π": "score"}}
    with pytest.raises(SignatureMismatch) as caught:
        never_fitted("columns", "by_column", **settings, **{"export.inputs": wanted})
    entry = mending(caught.value)
    assert entry == {"input_1_0": "age", "grosse_cm": "size", "a/b": "w.x"}
    with pytest.raises(AssertionError, match="the training began"):
        never_fitted("columns", "by_column", **settings, **{"export.inputs": entry})


def test_case_29_iris_column_names(never_fitted: Prepare) -> None:
    """scikit-learn's column names are refused before training with the entry that mends them."""
    settings = {"model.params.classes": 3}
    with pytest.raises(SignatureMismatch) as caught:
        never_fitted("iris", "by_column", **settings)
    entry = mending(caught.value)
    assert entry == {
        f"{part}_{side}_cm": f"{part} {side} (cm)" for part in ("sepal", "petal") for side in ("length", "width")
    }
    with pytest.raises(AssertionError, match="the training began"):
        never_fitted("iris", "by_column", **settings, **{"export.inputs": entry})


GOOD = ["a/b", "a.b", "w-x", "1st", "0", ".a", "type", "args", "x" * 300]


def test_names_that_look_odd_and_can_be_exported(never_fitted: Prepare) -> None:
    """No name is refused that TensorFlow exports as it is."""
    for name in GOOD:
        with pytest.raises(AssertionError, match="the training began"):
            never_fitted("rows", "inputs", **{"model.params.how": "", "export.inputs": {name: "x"}})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"export.cast": {"nothing": "float32"}}, ["export.cast", "'nothing'", "x, score"]),
        ({"export.cast": {"score": "int32"}}, ["export.cast must keep every value", "'score' is float32"]),
        ({"export.cast": {"x": "int64"}}, ["export.cast must keep every value", "'x' is float32"]),
        ({"export.ragged": {"score": 0}}, ["export.ragged", "'score'", "the model has none"]),
    ],
)
def test_declarations_that_do_not_fit(never_fitted: Prepare, settings: dict[str, Any], words: list[str]) -> None:
    """`export.cast` and `export.ragged` must name what is there, and lose nothing."""
    with pytest.raises(SignatureMismatch) as caught:
        never_fitted("rows", "inputs", **{"model.params.how": ""}, **settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("text", ["target of output 'score' must fit its loss, got text; convert names to numbers"]),
        ("too many", ["1 to 2, but sparse_categorical_crossentropy needs whole numbers from 0 to 1"]),
        ("huge", ["targets must fit float32", "'target'"]),
    ],
)
def test_targets_that_cannot_be_learned(never_fitted: Prepare, how: str, words: list[str]) -> None:
    """A target that the loss cannot be computed from ends the run before its training, by the output's name."""
    with pytest.raises(DataError) as caught:
        never_fitted("targets", "learner", **{"data.params.how": how, "model.params.how": how})
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert is_one_line(caught.value)


NAMED = [
    ("rows", ["other"], ""),
    ("outputs", ["extra", "score"], ""),
    ("outputs", ["extra", "scores"], "an output of the model, got 'scores'; the outputs are 'score', 'extra'"),
    ("outputs", ["scores"], "got 'scores'; the outputs are 'score', 'extra'"),
    ("rows", ["y", "other"], "got 'other'; the outputs are 'y'"),
    ("own step", ["y", "other"], ""),
]


@pytest.mark.parametrize(("model", "names", "words"), NAMED)
def test_whose_a_target_is(never_fitted: Prepare, model: str, names: list[str], words: str) -> None:
    """A target is that of the output of its name, the only one that of the only output; another is refused by name."""
    how = {"own step": "train_step", "outputs": "two"}.get(model, "")
    params = {"data.params.targets": names, "model.params.how": how}
    error, said = (DataError, words) if words else (AssertionError, "the training began")
    with pytest.raises(error, match=re.escape(said)):
        never_fitted("named", "outputs" if model == "outputs" else "failing", **params)


def test_the_only_target_is_learned_whatever_its_name(fit: Prepare) -> None:
    """Keras itself takes a dictionary with another name for no target."""
    assert fit("named", "failing", **{"data.params.targets": ["other"], "model.params.how": ""}).history["loss"]


def test_what_is_rounded_is_said(fit: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    """The cast to the dtype of an input, or of the loss, is on the screen and among what is kept of the training."""
    caplog.set_level("INFO")
    trained = fit("targets", "learner", **{"data.params.how": "long", "model.params.how": "long"})
    said = {
        "input 'x'": "float64 to float32, by at most 31.5 (1700000031.5 to 1700000000.0)",
        "target 'target'": "int64 to float32, by at most 1 (20000001 to 20000000.0)",
    }
    assert trained.rounded == said
    assert all(f"{name} is rounded: {change}" in caplog.text for name, change in said.items())


def test_a_graph_that_fails_names_the_cause(fit: Prepare) -> None:
    """An error within TensorFlow's graph is its cause and the user's line, without the stack that made the graph."""
    with pytest.raises(TrainingError) as caught:
        fit("rows", "failing", **{"model.params.how": "graph"})
    text = str(caught.value)
    assert "assertion failed: [no number of mine]" in text
    assert "(unservable_models.py:" in text
    assert "site-packages" not in text
    assert "File " not in text
    assert "{{node" not in text
    assert is_one_line(caught.value)


REMEDIES = [
    ("not adapted", ["could not be loaded", "adapt preprocessing layers"]),
    ("own arguments", ["bias", "get_config() returns"]),
]


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras warns, and then fails
@pytest.mark.parametrize(("how", "words"), REMEDIES)
def test_the_remedy_fits_the_cause(never_fitted: Prepare, how: str, words: list[str]) -> None:
    """What Keras cannot read back for another reason than a missing registration is not told to register it."""
    with pytest.raises(ExportError) as caught:
        never_fitted("texts" if how == "not adapted" else "rows", "unreadable", **{"model.params.how": how})
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert "register_keras_serializable" not in str(caught.value)


FAILING = [
    ("build", TrainingError, ["model.build", "AssertionError (unservable_models.py:", " in failing)"]),
    ("build exits", TrainingError, ["model.build", "it calls sys.exit(3) (unservable_models.py:"]),
    ("compile", TrainingError, ["no such optimizer", "unservable_models.py:"]),
    ("loss", TrainingError, ["able to train the model on these rows", "no such loss"]),
    ("metric", TrainingError, ["able to train the model on these rows", "a metric of mine"]),
    ("exit", TrainingError, ["able to train the model on these rows", "SystemExit: enough", " in fit)"]),
    ("history", TrainingError, ["able to train the model on these rows", "TypeError"]),
    ("train_step", TrainingError, ["able to train the model on these rows"]),
    ("save", ExportError, ["Keras must be able to save the model", "I will not be saved (unservable_models.py:"]),
]


@pytest.mark.parametrize(("how", "error", "words"), FAILING)
def test_what_the_users_code_raises(fit: Prepare, how: str, error: type[PipelineError], words: list[str]) -> None:
    """Whatever fails in the user's code is an error of the tree with the user's own line, and no traceback of ours."""
    with pytest.raises(error) as caught:
        fit("rows", "failing", **{"model.params.how": how})
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert is_one_line(caught.value)


def test_variants_that_cannot_be_compared(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """Without a metric, the output that is compared must be known before a sweep trains; a single one needs no name."""
    from tasks.sweeping.comparing import why_no_metric

    found = []
    for number, settings in enumerate(
        ({"model.params.outputs": 2}, {"model.params.outputs": 2, "gates.metric_output": "y"}, {})
    ):
        config = make_config("tests.data.sweep_models:line", "tests.data.sweep_models:build", **settings)
        found.append(why_no_metric(config, prepare_splits(config.data, tmp_path / str(number))))
    needed = "gates.metric_output must name the output by which variants are compared, one of y, z"
    assert found == [needed, "", ""]
