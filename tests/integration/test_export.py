"""Exported SavedModels, revived from the disk by TensorFlow: names, dtypes, shapes, numbers, warm-up, manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_arrays, load_rows
from tasks.datasets.strings import as_objects
from tasks.errors import ExportError, ManifestMismatch, SignatureMismatch
from tasks.records import Signature, TensorSpec
from tasks.savedmodel.exporter import export_here, read_back
from tasks.savedmodel.manifest import MANIFEST, verify_manifest
from tasks.savedmodel.warmup import WARMUP

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

N = None
SIGNATURES = {
    "digits": ([("pixels", "float32", (N, 64))], [("probabilities", "float32", (N, 10))]),
    "penguins": (
        [
            ("bill_length_mm", "float32", (N,)),
            ("bill_depth_mm", "float32", (N,)),
            ("flipper_length_mm", "float32", (N,)),
            ("body_mass_g", "float32", (N,)),
            ("island", "string", (N,)),
            ("sex", "string", (N,)),
        ],
        [("species", "float32", (N, 3))],
    ),
    "one_number": ([("x", "float32", (N,))], [("y", "float32", (N, 1))]),
    "table": ([("age", "float32", (N,)), ("city", "string", (N,))], [("bought", "float32", (N, 1))]),
    "of_bytes": ([("blob", "string", (N,))], [("score", "float32", (N, 1))]),
    "two_by_two": (
        [("left", "float32", (N, 3)), ("right", "int32", (N,))],
        [("total", "float32", (N, 1)), ("odd", "float32", (N, 2))],
    ),
    "renamed": (
        [("l", "float32", (N, 3)), ("r", "int32", (N,))],
        [("t", "float32", (N, 1)), ("o", "float32", (N, 2))],
    ),
    "noisy": ([("pixels", "float32", (N, 64))], [("probabilities", "float32", (N, 10))]),
}


def by_name(specs: tuple[TensorSpec, ...]) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in specs}


def revive(version_dir: Path) -> Any:
    """Load a SavedModel from the disk, without Keras."""
    import tensorflow as tf

    return tf.saved_model.load(str(version_dir))


def ask(loaded: Any, arrays: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Call the revived signature on some rows."""
    import tensorflow as tf

    fed = {name: tf.constant(as_objects(array[start:stop])) for name, array in arrays.items()}
    return {name: value.numpy() for name, value in loaded.signatures["serving_default"](**fed).items()}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_is_what_is_specified(rehearsed: Callable[[str], Any], name: str) -> None:
    """Inputs and outputs have the Keras model's names and dtypes, a free batch, and scalar features of rank 1."""
    inputs, outputs = (tuple(TensorSpec(*spec) for spec in part) for part in SIGNATURES[name])
    found = rehearsed(name).candidate.signature
    assert by_name(found.inputs) == by_name(inputs)
    assert by_name(found.outputs) == by_name(outputs)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_saved_graph_has_the_signature(rehearsed: Callable[[str], Any], name: str) -> None:
    """The bytes on the disk hold one graph, tagged `serve`, with `serving_default` as described and nothing else."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    candidate = rehearsed(name).candidate
    saved = SavedModel.FromString((candidate.version_dir / "saved_model.pb").read_bytes())
    [graph] = saved.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    assert set(graph.signature_def) <= {"serving_default", "__saved_model_init_op"}
    found = graph.signature_def["serving_default"]
    assert _read(found.inputs) == by_name(candidate.signature.inputs)
    assert _read(found.outputs) == by_name(candidate.signature.outputs)


def _read(tensors: Any) -> dict[str, TensorSpec]:
    import tensorflow as tf

    return {
        name: TensorSpec(
            name,
            tf.dtypes.as_dtype(info.dtype).name,
            tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in tensors.items()
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_any_batch_gives_the_in_process_numbers(rehearsed: Callable[[str], Any], name: str) -> None:
    """Revived from the disk, 1, 2, 7 and all rows give what the Keras model itself answers in inference mode."""
    import keras

    made = rehearsed(name)
    requests, reference = load_arrays(made.candidate.requests), load_arrays(made.candidate.reference)
    loaded = revive(made.candidate.version_dir)
    n_rows = len(next(iter(requests.values())))
    for start, stop in ((0, 1), (1, 3), (3, 10), (0, n_rows)):
        for output, answer in ask(loaded, requests, start, stop).items():
            np.testing.assert_allclose(answer, reference[output][start:stop], rtol=1e-5, atol=1e-6)
    again = _predict(keras.saving.load_model(made.trained.keras_file), load_rows(made.splits.test).features)
    for output, array in zip(made.candidate.signature.outputs, again, strict=True):
        np.testing.assert_allclose(reference[output.name], array, rtol=1e-5, atol=1e-6)


def _predict(model: Any, features: dict[str, Any]) -> list[Any]:
    """Return Keras' own `predict`, its outputs in their order; independent of how the pipeline calls the model."""
    import tensorflow as tf

    fed = [features[t.name] if t.name in features else features["features"] for t in model.inputs]
    shaped = [array[:, None] if array.ndim == 1 else array for array in fed]
    tensors = tuple(tf.constant(as_objects(array)) for array in shaped)
    if isinstance(getattr(model, "_inputs_struct", None), dict):
        packed: Any = {t.name: tensor for t, tensor in zip(model.inputs, tensors, strict=True)}
    else:
        packed = tensors if len(tensors) > 1 else tensors[0]
    answers = model.predict(tf.data.Dataset.from_tensors((packed,)), verbose=0)
    if isinstance(answers, dict):
        return list(answers.values())
    return answers if isinstance(answers, list) else [answers]


