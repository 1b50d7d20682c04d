"""Makes the small SavedModels beside this file (made with tensorflow 2.21.0)."""

import os
import shutil
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf

HERE = Path(__file__).parent


def _save(name: str, module: tf.Module, signatures: dict[str, object]) -> None:
    target = HERE / name / "1"
    shutil.rmtree(target.parent, ignore_errors=True)
    tf.saved_model.save(module, str(target), signatures=signatures)


class Odd(tf.Module):
    """Signatures that are slow, or whose outputs JSON carries badly or not at all."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="turns")])
    def slow(self, turns: tf.Tensor) -> dict[str, tf.Tensor]:
        """Count to `turns`, about a microsecond each."""
        return {"count": tf.while_loop(lambda i: i < turns, lambda i: (i + 1,), (tf.constant(0, tf.int64),))[0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return float16, which has no JSON form."""
        return {"y": tf.cast(x, tf.float16)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def uneven(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return outputs without a common batch dimension."""
        return {"same": x, "twice": tf.concat([x, x], 0)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def tiny(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return subnormal, negative zero, NaN and infinite numbers next to a string."""
        numbers = tf.constant([1e-40, -1e-40, -0.0, float("nan"), float("inf"), float("-inf"), 0.1, 1e-37])
        return {"numbers": numbers, "text": tf.fill([8], tf.constant(b'\xff"\n'))}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="s")])
    def kinds(self, s: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return one value of many DataTypes."""
        one = tf.constant([1])
        names = ["uint8", "int16", "int8", "uint16", "uint32", "uint64", "bfloat16", "half", "double", "complex64"]
        found = {name: tf.cast(one, tf.as_dtype(name)) for name in names}
        return {**found, "string": tf.reshape(s, [1]), "bool": one > 0}


class Compiled(tf.Module):
    """A graph that asks to be compiled by XLA, which TensorFlow Serving refuses at the first request."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def twice(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return 2x."""
        return {"y": tf.function(lambda value: value + value, jit_compile=True)(x)}


class Mixing(tf.Module):
    """A row's answer follows from the other rows of its batch; alone it is 0."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def beside(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return how far each row is from the mean of its batch."""
        return {"y": x - tf.reduce_mean(x)}


class Steady(tf.Module):
    """A row's answer follows from the row alone."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def twice(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return 2x."""
        return {"y": x + x}


odd = Odd()
_save(
    "odd",
    odd,
    {"slow": odd.slow, "half": odd.half, "uneven": odd.uneven, "tiny": odd.tiny, "kinds": odd.kinds},
)
compiled = Compiled()
_save("compiled", compiled, {"serving_default": compiled.twice})
mixing, steady = Mixing(), Steady()
_save("mixing", mixing, {"serving_default": mixing.beside})
_save("steady", steady, {"serving_default": steady.twice})
