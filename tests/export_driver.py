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
from tasks.savedmodel.reproducible import settle, start_anew, used_variables
from tasks.training.fit import build_model

LIKE_A_COUNT = "q_2000010"  # a name of the user's with a number that TensorFlow counts in a second export


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
    outputs = [keras.layers.Dense(1, name=name)(hidden) for name in ("p", LIKE_A_COUNT)]
    return keras.Model([word, x, number], outputs, name="tables")


def unnamed() -> Any:
    """Return a model whose layers make layers without a name and generators of random numbers, which are used."""
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Gate(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.parts = [keras.layers.Dense(4) for _ in range(9)]

        def build(self, shape: Any) -> None:
            for part in self.parts:
                part.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return sum(part(x) for part in self.parts)

    x = keras.Input((6, 4), name="x")
    recurrent = keras.layers.Bidirectional(keras.layers.GRU(4, dropout=0.1, recurrent_dropout=0.1))(Gate()(x))
    return keras.Model(x, keras.layers.Dense(1, name="y")(recurrent), name="unnamed")


def write_endpoints(directory: Path) -> Path:
    """Export a model with two lookup tables and two endpoints, of which one is a part of the other."""
    import tensorflow as tf

    model = tables()
    described = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]

    @tf.function(input_signature=described)
    def both(word: Any, x: Any, number: Any) -> dict[str, Any]:
        return dict(zip(("p", LIKE_A_COUNT), model([word, x, number]), strict=True))

    @tf.function(input_signature=described)
    def one(word: Any, x: Any, number: Any) -> dict[str, Any]:
        return {"q": model([word, x, number])[1]}

    root = tf.Module()
    root.all_variables = used_variables(one.get_concrete_function(), both.get_concrete_function())
    root.model = model
    tf.saved_model.save(root, str(directory), signatures={"serving_default": both, "one": one})
    settle(directory)
    return directory


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
    import tensorflow as tf

    if what == "write":
        keras.utils.set_random_seed(1)
        for model in (deep(), tables(), parcels(directory), unnamed()):
            model.save(directory / f"{model.name}.keras")
        return
    (directory / "cfg.yaml").write_text(
        "name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"
    )
    config = load_config(directory / "cfg.yaml")
    unnamed()  # registers its class
    files = sorted(directory.glob("*.keras"))
    if what == "export-later":
        train_something()
        files.reverse()
    for file in files:
        start_anew(config.seed)
        exported = export_here(config, read_back(file), directory / what / file.stem)
        if file.stem == "tables":
            loaded = tf.saved_model.load(str(exported))
            assert {*loaded.signatures["serving_default"].structured_outputs} == {"p", LIKE_A_COUNT}
        sys.stdout.write(f"{file.stem} {write_manifest(exported).digest}\n")
    start_anew(config.seed)
    endpoints = write_endpoints(directory / what / "endpoints")
    sys.stdout.write(f"endpoints {write_manifest(endpoints).digest}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