def test_dropout_is_off_when_served(rehearsed: Callable[[str], Any]) -> None:
    """A model with dropout and batch normalization answers the same twice, and not as in training mode."""
    import keras

    made = rehearsed("noisy")
    requests = load_arrays(made.candidate.requests)
    loaded = revive(made.candidate.version_dir)
    first, second = (ask(loaded, requests, 0, 50)["probabilities"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    training = keras.saving.load_model(made.trained.keras_file)(requests["pixels"][:50], training=True)
    assert np.abs(np.asarray(training) - first).max() > 0.01


def test_the_vocabulary_is_in_the_graph(rehearsed: Callable[[str], Any]) -> None:
    """Known text, text beyond ASCII and text that was never seen are answered, and known ones differ."""
    loaded = revive(rehearsed("table").candidate.version_dir)
    fed = {"age": np.full(4, 3, np.float32), "city": np.array(["a", "Köln", "nowhere", "elsewhere"])}
    answers = ask(loaded, fed, 0, 4)["bought"].ravel()
    assert np.isfinite(answers).all()
    assert len(set(answers[:3].tolist())) == 3
    assert answers[2] == answers[3]


def test_warmup_is_a_log_of_predictions(rehearsed: Callable[[str], Any]) -> None:
    """The warm-up file holds one request of one row and one of several, with the test rows under the served names."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    made = rehearsed("table")
    requests = load_arrays(made.candidate.requests)
    raw = [r.numpy() for r in tf.data.TFRecordDataset(str(made.candidate.version_dir / WARMUP))]
    logged = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in raw]
    assert [(r.model_spec.name, r.model_spec.signature_name) for r in logged] == [("table", "serving_default")] * 2
    assert [tf.make_ndarray(r.inputs["age"]).tolist() for r in logged] == [
        requests["age"][:1].tolist(),
        requests["age"][: made.config.export.warmup_rows].tolist(),
    ]
    assert [text.decode() for text in tf.make_ndarray(logged[1].inputs["city"])] == requests["city"][:8].tolist()


def test_no_warmup_and_a_padded_number_when_configured(rehearsed: Callable[[str], Any]) -> None:
    """warmup_rows=0 writes no warm-up file, version_width=8 names the directory 00000001."""
    version_dir = rehearsed("padded").candidate.version_dir
    assert not (version_dir / WARMUP).exists()
    assert version_dir.name == "00000001"


def test_the_manifest_covers_every_file(rehearsed: Callable[[str], Any]) -> None:
    """The manifest lists every file but itself, its digest is the candidate's, and one changed bit breaks it."""
    candidate = rehearsed("one_number").candidate
    files = {p.relative_to(candidate.version_dir).as_posix() for p in candidate.version_dir.rglob("*") if p.is_file()}
    manifest = json.loads((candidate.version_dir / MANIFEST).read_text())
    assert {entry["path"] for entry in manifest["files"]} == files - {MANIFEST.as_posix()}
    assert manifest["digest"] == verify_manifest(candidate.version_dir, candidate.digest).digest == candidate.digest
    damaged = candidate.version_dir / "variables" / "variables.index"
    before = damaged.read_bytes()
    try:
        damaged.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ManifestMismatch, match=r"changed: variables/variables\.index"):
            verify_manifest(candidate.version_dir, candidate.digest)
    finally:
        damaged.write_bytes(before)


@pytest.fixture
def export(user_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Signature]:
    """Return a function that builds, saves (without fitting) and exports a model into `tmp_path`/version."""
    from tasks.records import TrainedModel
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import build_model

    def exporting(load: str, build: str, **settings: Any) -> Signature:
        config = user_config(load, build, **settings)
        splits = prepare_splits(config.data, tmp_path / "data")
        build_model(config, load_rows(splits.train)).save(tmp_path / "model.keras")
        trained = TrainedModel(tmp_path / "model.keras", {}, 0, 1)
        (tmp_path / "version").mkdir()
        return export_savedmodel(config, splits, trained, tmp_path / "version", tmp_path).signature

    return exporting


OWN_LAYER = """
import keras


@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""
OWN_BUILD = """
def build(features):
    import keras
    from own_layer import Twice

    model = keras.Sequential([keras.Input((1,), name="x"), keras.layers.Dense(1), Twice(name="y")])
    model.compile("sgd", "mse")
    return model
"""


def test_the_users_classes_are_known_in_a_process_that_did_not_train(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registered layer of a module that `build` imports is found by the export, as after a sweep's training."""
    import keras

    from tasks.records import TrainedModel
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import build_model
    from tasks.training.recipe import recipe_of

    (tmp_path / "own_layer.py").write_text(OWN_LAYER)
    (tmp_path / "own_build.py").write_text(OWN_BUILD)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = make_config("tests.data.user_models:line", f"{tmp_path / 'own_build.py'}:build")
    splits = prepare_splits(config.data, tmp_path / "data")
    built = build_model(config, load_rows(splits.train))
    built.save(tmp_path / "model.keras")
    trained = TrainedModel(tmp_path / "model.keras", {}, 0, 1, recipe=recipe_of(config, built))
    (tmp_path / "version").mkdir()
    for name in ("own_layer", "own_build"):
        del sys.modules[name]
    del keras.saving.get_custom_objects()["own>Twice"]
    try:
        assert export_savedmodel(config, splits, trained, tmp_path / "version", tmp_path).digest
    finally:
        for name in ("own_layer", "own_build"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"export.inputs": {"l": "left"}}, ["export.inputs", "left, right", "got left"]),
        ({"export.inputs": {"l": "left", "r": "rihgt"}}, ["export.inputs", "rihgt"]),
        ({"export.outputs": {"t": "total", "o": "total"}}, ["export.outputs", "total, odd", "total, total"]),
    ],
)
def test_wrong_names_are_refused(
    export: Callable[..., Signature], tmp_path: Path, settings: dict[str, Any], words: list[str]
) -> None:
    """export.inputs and export.outputs must name each of the model's once; nothing is written otherwise."""
    with pytest.raises(SignatureMismatch) as caught:
        export("pairs", "two_by_two", **settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert list((tmp_path / "version").iterdir()) == []


def test_a_model_that_keras_does_not_read_back(export: Callable[..., Signature]) -> None:
    """A model whose file Keras refuses to load (a Lambda layer) is an ExportError in one line."""
    with pytest.raises(ExportError, match="Lambda|lambda") as caught:
        export("line", "with_lambda")
    assert "\n" not in str(caught.value)


def test_a_given_model_whose_code_is_elsewhere(tmp_path: Path) -> None:
    """What can be done about a layer that is not known here is told in words that fit a file."""
    import keras

    class Doubled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return 2 * x

    x = keras.Input((1,), name="x")
    keras.Model(x, Doubled()(x)).save(tmp_path / "m.keras")
    with pytest.raises(ExportError, match=r"'Doubled'.*; export it as a SavedModel \(model.export\) where its code is"):
        read_back(tmp_path / "m.keras", given=True)


def test_text_outputs(rehearsed: Callable[[str], Any]) -> None:
    """A model that answers with text exports, and its reference keeps the text."""
    candidate = rehearsed("naming").candidate
    assert by_name(candidate.signature.outputs)["label"] == TensorSpec("label", "string", (None,))
    reference = load_arrays(candidate.reference)
    for name in ("label", "label_bytes"):
        found = {text if isinstance(text, bytes) else text.encode() for text in reference[name].tolist()}
        assert found <= {b"low", "höher".encode()}


def test_one_layer_with_two_outputs(export: Callable[..., Signature], tmp_path: Path) -> None:
    """Two outputs of one layer are both served, under two names, or refused; never is one lost."""
    try:
        signature = export("ab", "shared")
    except ExportError as exc:
        assert "twice" in str(exc)
    else:
        assert len(signature.outputs) == 2
        assert len(load_arrays(tmp_path / "reference.npz")) == 2


def test_what_names_no_inputs(tmp_path: Path) -> None:
    """What is no Keras model, or one whose inputs have no names, is one line of ours, and not an error of Python."""
    import keras

    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    config = Config(name="m")
    for other in (None, 3, {"x": 1}):
        with pytest.raises(ExportError, match="a model must be a keras.Model, .* got "):
            export_here(config, other, tmp_path / "model")
    for unnamed in (Own(), keras.Sequential([keras.layers.Dense(1)])):
        with pytest.raises(SignatureMismatch, match="a candidate must be a model with named inputs: .*; got "):
            export_here(config, unnamed, tmp_path / "model")
