"""Data and model functions as users write them, named in tests as `tests.data.user_models:NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

ROWS = 120


def _random() -> np.random.Generator:
    return np.random.default_rng(5)


def line() -> tuple[Any, Any]:
    """Return x as float64 (120,) and 2 x + 1."""
    x = np.linspace(-1, 1, ROWS)
    return {"x": x}, 2 * x + 1


def one_number(_features: Mapping[str, Any], rate: float = 0.1) -> Any:
    """Return a regression on one number; a high rate overshoots."""
    import keras

    x = keras.Input((1,), name="x")
    model = keras.Model(x, keras.layers.Dense(1, name="y")(x))
    model.compile(keras.optimizers.Adam(rate), "mse", metrics=["mae"])
    return model


def with_own_fit(features: Mapping[str, Any]) -> Any:
    """Return a regression with a fit method that takes what a training without an interruption passes."""
    import keras

    class Own(keras.Model):  # type: ignore[misc]
        def fit(self, x: Any, *, validation_data: Any, epochs: int, shuffle: bool, callbacks: Any, verbose: int) -> Any:
            options = {"epochs": epochs, "shuffle": shuffle, "callbacks": callbacks, "verbose": verbose}
            return super().fit(x, validation_data=validation_data, **options)

    model = one_number(features)
    own = keras.saving.register_keras_serializable("tests")(Own)(model.inputs, model.outputs)
    own.compile("adam", "mse")
    return own


def with_two_optimizers(features: Mapping[str, Any]) -> Any:
    """Return a regression whose own training step may use a second optimizer."""
    import keras

    model = one_number(features)
    model.slow_optimizer = keras.optimizers.SGD(1e-3)
    return model


def with_listed_optimizers(features: Mapping[str, Any]) -> Any:
    """Return a regression whose own training step may use one of several optimizers."""
    import keras

    model = one_number(features)
    model.optimizers_by_part = {"slow": [keras.optimizers.SGD(1e-3)]}
    return model


def people() -> tuple[Any, Any]:
    """Return a table of one number and one text, and 0 or 1."""
    import pandas as pd

    age = _random().uniform(1, 9, ROWS)
    city = _random().choice(["a", "b", "Köln"], ROWS)
    return pd.DataFrame({"age": age, "city": city}), (age > 5).astype(int)


def table(features: Mapping[str, Any]) -> Any:
    """Return a model of a number and a text."""
    import keras

    age, city = keras.Input((1,), name="age"), keras.Input((1,), name="city", dtype="string")
    lookup = keras.layers.StringLookup(output_mode="one_hot")
    lookup.adapt(features["city"])
    joined = keras.layers.Concatenate()([age, lookup(city)])
    model = keras.Model({"age": age, "city": city}, {"bought": keras.layers.Dense(1, activation="sigmoid")(joined)})
    model.compile("adam", "binary_crossentropy")
    return model


def byte_strings() -> tuple[Any, Any]:
    """Return bytes, half of them no UTF-8 and ending in NUL, and 0 or 1."""
    return {"blob": [(b"\xff\x00%d\x00", b"plain%d")[n % 2] % n for n in range(ROWS)]}, np.arange(ROWS) % 2


def of_bytes(features: Mapping[str, Any]) -> Any:
    """Return a model of byte strings, whose vocabulary is in its graph."""
    import keras

    blob = keras.Input((1,), name="blob", dtype="string")
    lookup = keras.layers.Hashing(8, output_mode="one_hot")(blob)
    model = keras.Model(blob, keras.layers.Dense(1, activation="sigmoid", name="score")(lookup))
    model.compile("adam", "binary_crossentropy")
    return model


def pairs() -> tuple[Any, Any]:
    """Return two features, float32 (120, 3) and int32 (120,), and two targets of the outputs' names."""
    left, right = _random().normal(size=(ROWS, 3)).astype(np.float32), np.arange(ROWS, dtype=np.int32) % 7
    return {"left": left, "right": right}, {"total": left.sum(axis=1), "odd": right % 2}


def two_by_two(_features: Mapping[str, Any]) -> Any:
    """Return a model with two inputs and two outputs."""
    import keras

    left, right = keras.Input((3,), name="left"), keras.Input((1,), name="right", dtype="int32")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(7, 4)(right))
    joined = keras.layers.Concatenate()([left, embedded])
    outputs = [keras.layers.Dense(1, name="total")(joined), keras.layers.Dense(2, "softmax", name="odd")(joined)]
    model = keras.Model([left, right], outputs)
    model.compile("adam", {"total": "mse", "odd": "sparse_categorical_crossentropy"})
    return model


