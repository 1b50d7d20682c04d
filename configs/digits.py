"""Handwritten digits: 1,797 images of 8 x 8 grey values that scikit-learn ships."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def load() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return images as float32 (1797, 64) with grey values from 0 to 16, and the digits as int64 (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data.astype(np.float32), digits.target.astype(np.int64)


def build(images: npt.NDArray[np.float32], hidden: int = 64, learning_rate: float = 3e-3) -> Any:
    """Return a small compiled network that maps grey values to the probability of each digit."""
    import keras

    pixels = keras.Input((images.shape[1],), name="pixels")
    scaled = keras.layers.Rescaling(1 / 16)(pixels)
    features = keras.layers.Dense(hidden, activation="relu")(scaled)
    probabilities = keras.layers.Dense(10, activation="softmax", name="probabilities")(features)
    model = keras.Model(pixels, probabilities)
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
