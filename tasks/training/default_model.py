"""The model that is built from declared features if `model.build` is empty: a small network for a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.errors import TrainingError
from tasks.training.preprocessing import DeclaredFeatures, preprocess

WIDEST_SCALE = 1e15  # of a target; the loss squares it, in float32
OUTPUT = {"number": "prediction", "two": "probability", "more": "probabilities"}
"""The names of the output, by what is predicted."""


def build(
    features: DeclaredFeatures,
    hidden: int | Sequence[int] = (64, 32),
    dropout: float = 0.0,
    learning_rate: float = 1e-3,
) -> Any:
    """Return a compiled network with the preprocessing of `features` in its graph.

    Two classes give the probability of the second one, `(rows, 1)`, more classes a probability for each, and a number
    its prediction in the unit of the target, `(rows, 1)`; all are float32.

    Args:
        hidden: units of the hidden layers, one number or one for each layer.
        dropout: share of the units of each hidden layer that a training step leaves out.

    Raises:
        TrainingError: a parameter is out of range.
    """
    import keras

    sizes = [hidden] if isinstance(hidden, int) else list(hidden)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise TrainingError(f"model.params.hidden must be whole numbers above 0, got {hidden!r}")
    if not 0 <= dropout < 1:
        raise TrainingError(f"model.params.dropout must be at least 0 and below 1, got {dropout!r}")
    if not learning_rate > 0:
        raise TrainingError(f"model.params.learning_rate must be above 0, got {learning_rate!r}")
    if not 1 / WIDEST_SCALE <= features.scale <= WIDEST_SCALE:
        raise TrainingError(
            f"the standard deviation of the target '{features.target}' must be {1 / WIDEST_SCALE:g} to "
            f"{WIDEST_SCALE:g}, because the model is trained in float32, got {features.scale:g}; use another unit"
        )
    inputs, last = preprocess(features)
    own = features.layer_names
    for number, size in enumerate(sizes, start=1):
        last = keras.layers.Dense(size, activation="relu", name=own(f"hidden_{number}"))(last)
        last = keras.layers.Dropout(dropout, name=own(f"dropout_{number}"))(last) if dropout else last
    adam, number_of = keras.optimizers.Adam(learning_rate), len(features.classes)
    if not number_of:
        scaled = keras.layers.Dense(1, name=own("scaled_answer"))(last)
        answer = keras.layers.Rescaling(features.scale, features.offset, name=own("answer"))(scaled)
        model = keras.Model(inputs, {OUTPUT["number"]: answer})
        weight = 1 / features.scale**2  # the optimizer ignores gradients that a small unit makes tiny
        model.compile(adam, "mean_squared_error", loss_weights=weight, metrics=["mae"])
    elif number_of == 2:
        model = keras.Model(
            inputs, {OUTPUT["two"]: keras.layers.Dense(1, activation="sigmoid", name=own("answer"))(last)}
        )
        model.compile(adam, "binary_crossentropy", metrics=["accuracy"])
    else:
        answer = keras.layers.Dense(number_of, activation="softmax", name=own("answer"))(last)
        model = keras.Model(inputs, {OUTPUT["more"]: answer})
        model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
