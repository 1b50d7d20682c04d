"""Writing a Keras model as a SavedModel that TensorFlow Serving answers from; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config, Export
from tasks.datasets.bodies import predict_body
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.readings import write_readings
from tasks.datasets.references import describe
from tasks.datasets.rows import Array, load_rows, save_arrays
from tasks.errors import ExportError
from tasks.records import Signature, Splits, TensorSpec, TrainedModel
from tasks.savedmodel.manifest import write_manifest
from tasks.savedmodel.structure import input_specs, name_outputs, output_names, pack_features, pack_inputs, served_names
from tasks.savedmodel.warmup import write_warmup

EXAMPLE_ROWS = 2
PREDICT_BATCH = 1024  # rows at a time for the in-process answers


@dataclass(frozen=True)
class Exported:
    """What was written: its signature and its manifest's figures."""

    signature: Signature
    digest: str
    size_bytes: int


def export_savedmodel(
    config: Config, splits: Splits, trained: TrainedModel, directory: Path, evidence: Path
) -> Exported:
    """Export a trained model into an empty directory, with warm-up requests and a manifest.

    Args:
        evidence: directory for `requests.npz`, the test rows as the signature takes them, `example.json`, the first
            of them as the body of a request, and `reference.npz`, what the Keras model itself answers in this process.

    Raises:
        ExportError: Keras cannot export the model.
        SignatureMismatch: `export.inputs` or `export.outputs` name what the model does not have.
    """
    import keras

    try:
        model = keras.saving.load_model(trained.keras_file, compile=False)  # losses and optimizer stay behind
    except Exception as exc:  # Keras raises many classes for layers that it cannot read back
        raise ExportError(f"Keras must read the trained model back, got {describe(exc)}") from exc
    serve, signature = serving_function(model, config.export)
    rows = load_rows(splits.test)
    requests = request_arrays(model, rows.features, signature, config.export)
    save_arrays(evidence / "requests.npz", requests)
    (evidence / "example.json").write_bytes(predict_body({k: v[:EXAMPLE_ROWS] for k, v in requests.items()}))
    save_arrays(evidence / "reference.npz", predict_in_process(model, rows.features, config.export))
    try:
        _write(model, serve, signature, directory)
    except Exception as exc:  # Keras, TensorFlow and the file system raise many classes here
        raise ExportError(f"the model must export as a SavedModel, got {describe(exc)}") from exc
    outputs = served_names(config.export.outputs, output_names(model), "export.outputs")
    write_readings(directory, {out: trained.readings[own] for out, own in outputs.items() if own in trained.readings})
    write_warmup(directory, config.name, signature, requests, config.export.warmup_rows)
    manifest = write_manifest(directory)
    return Exported(signature, manifest.digest, manifest.size_bytes)


def request_arrays(model: Any, features: Mapping[str, Array], signature: Signature, export: Export) -> dict[str, Array]:
    """Return rows as the signature takes them, one array an input, by served name."""
    fed = fit_to_inputs(features, input_specs(model))
    keras_names = served_names(export.inputs, list(fed), "export.inputs")
    by_served_name = {name: fed[keras_name] for name, keras_name in keras_names.items()}
    return fit_to_inputs(by_served_name, signature.inputs)


def serving_function(model: Any, export: Export) -> tuple[Any, Signature]:
    """Return a function of named inputs to named outputs, and its signature.

    A scalar feature, `(None, 1)` in Keras, is `(None,)` in the signature, so that a client sends
    `{"age": 3.0}` and not `{"age": [3.0]}`.
    """
    import tensorflow as tf

    keras_inputs = {spec.name: spec for spec in input_specs(model)}
    served_inputs = served_names(export.inputs, list(keras_inputs), "export.inputs")
    inputs = tuple(_flat(name, keras_inputs[keras_name]) for name, keras_name in served_inputs.items())
    served_outputs = served_names(export.outputs, output_names(model), "export.outputs")

    def serve(tensors: Mapping[str, Any]) -> dict[str, Any]:
        fed = {
            keras_name: tf.reshape(tensors[name], [-1, 1])
            if keras_inputs[keras_name].shape == (None, 1)
            else tensors[name]
            for name, keras_name in served_inputs.items()
        }
        answers = name_outputs(model, model(pack_inputs(model, fed), training=False))
        return {name: answers[keras_name] for name, keras_name in served_outputs.items()}

    specs = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in inputs}
    function = tf.function(serve, input_signature=[specs], autograph=False)
    outputs = function.get_concrete_function().structured_outputs
    return function, Signature(
        inputs,
        tuple(TensorSpec(name, outputs[name].dtype.name, _shape(outputs[name].shape)) for name in served_outputs),
    )


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.rank is None else tuple(shape.as_list())


def _flat(name: str, spec: TensorSpec) -> TensorSpec:
    return TensorSpec(name, spec.dtype, (None,) if spec.shape == (None, 1) else spec.shape)


def predict_in_process(model: Any, features: Mapping[str, Array], export: Export) -> dict[str, Array]:
    """Return what the Keras model itself answers, one array an output, by served name."""
    parts: dict[str, list[Array]] = {}
    served = served_names(export.outputs, output_names(model), "export.outputs")
    n_rows = len(next(iter(features.values())))
    for start in range(0, n_rows, PREDICT_BATCH):
        batch = pack_features(model, features, slice(start, start + PREDICT_BATCH))
        answers = name_outputs(model, model(batch, training=False))
        for name, keras_name in served.items():
            parts.setdefault(name, []).append(np.asarray(answers[keras_name]))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _write(model: Any, serve: Any, signature: Signature, directory: Path) -> None:
    """Write tag `serve` with the one signature `serving_default`."""
    import keras

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(signature.name, serve)
    archive.write_out(str(directory), verbose=False)
