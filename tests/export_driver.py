"""Writes models, or exports written ones and prints the digest of each; runs in a process of its own.

python -m tests.export_driver write|export|export-later DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from configs.loading import load_config
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_rows
from tasks.savedmodel.exporter import export_here, read_back
from tasks.savedmodel.manifest import write_manifest
from tasks.savedmodel.reproducible import count_anew
from tasks.training.fit import build_model


def deep() -> Any:
    """Return a model with many variables, some of which are not trained, and a generator of random numbers."""
    import keras

    layers = [keras.Input((4,), name="x")]
    for width in range(8, 14):
        layers += [keras.layers.Dense(width), keras.layers.BatchNormalization(), keras.layers.Dropout(0.1)]
    return keras.Sequential([*layers, keras.layers.Dense(2, name="y")], name="deep")


def tables() -> Any:
    """Return a model of two outputs with two lookup tables and a normalization."""
    import keras

    word, x = keras.Input((1,), dtype="string", name="word"), keras.Input((3,), name="x")
    number = keras.Input((1,), dtype="int64", name="number")
    encoded = [
        keras.layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")(word),
        keras.layers.IntegerLookup(vocabulary=[7, 5, 3], output_mode="one_hot")(number),
        keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])(x),
    ]
    hidden = keras.layers.Dense(8)(keras.layers.Concatenate()(encoded))
    outputs = [keras.layers.Dense(1, name=name)(hidden) for name in ("p", "q")]
    return keras.Model([word, x, number], outputs, name="tables")


def parcels(directory: Path) -> Any:
    """Return the default model of the declared features of an example: categories, ids, dates, booleans, text."""
    config = load_config(Path("configs/parcels.yaml"))
    splits = prepare_splits(config.data, directory / "data")
    model = build_model(config, load_rows(splits.train), splits.classes)
    model.name = "parcels"
    return model


def train_something() -> None:
    """Do what a run may have done in this process before: train, predict, save."""
    import keras
    import numpy as np

    for units in (3, 5):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
        model.compile("adam", "mse")
        model.fit(np.zeros((8, 2)), np.zeros((8, units)), epochs=2, verbose=0)
        model.predict(np.zeros((8, 2)), verbose=0)


def main(what: str, directory: Path) -> None:
    """Write the models as `.keras` files, or print a line with name and digest for each file."""
    import keras

    if what == "write":
        keras.utils.set_random_seed(1)
        for model in (deep(), tables(), parcels(directory)):
            model.save(directory / f"{model.name}.keras")
        return
    if what == "export-later":
        train_something()
    (directory / "cfg.yaml").write_text(
        "name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"
    )
    config = load_config(directory / "cfg.yaml")
    for file in sorted(directory.glob("*.keras")):
        count_anew()
        exported = export_here(config, read_back(file), directory / what / file.stem)
        sys.stdout.write(f"{file.stem} {write_manifest(exported).digest}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
