"""Infers facts about the outputs of a compiled Keras model from its losses and last operations.

Runs in the TensorFlow process. A loss is recognised by Keras' own function; a loss that the user wrote, or wrapped in a
function, is unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.datasets.strings import Array, is_string
from tasks.records import Clues
from tasks.savedmodel.structure import output_names

# By the name of the function in keras.losses. Dice and Tversky compare masks of 0 and 1; Circle and CTC are for
# embeddings and sequences, for which there is no metric here.
FAMILIES = {
    "binary_crossentropy": "binary",
    "binary_focal_crossentropy": "binary",
    "dice": "binary",
    "tversky": "binary",
    "sparse_categorical_crossentropy": "classes",
    "categorical_generalized_cross_entropy": "classes",
    "categorical_crossentropy": "one-hot",
    "categorical_focal_crossentropy": "one-hot",
    "kl_divergence": "one-hot",
    "hinge": "margin",
    "squared_hinge": "margin",
    "categorical_hinge": "one-hot margin",
    "mean_squared_error": "numbers",
    "mean_absolute_error": "numbers",
    "mean_absolute_percentage_error": "numbers",
    "mean_squared_logarithmic_error": "numbers",
    "cosine_similarity": "numbers",
    "huber": "numbers",
    "log_cosh": "numbers",
    "poisson": "numbers",
    "circle": "",
    "ctc": "",
}
ROUNDING = 1e-6  # for probabilities that were computed in float32
ENDINGS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "log_softmax"}
PASSING = {"Identity", "IdentityN", "Cast", "StopGradient", "EnsureShape"}  # operations that do not change the numbers


def clues_of(loss: object, ends_in: str = "", target_shape: Any = None, output_shape: Any = None) -> Clues:
    """Return the facts that follow from one loss.

    Args:
        loss: the argument of `compile` for one output: an object, a class, a function, a name, or None.
        ends_in: the operation that computes the output.
        target_shape, output_shape: with the batch axis; they decide which loss `crossentropy` is in Keras.
    """
    function, options, label = _function_of(_named(loss, target_shape, output_shape))
    name = getattr(function, "__name__", "")
    family = FAMILIES.get(name, "") if _is_keras(function) else ""
    from_logits = bool(family and options.get("from_logits"))
    said = f"{label or name}{'(from_logits=True)' if from_logits else ''}" if loss is not None else ""
    return Clues(said, family, from_logits, ends_in)  # type: ignore[arg-type]


def losses_by_output(model: Any) -> dict[str, Any]:
    """Return the loss that `compile` got for each output, by Keras' name, or None if that is unknown.

    A single loss for several outputs applies to each of them.
    """
    import keras

    names, loss = output_names(model), model.loss
    if len(names) == 1:
        found = _alone(loss, names[0])
        return {names[0]: found}
    if not isinstance(loss, Mapping | list | tuple):
        return dict.fromkeys(names, loss)
    struct = getattr(model, "_outputs_struct", None)
    if isinstance(loss, Mapping):
        keras_names = dict(zip(names, getattr(model, "output_names", names), strict=False))
        return {name: loss.get(name, loss.get(keras_names.get(name, name))) for name in names}
    if isinstance(loss, list | tuple) and len(loss) == len(names):
        if isinstance(struct, Mapping):  # Keras assigns a list to a dictionary's outputs in the order of its tree
            return dict(keras.tree.pack_sequence_as(struct, list(loss)))
        return dict(zip(names, loss, strict=True))
    return dict.fromkeys(names)


def unfit_target(loss: object, target: Array, answers: Array) -> str:
    """Return why a loss of Keras cannot be computed from a target, and what to do, or an empty string.

    Args:
        loss: the argument of `compile` for one output.
        target: the true values, of shape (n, ...). answers: of shape (m, ...); only the shape is used.
    """
    function, options, label = _function_of(_named(loss, target.shape, answers.shape))
    name = getattr(function, "__name__", "")
    if not _is_keras(function) or not answers.ndim:
        return ""
    if is_string(target):
        return "text; convert names to numbers, for example with numpy.unique(target, return_inverse=True)"
    classes, own = answers.shape[-1], target.shape[-1] if target.ndim == answers.ndim else 1
    if name.startswith("categorical") and "crossentropy" in name and own == 1 < classes:
        return (
            f"the number of a class, but {label or name} needs a row of {classes} numbers; use "
            "sparse_categorical_crossentropy"
        )
    if name != "sparse_categorical_crossentropy" or options.get("axis", -1) != -1:
        return _out_of_range(FAMILIES.get(name, ""), target, label or name)
    if own == classes > 1:
        return f"{own} numbers, but {label or name} needs the number of a class; use categorical_crossentropy"
    if options.get("ignore_class") is not None:
        return ""
    values = target.astype(np.float64)
    low, high = values.min(), values.max()
    if low >= 0 and high < classes and np.array_equal(values, np.floor(values)):
        return ""
    whole = "only zeros" if classes == 1 else f"whole numbers from 0 to {classes - 1}"
    mend = "use binary_crossentropy" if classes == 1 else "number the classes from 0, or make the output wider"
    width = f"the output has {classes} number{'s' if classes > 1 else ''} for each row"
    return f"{low:g} to {high:g}, but {label or name} needs {whole}, because {width}; {mend}"


def _out_of_range(family: str, target: Array, loss: str) -> str:
    """Return which values of a target are invalid for a family of losses; Keras does not check them.

    Source: keras/src/losses/losses.py: targets of cross-entropies are probabilities; hinge losses take -1 and 1, and
    turn 0 and 1 into these only where there is nothing else.
    """
    if family in ("binary", "one-hot"):
        low, high = float(target.min()), float(target.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            pair = set(np.unique(target).tolist()) == {-1, 1}
            mend = "replace -1 by 0" if pair else "scale it, or use a loss for numbers, such as mean_squared_error"
            return f"{low:g} to {high:g}, but {loss} needs values from 0 to 1; {mend}"
    if family == "margin":
        values = sorted(set(np.unique(target).tolist()))
        if not (set(values) <= {0, 1} or set(values) <= {-1, 1}):
            shown = ", ".join(f"{value:g}" for value in values[:4]) + (" and more" if len(values) > 4 else "")
            return f"the values {shown}, but {loss} needs -1 and 1 only, or 0 and 1 only; convert the target to these"
    return ""


def ending_of(tensor: Any) -> str:
    """Return the operation that computes a tensor of a graph: `softmax`, `sigmoid`, `log_softmax`, or empty.

    Keras' own losses check the same operation, to use its input, the logits.
    """
    operation = getattr(tensor, "op", None)
    while operation is not None and operation.type in PASSING and len(operation.inputs) == 1:
        operation = operation.inputs[0].op
    return ENDINGS.get(getattr(operation, "type", ""), "")


def _alone(loss: Any, name: str) -> Any:
    """Return the loss of the only output, without containers around it; None for several losses of one output."""
    if isinstance(loss, Mapping):
        return loss.get(name, next(iter(loss.values()))) if len(loss) == 1 else loss.get(name)
    if isinstance(loss, list | tuple):
        return loss[0] if len(loss) == 1 else None
    return loss


def _named(loss: Any, target_shape: Any, output_shape: Any) -> Any:
    """Return the loss that a name or a class stands for in Keras; `crossentropy` is one of three."""
    import keras

    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        if output_shape is None or target_shape is None:
            return None
        if output_shape[-1] == 1:
            return keras.losses.binary_crossentropy
        sparse = len(target_shape) < len(output_shape) or target_shape[-1] == 1
        return keras.losses.sparse_categorical_crossentropy if sparse else keras.losses.categorical_crossentropy
    if isinstance(loss, str | type):
        try:
            return keras.losses.get(loss)
        except (ValueError, TypeError):  # Keras reports it itself during the training
            return None
    return loss


def _function_of(loss: Any) -> tuple[Any, Mapping[str, Any], str]:
    """Return the function that a loss calls, its options, and a readable name of the loss."""
    from keras.src.losses.losses import LossFunctionWrapper  # the base of all of Keras' classes of losses

    if isinstance(loss, functools.partial):
        function, options, _ = _function_of(loss.func)
        return function, {**options, **loss.keywords}, ""
    if not isinstance(loss, LossFunctionWrapper):
        return loss, {}, "" if hasattr(loss, "__name__") else type(loss).__name__
    label = type(loss).__name__
    plain = type(loss).call is LossFunctionWrapper.call and type(loss).__call__ is LossFunctionWrapper.__call__
    if not plain:
        return None, {}, label
    function, options, name = _function_of(loss.fn)
    return function, {**options, **loss._fn_kwargs}, name if label == "LossFunctionWrapper" else label


def _is_keras(function: Any) -> bool:
    """Return whether a function is Keras' own; a wrapper may have the same name and module."""
    from keras.src.losses import losses

    return function is not None and getattr(losses, getattr(function, "__name__", ""), None) is function
