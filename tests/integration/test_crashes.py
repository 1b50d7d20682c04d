"""Servers that end themselves over a request: what the export keeps from them, and that the rest is a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.rows import save_arrays
from tasks.errors import PredictionError, ServingError
from tasks.gates.robustness import judge_robustness
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.savedmodel.exporter import serving_function, write_savedmodel
from tasks.serving.client import RestClient
from tasks.serving.grpc_client import GrpcClient
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tests.attached_server import SharedServer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
X, Y = TensorSpec("x", "float32", (None,)), TensorSpec("y", "float32", (None,))


@pytest.fixture
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose oneDNN's kernels, as TensorFlow itself does on newer processors."""
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")


def layers(kind: str) -> tuple[Any, Any, tuple[int, ...]]:
    """Return an input with free sizes, what a layer makes of it, and a shape that it takes."""
    import keras

    depth = 3 if kind == "Conv3D" else 2
    options = {"kernel_size": 3} if kind == "DepthwiseConv2D" else {"filters": 2, "kernel_size": 3}
    inputs = keras.Input((*[None] * depth, 3), name="x")
    pooling = getattr(keras.layers, f"GlobalAveragePooling{depth}D")()
    return inputs, pooling(getattr(keras.layers, kind)(**options)(inputs)), (*[6] * depth, 3)


@pytest.mark.parametrize("kind", ["Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"])
@pytest.mark.usefixtures("_onednn")
def test_a_request_of_another_shape_ends_no_server(
    user_config: Callable[..., Config], tmp_path: Path, kind: str
) -> None:
    """Whatever shape a client sends, an exported convolution refuses it; oneDNN's kernels would end the server."""
    import keras

    inputs, outputs, shape = layers(kind)
    model = keras.Model(inputs, outputs)
    version_dir = tmp_path / "m" / "1"
    version_dir.parent.mkdir()
    serve, signature = serving_function(model, user_config("pairs", "two_by_two"))
    write_savedmodel(model, serve, signature, version_dir)
    candidate = Candidate("m", 1, version_dir, "", signature, 0, tmp_path, tmp_path, tmp_path)
    others = [(0,), (3,), (2, 3), (1, 2, 3), (1, *shape, 1), (1, 1, *shape), (1, *shape[:-1], 5)]
    with throwaway_server(Backend("embedded"), Serving(), candidate, tmp_path / "log") as (server, rest):
        client = GrpcClient(server.grpc_target, "m", 60)
        for other in others:
            with pytest.raises(PredictionError, match="is not compatible with expected shape"):
                client.predict(1, {"x": np.ones(other, np.float32)}, signature.outputs, signature.name, together=True)
        client.close()
        answer = rest.predict(1, {"x": np.ones((2, *shape), np.float32)}, signature.outputs, signature.name)
        assert len(next(iter(answer.values()))) == 2
        assert server.exit_code() is None


def ending(version_dir: Path, above: float) -> None:
    """Save a model that ends its process over a value above a limit, as a kernel's failed check does."""
    import tensorflow as tf

    def abort() -> Any:
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="Check failed: no row is so large")]):
            return tf.constant(True)

    def serve(x: Any) -> Any:
        with tf.control_dependencies([tf.cond(tf.reduce_max(x) > above, abort, lambda: tf.constant(True))]):
            return {"y": x + 1}

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(module, str(version_dir), signatures=module.serve)


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Callable[[float], Rehearsal]]:
    """Return a function that prepares the rehearsal of a model that ends the server over a value above a limit."""

    def preparing(above: float) -> Rehearsal:
        version_dir = tmp_path / "m" / "1"
        ending(version_dir, above)
        save_arrays(tmp_path / "requests.npz", {"x": np.arange(40, dtype=np.float32)})
        paths = (tmp_path / "requests.npz", tmp_path / "reference.npz", tmp_path / "test.npz")
        candidate = Candidate("m", 1, version_dir, "", Signature((X,), (Y,)), 0, *paths)
        gates = Gates.model_validate({"latency": {"requests": 40}, "robustness": {"large_batch": 64}})
        return Rehearsal(Serving(), candidate, Backend("embedded"), tmp_path / "asked", gates)

    return preparing


def test_a_probe_that_ends_the_server_is_a_verdict(rehearsal: Callable[[float], Rehearsal]) -> None:
    """The robustness gate names probe, request, the server's own words and what to do; nothing is timed after it."""
    served = rehearse(rehearsal(100))
    result = judge_robustness(served.probes)
    assert result.evidence["failed"] == ["extreme values"]
    assert served.latency is None
    for words in ('"inputs":{"x":[', "The server crashed", "no row is so large", "tf.ensure_shape"):
        assert words in result.summary


def test_test_rows_that_end_the_server_are_a_refusal(rehearsal: Callable[[float], Rehearsal]) -> None:
    """A server that loads a model and ends itself over its own test rows has refused it."""
    with pytest.raises(PredictionError, match=r"exit status 134.*no row is so large.*tf\.ensure_shape"):
        rehearse(rehearsal(30))


@pytest.mark.parametrize(("above", "words"), [(100, "gate was 'extreme values'"), (30, "")])
def test_an_attached_server_that_ends_is_no_verdict(
    rehearsal: Callable[[float], Rehearsal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: float, words: str
) -> None:
    """Why a server ended that somebody else started is not known, whether at a probe or a row: it is no rejection."""
    monkeypatch.setattr("tasks.serving.attached.QUIET_S", 0.1)
    shared = SharedServer(tmp_path / "shared").start()
    backend = Backend("attached", url=shared.url)
    prepared = replace(rehearsal(above), serving=Serving(**shared.settings), backend=backend)
    try:
        with pytest.raises(ServingError, match=rf"it served 'm'\. .*are not known here.*{words}") as caught:
            rehearse(prepared)
    finally:
        shared.kill()
    assert type(caught.value) is ServingError
    assert not caught.value.retryable
    assert shared.is_empty


def test_a_model_that_hangs_is_asked_once(rehearsal: Callable[[float], Rehearsal]) -> None:
    """A request that does not end ends the rehearsal at its time limit: an error that another try would not mend."""
    import tensorflow as tf

    prepared = rehearsal(1e30)
    module = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": tf.while_loop(lambda _: True, lambda i: i + 1, [x])[0]},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(prepared.candidate.version_dir), signatures=module.serve)
    with pytest.raises(ServingError, match=r"answer within 1 s.*raise serving\.request_timeout_s") as caught:
        rehearse(replace(prepared, serving=Serving(request_timeout_s=1)))
    assert not caught.value.retryable


def test_a_server_that_is_killed_while_it_is_probed_is_no_verdict(
    rehearsal: Callable[[float], Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that somebody else ends gives no judgement: an error, not a rejection."""
    from tasks.serving import rehearse as module

    prepared, asked = rehearsal(1e30), module.probe

    def probe_then_kill(*arguments: Any, **options: Any) -> Any:
        running.pop()._process.kill()
        return asked(*arguments, **options)

    running: list[Any] = []
    clients = module.open_clients

    def remembering(serving: Serving, server: Any, rest: RestClient) -> Any:
        running.append(server)
        return clients(serving, server, rest)

    monkeypatch.setattr(module, "open_clients", remembering)
    monkeypatch.setattr(module, "probe", probe_then_kill)
    with pytest.raises(ServingError, match="exit status 137") as caught:
        rehearse(prepared)
    assert type(caught.value) is ServingError
