"""The memory limit of the embedded server, with a real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.serving import Serving
from tasks.errors import MemoryExceeded, ServingError
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.serving.launch import throwaway_server

EMBEDDED = Backend("embedded")


def as_asked(tf: Any) -> Callable[[Any], Any]:
    """Return a model that makes as many million numbers as its input says."""
    return lambda x: {"y": x + tf.reduce_max(tf.random.uniform([tf.cast(x[0], tf.int32), 1000, 1000]))}


def a_constant(tf: Any) -> Callable[[Any], Any]:
    """Return a model that fills 16 GB with ones at its first request, whatever its input."""
    return lambda x: {"y": x + tf.reduce_max(tf.ones([4000, 1000, 1000]))}


@pytest.fixture(params=[as_asked, a_constant])
def candidate(request: pytest.FixtureRequest, tmp_path: Path) -> Candidate:
    """Return a model that takes 16 GB for the input 4000."""
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(request.param(tf), input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    version_dir = tmp_path / "big" / "1"
    tf.saved_model.save(module, str(version_dir), signatures=module.serve)
    signature = Signature((TensorSpec("x", "float32", (None,)),), (TensorSpec("y", "float32", (None,)),))
    return Candidate("big", 1, version_dir, "", signature, 0, version_dir, version_dir, version_dir)


def test_sixteen_gigabytes_are_out_of_memory(candidate: Candidate, tmp_path: Path) -> None:
    """A request that takes 16 GB ends the server at its limit, and the error names the limit and the field."""
    limited = Serving(memory_mb=1024)
    with (
        pytest.raises(ServingError, match=r"ran out of memory.*limit of 1024 MiB\. Raise serving.memory_mb") as caught,
        throwaway_server(EMBEDDED, limited, candidate, tmp_path / "log") as (_, client),
    ):
        client.predict(1, {"x": np.array([4000], np.float32)}, candidate.signature.outputs, "serving_default")
    assert type(caught.value) is MemoryExceeded


def test_a_server_that_does_not_fit_is_out_of_memory(tmp_path: Path) -> None:
    """A server that needs more than the limit to start ends in the same class, as a container does.

    The limit is below what Python and its libraries write by themselves; whether it is seen before or after the model
    is available is the machine's to say.
    """
    tight = Serving().model_copy(update={"memory_mb": 24})
    version_dir = Path("tests/data/tfs_rest/models/half/1").absolute()
    small = Candidate("half", 1, version_dir, "", Signature((), ()), 0, version_dir, version_dir, version_dir)
    with (
        pytest.raises(ServingError, match=r"ran out of memory.*limit of 24 MiB"),
        throwaway_server(EMBEDDED, tight, small, tmp_path / "log") as (server, _),
    ):
        while server.exit_code() is None:
            time.sleep(0.02)
        raise server.explain_exit()
