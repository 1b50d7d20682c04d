"""A stream of rows: predicts whether a sum of noisy numbers is positive; the rows are made by a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

WIDTH = 64  # numbers in a row


def load(rows: int = 20_000, batch_rows: int = 10_000) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Return a function that yields batches: float32 (batch, 64), and 0 or 1 as int32 (batch,)."""
    import numpy as np

    def batches() -> Iterator[tuple[Any, Any]]:
        for start in range(0, rows, batch_rows):
            rng = np.random.default_rng(start)
            x = rng.standard_normal((min(batch_rows, rows - start), WIDTH), dtype=np.float32)
            noise = rng.standard_normal(len(x), dtype=np.float32)
            yield x, (x[:, :8].sum(axis=1) + noise > 0).astype(np.int32)

    return batches


def build(features: Any, hidden: int = 32) -> Any:
    """Return a compiled network; `features` are some of the training rows, which suffice to adapt its scaling."""
    import keras

    scale = keras.layers.Normalization()
    scale.adapt(features)
    hidden_layer = keras.layers.Dense(hidden, activation="relu")
    answer = keras.layers.Dense(1, activation="sigmoid", name="positive")
    model = keras.Sequential([keras.Input((WIDTH,), name="numbers"), scale, hidden_layer, answer])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model
