"""SavedModels that this project did not make: `python make_savedmodels.py DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tensorflow as tf


class Score(tf.Module):  # type: ignore[misc]
    """A score of two numbers and a text, with a table; no Keras in it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable([[0.5], [-0.25]])
        values = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
        self.table = tf.lookup.StaticHashTable(values, 0.0)

    @tf.function  # type: ignore[misc]
    def score(self, age: Any, income: Any, city: Any) -> Any:
        x = tf.stack([age, income], 1) @ self.weights
        return {"score": tf.sigmoid(x[:, 0] + self.table.lookup(city))}


class Writing(Score):
    """The same, and a file beside it."""

    @tf.function  # type: ignore[misc]
    def writing(self, age: Any, income: Any, city: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file("written", "by a request")]):
            return self.score(age, income, city)


def main(directory: Path) -> None:
    """Write `plain`, `several` with two signatures and no default, the unsafe `writing`, and `by_keras.keras`."""
    model, unsafe = Score(), Writing()  # each has its own functions: all of them are saved
    specs = [tf.TensorSpec([None], dtype, name) for name, dtype in (("age", "float32"), ("income", "float32"))]
    specs.append(tf.TensorSpec([None], tf.string, "city"))
    score, writing = (function.get_concrete_function(*specs) for function in (model.score, unsafe.writing))
    tf.saved_model.save(model, str(directory / "plain"), signatures=score)
    tf.saved_model.save(model, str(directory / "several"), signatures={"one": score, "other": score})
    tf.saved_model.save(unsafe, str(directory / "writing"), signatures=writing)
    write_keras(directory / "by_keras.keras")


def write_keras(file: Path) -> None:
    """Write the same score as Keras' own file, which takes `age` and `income`."""
    import keras

    age, income = (keras.Input((1,), name=name) for name in ("age", "income"))
    score = keras.layers.Dense(1, activation="sigmoid", name="score")(keras.layers.Concatenate()([age, income]))
    model = keras.Model([age, income], score)
    model.set_weights([tf.constant([[0.5], [-0.25]]).numpy(), tf.zeros(1).numpy()])
    model.save(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
