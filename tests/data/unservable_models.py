"""Models that cannot be served, and loaders and builders that fail, each of a kind that is known before training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ROWS = 60


def rows() -> tuple[Any, Any]:
    """Return three numbers a row and their sum."""
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    return {"x": x}, x.sum(axis=1)


def counts() -> tuple[Any, Any]:
    """Return three whole numbers a row and their sum."""
    x = np.random.default_rng(0).integers(0, 60000, (ROWS, 3))
    return {"x": x}, x.sum(axis=1) / 1e5


def texts() -> tuple[Any, Any]:
    """Return texts of one to eight words, and how many they are."""
    draw = np.random.default_rng(0)
    words, lengths = np.array(["the", "cat", "sat", "on", "a", "mat"]), draw.integers(1, 9, ROWS)
    return {"text": np.array([" ".join(draw.choice(words, n)) for n in lengths])}, {"label": lengths.astype(np.float32)}


def targets(how: str) -> tuple[Any, Any]:
    """Return rows whose target, or whose values, a model does not take as they are."""
    place = np.arange(ROWS)
    found: dict[str, Any] = {
        "text": np.array(["low", "mid", "high"])[place % 3],
        "too many": 1 + place % 2,
        "huge": np.where(place % 2, 1e300, 1.0),
        "long": np.full(ROWS, 20_000_001),
    }
    seconds = np.where(place % 2, 1_700_000_031.5, place.astype(np.float64))
    return {"x": (seconds if how == "long" else place)[:, None] * np.ones((1, 3))}, found[how]


def learner(_features: Mapping[str, Any], how: str) -> Any:
    """Return a model for one of `targets`."""
    import keras

    x = keras.Input((3,), name="x")
    classes = how == "too many"
    y = keras.layers.Dense(2 if classes else 1, "softmax" if classes else None, name="score")(x)
    return _compiled(x, y, "sparse_categorical_crossentropy" if classes else "mse")


def unreadable(features: Mapping[str, Any], how: str) -> Any:
    """Return a model whose file Keras cannot read back, though every class of it is registered."""
    import keras

    if how == "not adapted":
        x = keras.Input((), name="text", dtype="string")
        words = keras.layers.Embedding(9, 1)(keras.layers.TextVectorization()(x))
        return _compiled(x, keras.layers.GlobalAveragePooling1D()(words))

    @keras.saving.register_keras_serializable("unservable_models")
    class Own(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, bias: float, **options: Any) -> None:
            super().__init__(**options)
            self.bias = bias

        def call(self, x: Any) -> Any:
            return x + self.bias

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    x = keras.Input((3,), name="x")
    return _compiled(x, Own(1.0)(x))


def named(targets: Sequence[str]) -> tuple[Any, Any]:
    """Return three numbers a row, and targets by name."""
    features, total = rows()
    return features, dict.fromkeys(targets, total)


def columns(names: Sequence[str]) -> tuple[Any, Any]:
    """Return a column of numbers a name."""
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=ROWS) for name in names}, draw.normal(size=ROWS)


def iris() -> tuple[Any, Any]:
    """Return scikit-learn's iris, whose columns are called such as `sepal length (cm)`."""
    from sklearn.datasets import load_iris

    found = load_iris(as_frame=True)
    return found.data, found.target


def by_column(features: Mapping[str, Any], classes: int = 1) -> Any:
    """Return a model with an input a column."""
    import keras

    inputs = [keras.Input((1,), name=name) for name in features]
    joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    model = keras.Model(inputs, keras.layers.Dense(classes, "softmax" if classes > 1 else None, name="score")(joined))
    model.compile("adam", "sparse_categorical_crossentropy" if classes > 1 else "mse")
    return model


def _compiled(inputs: Any, outputs: Any, loss: Any = "mse") -> Any:
    import keras

    model = keras.Model(inputs, outputs)
    model.compile("adam", loss)
    return model


