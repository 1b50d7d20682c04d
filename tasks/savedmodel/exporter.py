"""Writes a Keras model as a SavedModel that TensorFlow Serving can load; runs in the TensorFlow process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from configs.schema import Config
from configs.sections.model import Export
from tasks.datasets.feature_record import write_schema
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.mapped import is_mapped
from tasks.datasets.predict_body import predict_body
from tasks.datasets.readings import write_readings
from tasks.datasets.rows import Array, load_rows, save_arrays
from tasks.datasets.seen import save_record
from tasks.datasets.user_code import FOREIGN, describe, import_again, translated
from tasks.errors import ExportError
from tasks.records import Signature, Splits, TensorSpec, TrainedModel
from tasks.savedmodel.in_process import answer, save_reference
from tasks.savedmodel.manifest import write_manifest
from tasks.savedmodel.outputs import check_cast_names, served_specs
from tasks.savedmodel.reproducible import settle, start_anew, used_variables
from tasks.savedmodel.resumed import write_resumed
from tasks.savedmodel.structure import (
    check_free_batch,
    check_named_inputs,
    input_specs,
    name_outputs,
    pack_inputs,
    served_inputs,
    served_outputs,
)
from tasks.savedmodel.transport import check_cast, check_transport
from tasks.savedmodel.warmup import write_drawn, write_warmup

EXAMPLE_ROWS = 2
CONFIGURATIONS = r"(?m)^config=\{.*\}\.?$| using config=\{.*\}|Full object config: \{.*\}"
"""The configurations of whole layers in Keras' messages, which are pages long and stand before the cause."""


@dataclass(frozen=True)
class Exported:
    """The signature of an exported model, and the digest and size of its manifest."""

    signature: Signature
    digest: str
    size_bytes: int


def export_savedmodel(
    config: Config, splits: Splits, trained: TrainedModel, directory: Path, evidence: Path
) -> Exported:
    """Export a trained model into an empty directory, with warm-up requests, a record of its rows and a manifest.

    Args:
        evidence: directory for `requests.npz`, the test rows in the form of the signature, `example.json`, the first
            of them as the body of a request, and `reference.npz`, the answers of the Keras model in this process.

    Raises:
        ExportError: Keras cannot export the model.
        SignatureMismatch: names in the configuration do not fit the model, or the transport cannot carry its dtypes.
    """
    if config.model.build and not trained.source:  # another process may have trained it
        code = trained.recipe.code if trained.recipe is not None else ()
        import_again(config.model.build, code, "model.build", ExportError)
    start_anew(config.seed)
    model = read_back(trained.keras_file, given=bool(trained.source))
    serve, signature = serving_function(model, config)
    requests = request_arrays(model, load_rows(splits.test).features, signature, config.export)
    save_arrays(evidence / "requests.npz", requests, mapped=splits.streamed)
    with translated("an example of a request must be written", ExportError):
        (evidence / "example.json").write_bytes(predict_body({k: v[:EXAMPLE_ROWS] for k, v in requests.items()}))
    write_savedmodel(model, serve, signature, directory)  # first, because a call can change a model, such as a counter
    answers_to = partial(answer, model, signature=signature, export=config.export)
    save_reference(evidence, answers_to, requests, signature, config.serving.most_rows)
    outputs = served_outputs(model, config.export)
    write_readings(directory, {out: trained.readings[own] for out, own in outputs.items() if own in trained.readings})
    write_resumed(directory, trained.resumed)
    if config.export.warmup_from == "requests":
        write_drawn(directory, config, signature, serve)
    else:
        write_warmup(directory, config.name, signature, requests, config.export.warmup_rows)
    if splits.trained_on:  # they may be unknown for a model that was trained elsewhere
        as_requests = partial(request_arrays, model, signature=signature, export=config.export)
        save_record(config, splits, as_requests, directory, evidence)
    write_schema(directory, config, load_rows(splits.train if splits.rows["train"] else splits.test), splits.classes)
    manifest = write_manifest(directory)
    return Exported(signature, manifest.digest, manifest.size_bytes)


def save_requests(config: Config, rows: Path, trained: TrainedModel, signature: Signature, file: Path) -> None:
    """Write rows in the form of a model's signature, as `export_savedmodel` does with the test rows.

    Args:
        rows: `.npz` as `datasets.rows` saves them. file: the `.npz` to write.
    """
    model, features = read_back(trained.keras_file), load_rows(rows).features
    requests = request_arrays(model, features, signature, config.export)
    save_arrays(file, requests, mapped=any(map(is_mapped, features.values())))


def export_here(config: Config, model: Any, directory: Path) -> Path:
    """Export a Keras model of this process, with any layers, and return the directory.

    Raises:
        ExportError: Keras cannot export the model. SignatureMismatch: names in the configuration do not fit it.
    """
    serve, signature = serving_function(model, config)
    write_savedmodel(model, serve, signature, directory)
    return directory


