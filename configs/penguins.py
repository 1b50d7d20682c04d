"""Palmer penguins: predicts the species from bill, flipper, weight, island and sex; needs no download.

Source: the CSV of the palmerpenguins package; Horst, Hill, Gorman (2020), doi:10.5281/zenodo.3960218.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBERS = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
TEXTS = ("island", "sex")
SPECIES = ("Adelie", "Chinstrap", "Gentoo")


def load() -> tuple[Any, Any]:
    """Return a table of four measurements and two texts, and the species as int64, for the 333 complete rows."""
    from importlib.resources import files

    import pandas as pd

    with (files("palmerpenguins") / "data" / "penguins.csv").open() as stream:
        table = pd.read_csv(stream).dropna(subset=[*NUMBERS, *TEXTS])
    return table[[*NUMBERS, *TEXTS]], table["species"].map(SPECIES.index)


def build(features: Mapping[str, Any], hidden: int = 16) -> Any:
    """Return a compiled network that scales the numbers and looks up the texts with values from the training rows."""
    import keras

    inputs, parts = {}, []
    for name in NUMBERS:
        inputs[name] = keras.Input((1,), name=name)
        scale = keras.layers.Normalization(axis=None)
        scale.adapt(features[name])
        parts.append(scale(inputs[name]))
    for name in TEXTS:
        inputs[name] = keras.Input((1,), name=name, dtype="string")
        lookup = keras.layers.StringLookup(output_mode="one_hot")  # unknown text has a place of its own
        lookup.adapt(features[name])
        parts.append(lookup(inputs[name]))
    joined = keras.layers.Dense(hidden, activation="relu")(keras.layers.Concatenate()(parts))
    model = keras.Model(inputs, {"species": keras.layers.Dense(len(SPECIES), activation="softmax")(joined)})
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