def outputs(_features: Mapping[str, Any], how: str) -> Any:
    """Return a model whose outputs are of a kind that a signature, or a row, does not know."""
    import keras
    from keras import ops

    x = keras.Input((3,), name="x")
    score = keras.layers.Dense(1, name="score")(x)
    found: dict[str, Any] = {
        "two": lambda: {"score": score, "extra": score * 2},
        "scalar": lambda: {"score": score, "extra": ops.mean(score)},
        "one row": lambda: {"score": score, "extra": ops.mean(score, axis=0, keepdims=True)},
        "flattened": lambda: {"score": score, "extra": ops.reshape(x, (-1,))},
        "transposed": lambda: {"score": score, "extra": ops.transpose(x)},
        "nested": lambda: {"score": score, "more": {"twice": score * 2, "deep": {"thrice": score * 3}}},
        "tuple": lambda: (score, (score * 2, score * 3)),
        "number as name": lambda: {0: score},
        "line break in name": lambda: {"a\nb": score},
        "half": lambda: {"score": score, "extra": ops.cast(score, "float16")},
        "bfloat16": lambda: {"score": score, "extra": ops.cast(score, "bfloat16")},
        "uint16": lambda: {"score": score, "extra": ops.cast(score, "uint16")},
    }[how]()
    return _compiled(x, found, {"score": "mse"} if isinstance(found, dict) and "score" in found else "mse")


def layers(_features: Mapping[str, Any], how: str) -> Any:
    """Return a model that Keras does not read back, or TensorFlow does not export; or that only looks like one."""
    import keras
    import tensorflow as tf

    class Scale(keras.layers.Layer):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def call(self, tensor: Any) -> Any:
            return tensor * self.factor

    @keras.saving.register_keras_serializable("unservable_models")
    class Table(keras.layers.Layer):
        """Looks numbers up in a table that the model does not own."""

        def call(self, tensor: Any) -> Any:
            return TABLES[0].lookup(tf.cast(tensor, tf.int64))

    @keras.saving.register_keras_serializable("unservable_models")
    class Untraced(keras.layers.Layer):
        """Works on tensors that have a value, and on no other."""

        def call(self, tensor: Any) -> Any:
            return tensor * float(tensor[0, 0]) if hasattr(tensor, "numpy") else keras.ops.identity(tensor).numpy()

        def compute_output_spec(self, tensor: Any) -> Any:
            return keras.KerasTensor(tensor.shape, tensor.dtype)

    if how == "named":
        register()
    if how == "table":
        initializer = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant([5.0, 6.0]))
        TABLES[:] = [tf.lookup.StaticHashTable(initializer, 0.0)]
    x = keras.Input((3,), name="x")
    hidden = {
        "lambda": lambda: keras.layers.Lambda(lambda tensor: tensor * 2)(x),
        "layer": lambda: Scale(3.0)(x),
        "activation": lambda: keras.layers.Dense(4, activation=lambda tensor: tensor * 2)(x),
        "table": lambda: Table()(x),
        "untraced": lambda: Untraced()(x),
        "named": lambda: keras.layers.Lambda(doubled, output_shape=(3,))(x),
        "loss": lambda: x,
        "mixed precision": lambda: keras.layers.Dense(8, "relu", dtype="mixed_float16")(x),
    }[how]()

    def loss(true: Any, served: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(true - served), -1)

    return _compiled(x, keras.layers.Dense(1, name="score")(hidden), loss if how == "loss" else "mse")


TABLES: list[Any] = []


def doubled(tensor: Any) -> Any:
    """Return twice a tensor: a function that Keras finds again by its name."""
    return tensor * 2


def register() -> None:
    """Let Keras find `doubled`, as a decorator at the head of a user's module does."""
    import keras

    keras.saving.register_keras_serializable("unservable_models")(doubled)


