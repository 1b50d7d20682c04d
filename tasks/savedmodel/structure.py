"""The inputs and outputs of a Keras model by name; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.strings import Array, as_objects
from tasks.errors import SignatureMismatch
from tasks.records import TensorSpec


def input_specs(model: Any) -> list[TensorSpec]:
    """Return the inputs of a Keras model, first axis free."""
    return [TensorSpec(str(t.name), str(t.dtype), (None, *t.shape[1:])) for t in model.inputs]


def output_names(model: Any) -> list[str]:
    """Return the names of a model's outputs: the keys of its dict, or the names of its output layers."""
    struct = getattr(model, "_outputs_struct", None)
    if isinstance(struct, dict):
        return list(struct)
    names: list[str] = []
    for tensor in model.outputs:  # a Sequential has no output_names, and a layer that is used twice has one name
        name = str(tensor._keras_history.operation.name)
        taken = sum(n == name or n.startswith(f"{name}_") for n in names)
        names.append(f"{name}_{taken}" if name in names else name)
    return names


def pack_inputs(model: Any, tensors: Mapping[str, Any]) -> Any:
    """Return tensors by input name in the structure that the model was built with (one, a list or a dict)."""
    import keras

    struct = getattr(model, "_inputs_struct", model.inputs)
    packed = keras.tree.map_structure(lambda tensor: tensors[tensor.name], struct)
    if isinstance(packed, list):  # never a list: tf.data would stack it into one tensor
        return packed[0] if len(packed) == 1 else tuple(packed)
    return packed


def pack_features(model: Any, features: Mapping[str, Array], rows: slice = slice(None)) -> Any:
    """Return features as the model's inputs; TensorFlow tensors, for Keras' array adapter takes no text.

    Args:
        features: all rows, since the column as a whole decides what a cast may change.
        rows: which of them to return.
    """
    import tensorflow as tf

    fed = fit_to_inputs(features, input_specs(model))
    return pack_inputs(model, {name: tf.constant(as_objects(array[rows])) for name, array in fed.items()})


def name_outputs(model: Any, answers: Any) -> dict[str, Any]:
    """Return a model's answers by output name."""
    if isinstance(answers, dict):
        return answers
    listed = answers if isinstance(answers, list | tuple) else [answers]
    return dict(zip(output_names(model), listed, strict=True))


def served_names(wanted: Mapping[str, str], available: list[str], field: str) -> dict[str, str]:
    """Return served name to Keras name; no wish serves Keras' own names."""
    if not wanted:
        return {name: name for name in available}
    if sorted(wanted.values()) != sorted(available):
        raise SignatureMismatch(
            f"{field} must name each of the model's {', '.join(available)} once, got {', '.join(wanted.values())}"
        )
    return dict(wanted)