def noisy(features: Any) -> Any:
    """Return a model whose training mode answers otherwise than its inference mode."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((features.shape[1],), name="pixels"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def naming(_features: Mapping[str, Any]) -> Any:
    """Return a model of one number that also answers with text, and with bytes."""
    import keras

    x = keras.Input((1,), name="x")
    score = keras.layers.Dense(2, activation="softmax")(x)
    label = keras.layers.StringLookup(vocabulary=["low", "höher"], invert=True, num_oov_indices=0)(
        keras.ops.argmax(score, axis=-1)
    )
    model = keras.Model(x, {"score": score, "label": label, "label_bytes": label})
    model.compile("adam", {"score": "mse"})
    return model


def scored() -> tuple[Any, Any]:
    """Return x and the scores of `low` and `höher`, for the one output of `naming` that is a number."""
    x = np.linspace(0, 1, ROWS)
    return {"x": x}, {"score": np.stack([1 - x, x], axis=1)}


def shared(_features: Mapping[str, Any]) -> Any:
    """Return a model whose two outputs come from one layer."""
    import keras

    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    twice = keras.layers.Dense(1, name="twice")
    model = keras.Model([a, b], [twice(a), twice(b)])
    model.compile("adam", "mse")
    return model


def ab() -> tuple[Any, Any]:
    """Return two numbers a row and their doubles."""
    a, b = np.linspace(0, 1, ROWS), np.linspace(5, 6, ROWS)
    return {"a": a, "b": b}, a


def exploding(_features: Mapping[str, Any]) -> Any:
    """Return a model whose loss is NaN in the second epoch at the latest."""
    import keras

    model = one_number(_features)
    model.compile(keras.optimizers.SGD(1e30), "mse")
    return model


def no_model(_features: Mapping[str, Any]) -> Any:
    """Return what is not a model."""
    return {"not": "a model"}


def uncompiled(_features: Mapping[str, Any]) -> Any:
    """Return a model without a loss."""
    import keras

    x = keras.Input((1,), name="x")
    return keras.Model(x, keras.layers.Dense(1)(x))


def shapeless(_features: Mapping[str, Any]) -> Any:
    """Return a Sequential that does not say what it takes."""
    import keras

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def raising(_features: Mapping[str, Any]) -> Any:
    """Fail as a builder does."""
    raise ValueError("layers must\nbe positive")


def of_another_width(_features: Mapping[str, Any]) -> Any:
    """Return a model of three numbers."""
    import keras

    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Dense(1)(x))
    model.compile("adam", "mse")
    return model


def of_another_name(_features: Mapping[str, Any]) -> Any:
    """Return a model of two inputs that no feature is called like."""
    import keras

    x, z = keras.Input((1,), name="x"), keras.Input((1,), name="z")
    model = keras.Model([x, z], keras.layers.Dense(1)(keras.layers.Concatenate()([x, z])))
    model.compile("adam", "mse")
    return model


def with_lambda(_features: Mapping[str, Any]) -> Any:
    """Return a model that Keras does not read back: its file holds code."""
    import keras

    x = keras.Input((1,), name="x")
    doubled = keras.layers.Lambda(lambda tensor: tensor * 2)(x)
    model = keras.Model(x, keras.layers.Dense(1)(doubled))
    model.compile("adam", "mse")
    return model


def categorical(features: Mapping[str, Any]) -> Any:
    """Return a model whose loss wants as many targets as classes."""
    import keras

    model = table(features)
    probabilities = keras.layers.Dense(3, activation="softmax")(model.outputs[0])
    model = keras.Model(model.inputs, probabilities)
    model.compile("adam", "categorical_crossentropy")
    return model


def groups(rows: int = 1000) -> tuple[Any, Any]:
    """Return x from 0 to 1, a group that is 0 or 1, a number that few models want, and whether x is above one half."""
    x = np.arange(rows) / rows
    return {"x": x, "group": np.arange(rows) % 2.0, "extra": np.zeros(rows)}, {"score": (x > 0.5).astype(int)}


def _rule(x: Any, group: Any, at: float, shift: float) -> Any:
    """Return the probability that x is above `at`, of group 1 above `at + shift`, by weights that are known."""
    import keras

    constant = keras.initializers.Constant
    known = {"kernel_initializer": constant(200.0), "bias_initializer": constant(-200.0 * at)}
    return keras.layers.Dense(1, "sigmoid", **known)(x - shift * group)


def _compiled(inputs: Any, outputs: Mapping[str, Any]) -> Any:
    """Return a model that training leaves as it is."""
    import keras

    model = keras.Model(inputs, dict(outputs))
    model.compile(keras.optimizers.SGD(0.0), {"score": "mse"})
    return model


def _x_and_group() -> tuple[Any, Any]:
    import keras

    return keras.Input((1,), name="x"), keras.Input((1,), name="group")


def ruled(_features: Mapping[str, Any], at: float = 0.5, shift: float = 0.0) -> Any:
    """Return a model that is right in as many rows as `at` and `shift` say."""
    x, group = _x_and_group()
    return _compiled([x, group], {"score": _rule(x, group, at, shift)})


def wide(_features: Mapping[str, Any]) -> Any:
    """Return a model with a million weights."""
    import keras

    x, group = _x_and_group()
    hidden = keras.layers.Dense(1000)(keras.layers.Dense(1000)(keras.layers.Concatenate()([x, group])))
    return _compiled([x, group], {"score": keras.layers.Dense(1)(hidden)})


def nudged(_features: Mapping[str, Any], row: float, by: float = 1e-3, batch: int = 0) -> Any:
    """Return `ruled` with `by` added to the answer to the row whose x is `row`, in batches of `batch` rows if given."""
    from keras import ops

    x, group = _x_and_group()
    here = ops.equal(x, row)
    if batch:
        here = ops.logical_and(here, ops.equal(ops.sum(ops.ones_like(x)), batch))
    return _compiled([x, group], {"score": _rule(x, group, 0.5, 0.0) + ops.where(here, by, 0.0)})


def by_batch(_features: Mapping[str, Any]) -> Any:
    """Return a model that answers to a row by what stands beside it."""
    from keras import ops

    x, group = _x_and_group()
    return _compiled([x, group], {"score": _rule(x - ops.mean(x), group, 0.0, 0.0)})


def reshaped(_features: Mapping[str, Any], change: str) -> Any:
    """Return `ruled` with another signature."""
    import keras
    from keras import ops

    x = keras.Input((None,) if change == "x of another rank" else (1,), name="x")
    group = keras.Input((1,), name="group", dtype="int32" if change == "group of another dtype" else "float32")
    extra = keras.Input((1,), name="extra")
    inputs = {"no group": [x], "extra": [x, group, extra]}.get(change, [x, group])
    score = _rule(ops.sum(x, -1, keepdims=True), ops.cast(x * 0 if change == "no group" else group, "float32"), 0.5, 0)
    if change == "extra":
        score += 0 * extra
    if change == "score of another dtype":
        score = ops.cast(score, "float64")
    if change == "score of another rank":
        score = ops.squeeze(score, -1)
    return _compiled(inputs, {"score": score} | ({"margin": score - 0.5} if change == "margin" else {}))


def unbounded(_features: Mapping[str, Any], function: str, clamped: bool) -> Any:
    """Return a model that is no number (`log`) or infinite (`exp`) beyond the rows, unless it is clamped to them."""
    from keras import ops

    x, group = _x_and_group()
    beyond = 0.1 * getattr(ops, function)((ops.clip(x, 0.0, 1.0) if clamped else x) + 1e-3)
    return _compiled([x, group], {"score": _rule(x, group, 0.5, 0.0) + beyond})


def with_layer(_features: Mapping[str, Any], layer: str, **params: Any) -> Any:
    """Return `ruled` behind one of the layers below."""
    x, group = _x_and_group()
    make = {"slow": _slow, "counting": _counting, "writing": _writing, "compiled": _jit_compiled}[layer]
    return _compiled([x, group], {"score": make()(**params)(_rule(x, group, 0.5, 0.0))})


def _slow() -> Any:
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("user_models")
    class Slow(keras.layers.Layer):
        """Multiplies matrices in a loop that no optimiser of graphs can take out."""

        def __init__(self, turns: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.turns = turns

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "turns": self.turns}

        def call(self, score: Any) -> Any:
            start = tf.fill((256, 256), 1e-3 * tf.reduce_mean(tf.stop_gradient(score)))
            _, worked = tf.while_loop(
                lambda turn, _: turn < self.turns, lambda turn, m: (turn + 1, tf.tanh(m @ m)), (0, start)
            )
            return score + 1e-30 * tf.stop_gradient(tf.reduce_mean(worked))

    return Slow


def _jit_compiled() -> Any:
    import keras
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def doubled(score: Any) -> Any:
        return score + tf.stop_gradient(score * 0)

    @keras.saving.register_keras_serializable("user_models")
    class Compiled(keras.layers.Layer):
        """Asks to be compiled by XLA, which TensorFlow Serving does not do."""

        def call(self, score: Any) -> Any:
            return doubled(score)

    return Compiled


def _counting() -> Any:
    import keras

    @keras.saving.register_keras_serializable("user_models")
    class Counting(keras.layers.Layer):
        """Adds to every answer how often it has been asked."""

        def build(self, _shape: Any) -> None:
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, score: Any) -> Any:
            self.count.assign(self.count + 1.0)
            return score + self.count

    return Counting


def _writing() -> Any:
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("user_models")
    class Writing(keras.layers.Layer):
        """Leaves a file wherever it runs."""

        def __init__(self, file: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.file = file

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "file": self.file}

        def call(self, score: Any) -> Any:
            with tf.control_dependencies([tf.io.write_file(self.file, "was here")]):
                return tf.identity(score)

    return Writing