def inputs(_features: Mapping[str, Any], how: str) -> Any:
    """Return a model that does not take what clients send."""
    import keras
    from keras import ops

    x = keras.Input(batch_shape=(32, 3), name="x") if how == "fixed batch" else keras.Input(
        (3,), name="x", dtype={"half": "float16", "bfloat16": "bfloat16", "uint16": "uint16"}.get(how, "float32")
    )  # fmt: skip
    hidden = ops.reshape(x, (20, 3)) if how == "fixed inside" else ops.cast(x, "float32")
    return _compiled(x, keras.layers.Dense(1, name="score")(hidden))


def twins() -> tuple[Any, Any]:
    """Return two features of the same width."""
    features, target = rows()
    return {**features, "z": features["x"] * 2}, target


def nested_inputs(_features: Mapping[str, Any]) -> Any:
    """Return a model whose inputs are a dictionary of a dictionary and a list."""
    import keras

    x, z = keras.Input((3,), name="x"), keras.Input((3,), name="z")
    return _compiled({"of x": {"q": x}, "of z": [z]}, keras.layers.Dense(1, name="score")(x + z))


def tagger(features: Mapping[str, Any], how: str = "masked") -> Any:
    """Return a model with a tag a word, as long as the longest text of the batch."""
    import keras
    from keras import layers, ops

    words = layers.TextVectorization()
    words.adapt(features["text"])
    text = keras.Input((1,), dtype="string", name="text")
    ids = words(text)
    embedded = layers.Embedding(9, 4, mask_zero=True)(ids)
    hidden = layers.GRU(8, return_sequences=True)(embedded)
    label = layers.Dense(1, name="label")(hidden[:, -1])
    tags = layers.Dense(3, activation="softmax")(hidden)
    there = ops.cast(ops.not_equal(ids, 0), "float32")[..., None]
    tags = {
        "masked": lambda: tags,
        "zero": lambda: tags * there,  # padded with zeros
        "batch": lambda: ops.softmax(tags, axis=0),  # what stands beside counts
        "sum": lambda: ops.cumsum(tags * there, axis=0),  # what stands before counts
        "length": lambda: tags * ops.sum(ops.ones_like(there), 1, keepdims=True),  # how long the others are counts
    }[how]()
    return _compiled(text, {"label": label, "tags": tags}, {"label": "mse"})


def failing(_features: Mapping[str, Any], how: str) -> Any:
    """Return a model in whose training or saving the user's own code fails."""
    import keras

    x = keras.Input((3,), name="x")
    y = keras.layers.Dense(1, name="y")(x)

    def loss(_true: Any, served: Any) -> Any:
        if how == "loss":
            raise KeyError("no such loss")
        import tensorflow as tf

        tf.debugging.assert_greater(served, 1e30, "no number of mine")  # known when the graph runs
        return served

    class Metric(keras.metrics.Mean):
        def update_state(self, *_args: Any, **_kwargs: Any) -> None:
            raise TypeError("a metric of\x1b[1m mine\x1b[0m")

    @keras.saving.register_keras_serializable("unservable_models")
    class Model(keras.Model):  # type: ignore[misc]
        def train_step(self, _data: Any) -> Any:
            return {"loss": [1.0, 2.0]}

        def fit(self, *args: Any, **kwargs: Any) -> Any:
            if how == "exit":
                sys.exit("enough")
            if how == "history":
                found = keras.callbacks.History()
                found.history = {"loss": [[1.0, 2.0]]}
                return found
            return super().fit(*args, **kwargs)

        def save(self, *args: Any, **kwargs: Any) -> Any:
            if how == "save":
                raise RuntimeError("I will not be saved")
            return super().save(*args, **kwargs)

    if how == "build":
        raise AssertionError
    if how == "build exits":
        sys.exit(3)
    if how == "compile":
        keras.Model(x, y).compile("no such optimizer")
    model = (Model if how in ("exit", "history", "save", "train_step") else keras.Model)(x, y)
    model.compile("adam", loss if how in ("loss", "graph") else "mse", metrics=[Metric()] if how == "metric" else [])
    return model