def read_back(keras_file: Path, *, given: bool = False) -> Any:
    """Load a model from a `.keras` file, without losses and optimizer.

    Args:
        given: whether it was trained elsewhere, so that its code is not here.

    Raises:
        ExportError: Keras cannot read the file, for example because of a Lambda or an unknown layer.
    """
    import keras

    try:
        return keras.saving.load_model(keras_file, compile=False)
    except FOREIGN as exc:  # Keras raises many classes of errors, and the user's layers any class
        cause = describe(exc, without=CONFIGURATIONS).rstrip(".")
        raise ExportError(f"Keras must be able to load the saved model, got {cause}; {_remedy(cause, given)}") from exc


def _remedy(cause: str, given: bool) -> str:
    """Return what the user can change so that Keras can load the saved model."""
    if given:
        return "export it as a SavedModel (model.export) where its code is, or call rehearse_model there"
    if re.search("objects? could not be loaded", cause):
        return (
            "adapt preprocessing layers to the features in model.build, and create the weights of each layer in its "
            "build() method"
        )
    if re.search("Could not (locate|interpret)|Lambda", cause):
        return (
            "decorate your layers and functions with keras.saving.register_keras_serializable(), replace a lambda by "
            "a named function, or call keras.config.enable_unsafe_deserialization() at the top of model.build's file"
        )
    return "make sure that Keras can create your layers and models again from what their get_config() returns"


def request_arrays(model: Any, features: Mapping[str, Array], signature: Signature, export: Export) -> dict[str, Array]:
    """Return rows in the form of the signature: one array for each input, by served name."""
    fed = fit_to_inputs(features, input_specs(model))
    by_served_name = {name: fed[keras_name] for name, keras_name in served_inputs(model, export).items()}
    return fit_to_inputs(by_served_name, signature.inputs)


def serving_function(model: Any, config: Config) -> tuple[Any, Signature]:
    """Return a function that maps named inputs to named outputs, and its signature.

    A scalar feature, `(None, 1)` in Keras, is `(None,)` in the signature, so that a client sends
    `{"age": 3.0}` and not `{"age": [3.0]}`.

    Raises:
        ExportError: the model cannot be traced, or cannot be served.
    """
    import tensorflow as tf

    check_named_inputs(model)
    export, keras_inputs = config.export, {spec.name: spec for spec in input_specs(model)}
    check_free_batch(model)
    inputs, outputs = served_inputs(model, export), served_outputs(model, export)
    check_cast_names(export, inputs, outputs)
    specs = tuple(_served_input(name, keras_inputs[keras_name], export) for name, keras_name in inputs.items())
    found: dict[str, Any] = {}  # TypeSpecs of the outputs by served name; filled when the function is traced

    def serve(tensors: Mapping[str, Any]) -> dict[str, Any]:
        fed = {keras_name: _as_in_keras(tensors[name], keras_inputs[keras_name]) for name, keras_name in inputs.items()}
        answers = name_outputs(model, model(pack_inputs(model, fed), training=False))
        named = {name: answers[keras_name] for name, keras_name in outputs.items()}
        found.update({name: tf.type_spec_from_value(value) for name, value in named.items()})
        return {
            name: tf.cast(value, export.cast[name]) if name in export.cast else value for name, value in named.items()
        }

    described = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs}
    function = tf.function(serve, input_signature=[described], autograph=False)
    with translated("Keras must be able to export the model as a SavedModel", ExportError):
        function.get_concrete_function()
    signature = Signature(specs, served_specs(found, export))
    check_transport(signature, config)
    return function, signature


def _served_input(name: str, spec: TensorSpec, export: Export) -> TensorSpec:
    """Return the TensorSpec of an input as clients send it."""
    dtype = export.cast.get(name, spec.dtype)
    if dtype != spec.dtype:
        check_cast(name, spec.dtype, dtype)
    return TensorSpec(name, dtype, (None,) if spec.shape == (None, 1) else spec.shape)


def _as_in_keras(tensor: Any, spec: TensorSpec) -> Any:
    """Return a client's tensor in the shape and dtype of the model's input; another shape fails the request.

    Servers do not check the shape of a request against the signature, and some kernels then crash the process, such
    as oneDNN's convolutions at a request of another rank.

    Source: MklConvOp in tensorflow/core/kernels/mkl/mkl_conv_ops.cc, GetTensorDimIndex in core/util/tensor_format.h.
    """
    import tensorflow as tf

    shaped = tf.reshape(tensor, [-1, 1]) if spec.shape == (None, 1) else tf.ensure_shape(tensor, spec.shape)
    return tf.cast(shaped, spec.dtype)


def write_savedmodel(model: Any, serve: Any, signature: Signature, directory: Path) -> None:
    """Write a SavedModel with the tag `serve` and the single signature `serving_default`.

    Raises:
        ExportError: the graph needs objects outside of the model, such as a table in a Lambda, or the disk is full.
    """
    import tensorflow as tf

    with translated("Keras must be able to export the model as a SavedModel", ExportError):
        root = tf.Module()
        root.all_variables = used_variables(serve.get_concrete_function())
        root.resources = [found for found in tf.train.TrackableView(model).descendants() if _is_resource(found)]
        setattr(root, signature.name, serve)
        tf.saved_model.save(root, str(directory), signatures={signature.name: serve})
        settle(directory)


def _is_resource(trackable: Any) -> bool:
    """Return whether an object of a model is a lookup table or another resource of TensorFlow."""
    import tensorflow as tf

    return isinstance(trackable, tf.saved_model.experimental.TrackableResource)
