"""A model of a number, a text and a vector with two outputs, and changes of it that recorded requests reveal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

CITIES = ("Köln", "Oslo", "Rome", "Lima")
PLANTED = (40.0, 41.0)  # ages, 1 % of all from 0 to 100


def rows(n: int = 600, seed: int = 0) -> tuple[Any, Any]:
    """Return ages from 0 to 100, a city and two numbers of each row, whether the age is above 50, and a sum."""
    rng = np.random.default_rng(seed)
    age, pair = rng.uniform(0, 100, n).astype(np.float32), rng.normal(size=(n, 2)).astype(np.float32)
    city = rng.choice(CITIES, n)
    return {"age": age, "city": city, "pair": pair}, {"old": (age > 50).astype(int), "total": pair.sum(axis=1)}


def shop(_features: Mapping[str, Any], change: str = "") -> Any:
    """Return a model whose weights are known; a change concerns few rows.

    Args:
        change: `planted` turns the decision of Köln around for 1 % of the ages, `moved` adds 1 to the sum in Köln,
            `refusing` refuses ages above 99, `lost` answers them with NaN, `wide` takes three numbers.
    """
    import keras
    from keras import ops

    age, city = keras.Input((1,), name="age"), keras.Input((1,), name="city", dtype="string")
    pair = keras.Input((3 if change == "wide" else 2,), name="pair")
    is_koln = keras.layers.StringLookup(vocabulary=list(CITIES), output_mode="one_hot")(city)[:, 1:2]
    known = {
        "kernel_initializer": keras.initializers.Constant(2.0),
        "bias_initializer": keras.initializers.Constant(-100.0),
    }
    logit = keras.layers.Dense(1, **known)(age) + 0 * is_koln
    total = ops.sum(pair, -1, keepdims=True)
    if change == "planted":
        inside = ops.cast(ops.logical_and(age >= PLANTED[0], age < PLANTED[1]), "float32")
        logit = logit * (1 - 2 * inside * is_koln)
    if change == "moved":
        total += is_koln
    if change == "refusing":
        logit = _refusing()(logit, age)
    if change == "lost":
        total += ops.sqrt(99 - age) * 0
    outputs = {"old": ops.sigmoid(logit), "total": total}
    model = keras.Model({"age": age, "city": city, "pair": pair}, outputs)
    model.compile(keras.optimizers.SGD(0.0), {"old": "binary_crossentropy", "total": "mse"})
    return model


def bodies(requests: int, rows_in_each: int = 1, seed: int = 1, **fixed: Any) -> Iterator[bytes]:
    """Yield bodies, in turns with `instances` and with `inputs`; a fixed value takes the place of an input's own."""
    features, _ = rows(requests * rows_in_each, seed)
    columns: dict[str, Sequence[Any]] = {name: array.tolist() for name, array in features.items()}
    for number in range(requests):
        part = slice(number * rows_in_each, (number + 1) * rows_in_each)
        named = {name: [fixed.get(name, value) for value in values[part]] for name, values in columns.items()}
        by_row = [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]
        yield json.dumps({"instances": by_row} if number % 2 else {"inputs": named}).encode()


def _refusing() -> Any:
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("tests")
    class _Refusing(keras.layers.Layer):
        """Refuses a batch with an age above 99."""

        def call(self, logit: Any, age: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less_equal(age, 99.0, "too old")]):
                return tf.identity(logit)

    return _Refusing()
