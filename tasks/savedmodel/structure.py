"""The inputs and outputs of a Keras model by name; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from configs.sections.model import Export
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.strings import Array, as_objects
from tasks.errors import ExportError, SignatureMismatch
from tasks.records import TensorSpec
from tasks.savedmodel.names import check_input_names, check_output_names


def input_specs(model: Any) -> list[TensorSpec]:
    """Return the inputs of a Keras model; their first axis is free."""
    return [TensorSpec(str(t.name), str(t.dtype), (None, *t.shape[1:])) for t in model.inputs]


NAMED_INPUTS = "a model with named inputs: use the functional API, or start a Sequential with keras.Input"


def check_named_inputs(model: Any) -> None:
    """Refuse what is not a Keras model, and a subclassed one, whose inputs have no names.

    Raises:
        ExportError: it is another object. SignatureMismatch: clients could not name what they send.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"Keras must compute with TensorFlow to be served by it, got {keras.backend.backend()}; set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )
    if not isinstance(model, keras.Model):
        raise ExportError(
            f"a model must be a keras.Model, the path of a model, or MLflow's model URI, got {type(model).__name__}"
        )
    if not getattr(model, "inputs", None):
        raise SignatureMismatch(f"a candidate must be {NAMED_INPUTS}; got {type(model).__name__}, which names none")


def check_free_batch(model: Any) -> None:
    """Refuse inputs with a fixed number of rows.

    Raises:
        SignatureMismatch: clients could not send another number of rows.
    """
    for tensor in model.inputs:
        if tensor.shape[:1] != (None,):
            raise SignatureMismatch(
                f"every input must accept any number of rows, got '{tensor.name}' of shape {tuple(tensor.shape)}; "
                "create it with keras.Input(shape), without batch_size or batch_shape"
            )


def output_names(model: Any) -> list[str]:
    """Return the names of a model's outputs: the keys of its dict, or the names of its output layers.

    Raises:
        SignatureMismatch: the outputs are nested, but a signature has only names and tensors.
    """
    struct = getattr(model, "_outputs_struct", None)
    _check_flat(struct)
    if isinstance(struct, dict):
        return list(struct)
    names: list[str] = []
    for tensor in model.outputs:  # a Sequential has no output_names, and a shared layer has one name
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
        "the outputs of a model must be a tensor, a flat list or a flat dictionary of tensors, got nested outputs; "
        f"return {{{words}}}"
    )


def _leaves(struct: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dictionaries and lists, each with a name of its own."""
    if isinstance(struct, dict | list | tuple):
        items = struct.items() if isinstance(struct, dict) else enumerate(struct)
        for key, value in items:
            own = f"{path}_{key}" if path else f"output_{key}" if isinstance(key, int) else str(key)
            yield from _leaves(value, own)
    elif struct is not None:
        yield path, struct


def pack_inputs(model: Any, tensors: Mapping[str, Any]) -> Any:
    """Return tensors by input name in the structure that the model takes (a tensor, a list or a dict)."""
    import keras

    struct = getattr(model, "_inputs_struct", model.inputs)
    packed = _without_lists(keras.tree.map_structure(lambda tensor: tensors[tensor.name], struct))
    return packed[0] if isinstance(packed, tuple) and len(packed) == 1 else packed


def _without_lists(struct: Any) -> Any:
    """Return a structure with tuples instead of lists, because tf.data would stack lists into one tensor."""
    if isinstance(struct, dict):
        return {key: _without_lists(value) for key, value in struct.items()}
    return tuple(map(_without_lists, struct)) if isinstance(struct, list | tuple) else struct


def pack_features(model: Any, features: Mapping[str, Array], rows: slice = slice(None)) -> Any:
    """Return features as inputs of the model, as TensorFlow tensors, because Keras' array adapter takes no text.

    Args:
        features: all rows, because the whole column decides whether a cast is exact.
        rows: the rows to return.
    """
    import tensorflow as tf

    fed = fit_to_inputs(features, input_specs(model))
    return pack_inputs(model, {name: tf.constant(as_objects(array[rows])) for name, array in fed.items()})


def name_outputs(model: Any, answers: Any) -> dict[str, Any]:
    """Return the answers of a model by output name."""
    if isinstance(answers, dict):
        return answers
    listed = answers if isinstance(answers, list | tuple) else [answers]
    return dict(zip(output_names(model), listed, strict=True))


def served_inputs(model: Any, export: Export) -> dict[str, str]:
    """Return a mapping from the served name of each input to Keras' name.

    Raises:
        SignatureMismatch: `export.inputs` does not fit the model, or a name cannot be exported.
    """
    found = served_names(export.inputs, [spec.name for spec in input_specs(model)], "export.inputs")
    check_input_names(found)
    return found


def served_outputs(model: Any, export: Export) -> dict[str, str]:
    """Return a mapping from the served name of each output to Keras' name.

    Raises:
        SignatureMismatch: `export.outputs` does not fit the model, or a name cannot be exported.
    """
    available = output_names(model)
    check_output_names([*available, *export.outputs])
    return served_names(export.outputs, available, "export.outputs")


def served_names(wanted: Mapping[str, str], available: list[str], field: str) -> dict[str, str]:
    """Return a mapping from served names to Keras' names; without configured names, they are the same."""
    if not wanted:
        return {name: name for name in available}
    if sorted(wanted.values()) != sorted(available):
        raise SignatureMismatch(
            f"the values of {field} must be {', '.join(available)}, each once, got {', '.join(wanted.values())}"
        )
    return dict(wanted)
