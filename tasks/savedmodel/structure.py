"""The inputs and outputs of a Keras model by name; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from configs.schema import Export
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.strings import Array, as_objects
from tasks.errors import SignatureMismatch
from tasks.records import TensorSpec
from tasks.savedmodel.names import check_input_names, check_output_names


def input_specs(model: Any) -> list[TensorSpec]:
    """Return the inputs of a Keras model, first axis free."""
    return [TensorSpec(str(t.name), str(t.dtype), (None, *t.shape[1:])) for t in model.inputs]


def check_free_batch(model: Any) -> None:
    """Refuse inputs that take one number of rows only.

    Raises:
        SignatureMismatch: clients could not send another.
    """
    for tensor in model.inputs:
        if tensor.shape[:1] != (None,):
            raise SignatureMismatch(
                f"every input must take any number of rows, got '{tensor.name}' of shape {tuple(tensor.shape)}; "
                "build it by keras.Input(shape) without batch_size or batch_shape"
            )


def output_names(model: Any) -> list[str]:
    """Return the names of a model's outputs: the keys of its dict, or the names of its output layers.

    Raises:
        SignatureMismatch: the outputs are nested, where a signature has names and tensors.
    """
    struct = getattr(model, "_outputs_struct", None)
    _check_flat(struct)
    if isinstance(struct, dict):
        return list(struct)
    names: list[str] = []
    for tensor in model.outputs:  # a Sequential has no output_names, and a layer that is used twice has one name
        name = str(tensor._keras_history.operation.name)
        taken = sum(n == name or n.startswith(f"{name}_") for n in names)
        names.append(f"{name}_{taken}" if name in names else name)
    return names


def _check_flat(struct: Any) -> None:
    values = struct.values() if isinstance(struct, dict) else struct if isinstance(struct, list | tuple) else []
    if all(hasattr(value, "dtype") for value in values):
        return
    words = ", ".join(f"{name!r}: ..." for name, _ in _leaves(struct, ""))
    raise SignatureMismatch(
        "a model's outputs must be a tensor, a flat list or a flat dictionary of tensors, got others inside; "
        f"return {{{words}}}"
    )


def _leaves(struct: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Give what nested dictionaries and lists hold, each under a name of its own."""
    if isinstance(struct, dict | list | tuple):
        items = struct.items() if isinstance(struct, dict) else enumerate(struct)
        for key, value in items:
            own = f"{path}_{key}" if path else f"output_{key}" if isinstance(key, int) else str(key)
            yield from _leaves(value, own)
    elif struct is not None:
        yield path, struct


def pack_inputs(model: Any, tensors: Mapping[str, Any]) -> Any:
    """Return tensors by input name in the structure that the model was built with (one, a list or a dict)."""
    import keras

    struct = getattr(model, "_inputs_struct", model.inputs)
    packed = _without_lists(keras.tree.map_structure(lambda tensor: tensors[tensor.name], struct))
    return packed[0] if isinstance(packed, tuple) and len(packed) == 1 else packed


def _without_lists(struct: Any) -> Any:
    """Return a structure with tuples in place of lists, which tf.data would stack into one tensor."""
    if isinstance(struct, dict):
        return {key: _without_lists(value) for key, value in struct.items()}
    return tuple(map(_without_lists, struct)) if isinstance(struct, list | tuple) else struct


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


def served_inputs(model: Any, export: Export) -> dict[str, str]:
    """Return served name of each input to Keras' name of it.

    Raises:
        SignatureMismatch: `export.inputs` does not fit the model, or a name cannot be exported.
    """
    found = served_names(export.inputs, [spec.name for spec in input_specs(model)], "export.inputs")
    check_input_names(found)
    return found


def served_outputs(model: Any, export: Export) -> dict[str, str]:
    """Return served name of each output to Keras' name of it.

    Raises:
        SignatureMismatch: `export.outputs` does not fit the model, or a name cannot be exported.
    """
    available = output_names(model)
    check_output_names([*available, *export.outputs])
    return served_names(export.outputs, available, "export.outputs")


def served_names(wanted: Mapping[str, str], available: list[str], field: str) -> dict[str, str]:
    """Return served name to Keras name; no wish serves Keras' own names."""
    if not wanted:
        return {name: name for name in available}
    if sorted(wanted.values()) != sorted(available):
        raise SignatureMismatch(
            f"{field} must name each of the model's {', '.join(available)} once, got {', '.join(wanted.values())}"
        )
    return dict(wanted)
