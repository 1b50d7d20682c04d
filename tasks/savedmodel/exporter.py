"""Writing a Keras model as a SavedModel that TensorFlow Serving answers from; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config, Export
from tasks.datasets.references import describe
from tasks.datasets.rows import Array, fit_to_inputs, load_rows, save_arrays
from tasks.errors import ExportError, SignatureMismatch
from tasks.records import Candidate, Signature, Splits, TensorSpec, TrainedModel
from tasks.savedmodel.manifest import write_manifest
from tasks.savedmodel.warmup import write_warmup
from tasks.store.layout import claim_version
from tasks.training.fit import arrange, input_specs

PREDICT_BATCH = 1024  # rows at a time for the in-process answers


def export_candidate(config: Config, splits: Splits, trained: TrainedModel, reference: Path) -> Candidate:
    """Export a trained model into the next candidate version, with warm-up requests and a manifest.

    Args:
        reference: where the in-process predictions of the test rows go, what the served ones are held against.

    Raises:
        ExportError: Keras cannot export the model.
        SignatureMismatch: `export.inputs` or `export.outputs` name what the model does not have.
    """
    import keras

    model = keras.saving.load_model(trained.keras_file)
    serve, signature = serving_function(model, config.export)
    rows = load_rows(splits.test)
    save_arrays(reference, predict_in_process(model, rows.features, signature, config.export))
    with claim_version(config.work_dir / "candidates" / config.name, config.models_root / config.name,
                       config.export.version_width) as claim:
        try:
            _write(model, serve, signature, claim.staging)
        except Exception as exc:  # Keras, TensorFlow and the file system raise many classes here
            raise ExportError(f"the model must export as a SavedModel, got {describe(exc)}") from exc
        feeds = fit_to_inputs(rows.features, signature.inputs) if config.export.warmup_rows else {}
        write_warmup(claim.staging, config.name, signature, feeds, config.export.warmup_rows)
        manifest = write_manifest(claim.staging)
        version_dir = claim.publish()
    return Candidate(config.name, int(version_dir.name), version_dir, manifest.digest, signature,
                     manifest.size_bytes, reference)


def serving_function(model: Any, export: Export) -> tuple[Any, Signature]:
    """Return a function of named inputs to named outputs, and its signature.

    A scalar feature, `(None, 1)` in Keras, is `(None,)` in the signature, so that a client sends
    `{"age": 3.0}` and not `{"age": [3.0]}`.
    """
    import tensorflow as tf

    keras_inputs = {spec.name: spec for spec in input_specs(model)}
    served_inputs = _renamed(export.inputs, list(keras_inputs), "export.inputs")
    inputs = tuple(_flat(name, keras_inputs[keras_name]) for name, keras_name in served_inputs.items())
    served_outputs = _renamed(export.outputs, list(output_names(model)), "export.outputs")

    def serve(tensors: Mapping[str, Any]) -> dict[str, Any]:
        fed = {keras_name: tf.reshape(tensors[name], [-1, 1]) if keras_inputs[keras_name].shape == (None, 1)
               else tensors[name] for name, keras_name in served_inputs.items()}
        answers = _named_outputs(model, model(arrange_tensors(model, fed), training=False))
        return {name: answers[keras_name] for name, keras_name in served_outputs.items()}

    specs = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in inputs}
    function = tf.function(serve, input_signature=[specs], autograph=False)
    outputs = function.get_concrete_function().structured_outputs
    return function, Signature(inputs, tuple(
        TensorSpec(name, outputs[name].dtype.name, _shape(outputs[name].shape)) for name in served_outputs))


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.rank is None else tuple(shape.as_list())


def _flat(name: str, spec: TensorSpec) -> TensorSpec:
    return TensorSpec(name, spec.dtype, (None,) if spec.shape == (None, 1) else spec.shape)


def _renamed(wanted: Mapping[str, str], available: list[str], field: str) -> dict[str, str]:
    """Return served name to Keras name; no wish serves Keras' own names."""
    if not wanted:
        return {name: name for name in available}
    if sorted(wanted.values()) != sorted(available):
        raise SignatureMismatch(f"{field} must name each of the model's {', '.join(available)} once, "
                                f"got {', '.join(wanted.values())}")
    return dict(wanted)


def output_names(model: Any) -> tuple[str, ...]:
    """Return the names of a model's outputs: the keys of its dict, or the names of its output layers."""
    struct = getattr(model, "_outputs_struct", None)
    if isinstance(struct, dict):
        return tuple(struct)
    return tuple(model.output_names)


def _named_outputs(model: Any, answers: Any) -> dict[str, Any]:
    if isinstance(answers, dict):
        return answers
    return dict(zip(output_names(model), answers if isinstance(answers, list | tuple) else [answers], strict=True))


def arrange_tensors(model: Any, fed: Mapping[str, Any]) -> Any:
    """Return named tensors in the structure that the model was built with."""
    import keras

    packed = keras.tree.map_structure(lambda tensor: fed[tensor.name], getattr(model, "_inputs_struct", model.inputs))
    return packed[0] if isinstance(packed, list) and len(packed) == 1 else packed


def predict_in_process(model: Any, features: Mapping[str, Array], signature: Signature,
                       export: Export) -> dict[str, Array]:
    """Return what the Keras model itself answers, one array an output, by served name."""
    parts: dict[str, list[Array]] = {}
    served = _renamed(export.outputs, list(output_names(model)), "export.outputs")
    n_rows = len(next(iter(features.values())))
    for start in range(0, n_rows, PREDICT_BATCH):
        batch = {name: array[start:start + PREDICT_BATCH] for name, array in features.items()}
        answers = _named_outputs(model, model(arrange(model, batch), training=False))
        for spec in signature.outputs:
            parts.setdefault(spec.name, []).append(np.asarray(answers[served[spec.name]]))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _write(model: Any, serve: Any, signature: Signature, directory: Path) -> None:
    """Write tag `serve` with the one signature `serving_default`."""
    import keras

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(signature.name, serve)
    archive.write_out(str(directory), verbose=False)
