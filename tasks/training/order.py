"""The order of the training rows: a function of the seed and the epoch, so that a resumed training has the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tasks.datasets.mapped import let_go
from tasks.datasets.rows import Array
from tasks.datasets.strings import as_objects, is_string

RUN_ROWS, RUNS_AT_ONCE = 1024, 16
"""Consecutive rows that are read together, and the smallest number of such runs that are shuffled at once."""


def epoch_order(seed: int, epoch: int, rows: int) -> Array:
    """Return the row numbers of an epoch (counted from 0) in their order, int64 (rows,)."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def read_ahead(batches: Any) -> Any:
    """Return a tf.data.Dataset of batches that reads two of them ahead and leaves its parallelism alone.

    tf.data tunes the parallelism in a thread of its own. Where the processors are busy, the end of an epoch waited half
    a second and more for a sleeping thread of tf.data, and no longer does without the tuning: trainings side by side
    took 1.4 times as long. Nothing here can be tuned.
    Source: measured with perf and TensorFlow 2.21; benchmarks/sweep.py shows the effect.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


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

    def in_order(self, arrays: Any, rows: int, batch_size: int) -> Any:
        """Return other arrays with so many rows as a tf.data.Dataset of batches in their own order."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)

    def callback(self) -> Any:
        """Return the callback that begins each epoch."""
        return _order_callback(self.begin)


class StreamedRows:
    """Training rows on the disk, of which only a part is in memory to be shuffled.

    An epoch reads runs of consecutive rows in an order of its own, some of them at a time, and shuffles these.
    """

    def __init__(self, arrays: Any, rows: int, seed: int, in_memory: int) -> None:
        """Use any structure of arrays, most of them mapped files.

        Args:
            in_memory: rows that are shuffled at once.
        """
        self._arrays, self._rows, self._seed, self._epoch = arrays, rows, seed, 0
        self._run = max(1, min(RUN_ROWS, in_memory // RUNS_AT_ONCE))
        self._at_once = max(1, in_memory // self._run)

    def begin(self, epoch: int) -> None:
        """Use the order of an epoch, counted from 0, for what is read from now on."""
        self._epoch = epoch

    def batches(self, batch_size: int) -> Any:
        """Return a tf.data.Dataset, which has the order of the epoch that has begun."""
        return _generated(self._arrays, self._rows, batch_size, self._run, self._shuffled)

    def in_order(self, arrays: Any, rows: int, batch_size: int) -> Any:
        """Return other rows as a tf.data.Dataset of batches in their own order."""
        return _generated(arrays, rows, batch_size, RUN_ROWS, lambda: _consecutive(rows))

    def callback(self) -> Any:
        """Return the callback that begins each epoch."""
        return _order_callback(self.begin)

    def _shuffled(self) -> Iterator[tuple[Array, Array]]:
        """Yield the first rows of some runs, and the order of the rows that these have together."""
        rng = np.random.default_rng([self._seed, self._epoch])
        runs = rng.permutation(-(-self._rows // self._run))
        for start in range(0, len(runs), self._at_once):
            begins = np.sort(runs[start : start + self._at_once]) * self._run
            yield begins, rng.permutation(int(np.minimum(self._run, self._rows - begins).sum()))


def _consecutive(rows: int) -> Iterator[tuple[Array, Array]]:
    for begin in range(0, rows, RUN_ROWS):
        yield np.array([begin]), np.arange(min(RUN_ROWS, rows - begin))


def _generated(
    arrays: Any, rows: int, batch_size: int, run: int, parts: Callable[[], Iterator[tuple[Array, Array]]]
) -> Any:
    """Return a tf.data.Dataset of batches of arrays, whose rows are read from the disk when they are needed.

    Args:
        run: rows that are read together. parts: yields the first rows of some runs, and the order of their rows.
    """
    import tensorflow as tf

    flat = [np.asarray(array) for array in tf.nest.flatten(arrays)]

    def read() -> Iterator[tuple[Array, ...]]:
        held = [array[:0] for array in flat]  # fewer than a batch
        for begins, order in parts():
            n_held, place = len(held[0]), len(held[0])
            numbers = np.concatenate([np.arange(n_held), n_held + order])
            buffers = [np.empty((len(numbers), *array.shape[1:]), array.dtype) for array in flat]
            for buffer, array in zip(buffers, held, strict=True):
                buffer[:n_held] = array
            for begin in begins.tolist():
                end = min(begin + run, rows)
                for buffer, array in zip(buffers, flat, strict=True):
                    buffer[place : place + end - begin] = array[begin:end]
                place += end - begin
                let_go(flat)
            whole = len(numbers) - len(numbers) % batch_size
            for start in range(0, whole, batch_size):
                yield tuple(as_objects(buffer[numbers[start : start + batch_size]]) for buffer in buffers)
            held = [buffer[numbers[whole:]] for buffer in buffers]
            del buffers
        if len(held[0]):
            yield tuple(map(as_objects, held))

    def structured(*batch: Any) -> Any:
        return tf.nest.pack_sequence_as(arrays, batch)

    specs = tuple(tf.TensorSpec((None, *array.shape[1:]), _tf_dtype(array)) for array in flat)
    data = tf.data.Dataset.from_generator(read, output_signature=specs).map(structured)
    return data.apply(tf.data.experimental.assert_cardinality(-(-rows // batch_size)))


def _tf_dtype(array: Array) -> Any:
    import tensorflow as tf

    return tf.string if is_string(array) else tf.as_dtype(array.dtype)


def _order_callback(begin: Callable[[int], None]) -> Any:
    import keras

    class Order(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            begin(epoch)

    return Order()
