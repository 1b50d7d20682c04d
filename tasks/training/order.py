"""The order of the training rows: a function of the seed and the epoch, so that a resumed training has the same one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.datasets.rows import Array


def epoch_order(seed: int, epoch: int, rows: int) -> Array:
    """Return the row numbers of an epoch (counted from 0) in their order, int64 (rows,)."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


class ShuffledRows:
    """Training rows in batches, with an order of its own for each epoch.

    The state of tf.data's own shuffling depends on how many epochs this process has run, and cannot be restored.
    """

    def __init__(self, arrays: Any, rows: int, seed: int) -> None:
        """Use any structure of arrays with so many rows."""
        import tensorflow as tf

        self._tensors, self._rows, self._seed = tf.nest.map_structure(tf.convert_to_tensor, arrays), rows, seed
        with tf.device("CPU:0"):  # where data sets read it
            self._order = tf.Variable(epoch_order(seed, 0, rows), trainable=False)

    def begin(self, epoch: int) -> None:
        """Use the order of an epoch, counted from 0, for what is read from now on."""
        self._order.assign(epoch_order(self._seed, epoch, self._rows))

    def batches(self, batch_size: int) -> Any:
        """Return a tf.data.Dataset, which has the order of the epoch that has begun."""
        import tensorflow as tf

        def batch(numbers: Any) -> Any:
            chosen = tf.gather(self._order, numbers)
            return tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen), self._tensors)

        return tf.data.Dataset.range(self._rows).batch(batch_size).map(batch)

    def callback(self) -> Any:
        """Return the callback that begins each epoch."""
        import keras

        begin = self.begin

        class Order(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
                begin(epoch)

        return Order()
