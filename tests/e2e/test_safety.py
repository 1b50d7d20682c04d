"""The main job with models that do what no server must do: rejected by the gate, before a server is started."""

from __future__ import annotations

from typing import Any

import pytest

PROJECT = """
import keras
import numpy as np
import tensorflow as tf

def load(): return np.arange(200, dtype=np.float32).reshape(100, 2), np.arange(100) % 2

@keras.saving.register_keras_serializable("mine")
class Memory(keras.layers.Layer):
    def call(self, x):
        stolen = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[4], memory_region_name="SECRET")
        return x + 0 * tf.cast(tf.reduce_sum(tf.cast(stolen, tf.int32)), tf.float32)

@keras.saving.register_keras_serializable("mine")
class Program(keras.layers.Layer):
    def call(self, x):
        text = tf.strings.as_string(tf.reduce_sum(x))
        run = tf.cond(tf.reduce_sum(x) > 1e30, lambda: self.run(text), lambda: 0)
        return x + tf.cast(run, tf.float32)

    def run(self, text):
        dataset = tf.raw_ops.DatasetFromGraph(graph_def=text)
        return tf.strings.length(tf.raw_ops.DatasetToGraphV2(input_dataset=dataset))

def build(features, layer):
    inputs = keras.Input((2,))
    hidden = {"memory": Memory, "program": Program}[layer]()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
"""


@pytest.mark.parametrize(
    ("layer", "op"),
    [("program", "DatasetFromGraph"), pytest.param("memory", "ImmutableConst", marks=pytest.mark.long)],
)
def test_a_model_that_reads_or_runs_what_it_likes_is_rejected(workspace: Any, layer: str, op: str) -> None:
    """A layer that reads any file, or runs a graph from a text, ends with exit code 3; no server has seen it."""
    secret = workspace.directory / "secret"
    secret.write_text("word")
    (workspace.directory / "project.py").write_text(PROJECT.replace("SECRET", str(secret)))
    config = workspace.directory / "cfg.yaml"
    config.write_text(
        f"name: mine\ndata: {{load: 'project:load'}}\nmodel: {{build: 'project:build', params: {{layer: {layer}}}}}\n"
        "training: {epochs: 1}\nserving: {backend: embedded}\n"
    )
    done = workspace.run(config=config)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "rejected: safety: operations must not reach outside the graph" in done.stdout
    assert f"{op} '" in done.stdout
    assert not list(workspace.work_dir.rglob("server*"))
    assert workspace.versions("mine") == []
