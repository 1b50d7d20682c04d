"""A model of a number, a text and a vector with two outputs, and changes of it that recorded requests reveal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

CITIES = ("Köln", "Oslo", "Rome", "Lima")
PLANTED = (40.0, 41.0)  # ages, 1 % of all from 0 to 100


def rows(n: int = 600, seed: int = 0, oldest: float = 99) -> tuple[Any, Any]:
    """Return ages from 0 on, a city and two numbers of each row, whether the age is above 50, and a sum."""
    rng = np.random.default_rng(seed)
    age, pair = rng.uniform(0, oldest, n).astype(np.float32), rng.normal(size=(n, 2)).astype(np.float32)
    city = rng.choice(CITIES, n)
    return {"age": age, "city": city, "pair": pair}, {"old": (age > 50).astype(int), "total": pair.sum(axis=1)}


def shop(_features: Mapping[str, Any], change: str = "") -> Any:
    """Return a model whose weights are known; a change concerns few rows.

    Args:
        change: `planted` turns the decision of Köln around for 1 % of the ages, `moved` adds 1 to the sum in Köln,
            `refusing` refuses ages above 99, `crashing` ends its process at them, `lost` answers them with NaN.
    """
    import keras
    from keras import ops

    age, city = keras.Input((1,), name="age"), keras.Input((1,), name="city", dtype="string")
    pair = keras.Input((2,), name="pair")
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
    if change in ("refusing", "crashing"):
        logit = _guarding(change)(logit, age)
    if change == "lost":
        total += ops.sqrt(99 - age) * 0
    outputs = {"old": ops.sigmoid(logit), "total": total}
    model = keras.Model({"age": age, "city": city, "pair": pair}, outputs)
    model.compile(keras.optimizers.SGD(0.0), {"old": "binary_crossentropy", "total": "mse"})
    return model


def bodies(requests: int, rows_in_each: int = 1, seed: int = 1, **fixed: Any) -> Iterator[bytes]:
    """Yield bodies of ages up to 100, in turns with `instances` and with `inputs`; `fixed` are values for all rows."""
    features, _ = rows(requests * rows_in_each, seed, 100)
    columns: dict[str, Sequence[Any]] = {name: array.tolist() for name, array in features.items()}
    for number in range(requests):
        part = slice(number * rows_in_each, (number + 1) * rows_in_each)
        named = {name: [fixed.get(name, value) for value in values[part]] for name, values in columns.items()}
        by_row = [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]
        yield json.dumps({"instances": by_row} if number % 2 else {"inputs": named}).encode()


def _guarding(change: str) -> Any:
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("tests")
    class Guarding(keras.layers.Layer):
        """Refuses a batch with an age above 99, or ends the process as a kernel's failed check does."""

        def __init__(self, change: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.change = change

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "change": self.change}

        def call(self, logit: Any, age: Any) -> Any:
            def abort() -> Any:
                with tf.control_dependencies([tf.raw_ops.Abort(error_msg="Check failed: age <= 99")]):
                    return tf.constant(True)

            if self.change == "refusing":
                guard = tf.debugging.assert_less_equal(age, 99.0, "too old")
            else:
                guard = tf.cond(tf.reduce_max(age) > 99.0, abort, lambda: tf.constant(True))
            with tf.control_dependencies([guard]):
                return tf.identity(logit)

    return Guarding(change)
