"""One contract for every transport and every server: what the judges rely on."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from configs.sections.serving import Serving
from tasks.datasets.rows import Array
from tasks.errors import PredictionError, ServingUnavailable
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.serving.client import ModelClient
from tasks.serving.grpc_client import NO_THREAD, GrpcClient, open_channel
from tasks.serving.launch import throwaway_server
from tasks.serving.open_loop import OK, GrpcConnection

MODELS = Path("tests/data/tfs_rest/models")
SERVERS = [pytest.param("embedded"), pytest.param("docker", marks=pytest.mark.docker)]


def spec(name: str, dtype: str, *sizes: int) -> TensorSpec:
    return TensorSpec(name, dtype, (None, *sizes))


@pytest.fixture(params=["rest", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Servers:
    """Each model on each kind of server, started once."""

    def __init__(self, root: Path, image: str) -> None:
        self.root, self.image = root, image

    def candidate(self, model: str) -> Candidate:
        version_dir = self.root / model / "1"
        if not version_dir.exists():
            shutil.copytree(MODELS / model / "1", version_dir)
        return Candidate(model, 1, version_dir, "", Signature((), ()), 0, self.root, self.root, self.root)


@pytest.fixture
def ask(request: pytest.FixtureRequest, transport: str, tmp_path: Path, server: str) -> Iterator[object]:
    """Return a function from a model's name to a client of it."""
    image = str(request.getfixturevalue("test_image")) if server == "docker" else ""
    servers = Servers(tmp_path, image)
    with ExitStack() as stack:

        def connect(model: str) -> ModelClient:
            running, rest = stack.enter_context(
                throwaway_server(
                    Backend(server, image), Serving(image=image or "-"), servers.candidate(model), tmp_path / "log"
                )
            )
            if transport == "rest":
                return rest
            return stack.enter_context(closing(GrpcClient(running.grpc_target, model, 30)))

        yield connect


@pytest.mark.parametrize("server", SERVERS)
def test_several_inputs_and_outputs(ask: object, server: str) -> None:
    """Named inputs go out and named outputs come back, of several dtypes, over more than one request."""
    client = ask("multi")  # type: ignore[operator]
    a, b = np.random.default_rng(0).random((5000, 3), np.float32), np.arange(5000, dtype=np.int32)
    outputs = (spec("sum", "float32", 3), spec("twice", "int32"), spec("flag", "bool"))
    answer = client.predict(1, {"a": a, "b": b}, outputs, "serving_default")
    np.testing.assert_array_equal(answer["sum"], a + b[:, None].astype(np.float32))
    np.testing.assert_array_equal(answer["twice"], 2 * b)
    np.testing.assert_array_equal(answer["flag"], b > 0)
    assert [answer[o.name].dtype.name for o in outputs] == [o.dtype for o in outputs]


@pytest.mark.parametrize("server", SERVERS)
def test_what_the_server_says_of_itself(ask: object, server: str) -> None:
    """State and signature are told; another version or signature is refused."""
    client = ask("multi")  # type: ignore[operator]
    assert client.states() == {1: ("AVAILABLE", "")}
    inputs, outputs = client.signature_def(1, "serving_default")
    assert inputs == [spec("a", "float32", 3), spec("b", "int32")]
    assert outputs == [spec("flag", "bool"), spec("sum", "float32", 3), spec("twice", "int32")]
    with pytest.raises(PredictionError):
        client.signature_def(2, "serving_default")


@pytest.mark.parametrize("server", SERVERS)
def test_text_and_bytes(ask: object, server: str) -> None:
    """Text comes back as text, and bytes that are no text as the same bytes."""
    client = ask("text")  # type: ignore[operator]
    words = np.array(["", "ä b", "汉"])
    assert client.predict(1, {"s": words}, (spec("out", "string"),), "echo")["out"].tolist() == words.tolist()
    raw = np.array([b"\xff\x00\xfe", b"\x80"])
    assert (
        client.predict(1, {"s": raw}, (spec("out_bytes", "string"),), "echo_bytes")["out_bytes"].tolist()
        == raw.tolist()
    )


@pytest.mark.parametrize("server", SERVERS)
def test_numbers_come_back_exactly(ask: object, server: str) -> None:
    """Every number of every dtype that both transports carry comes back with the same bits."""
    client = ask("zoo")  # type: ignore[operator]
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    cases: dict[str, Array] = {
        # TensorFlow Serving's REST threads flush subnormal numbers to zero
        "f32": bits[np.isfinite(bits) & (np.abs(bits) >= np.finfo(np.float32).tiny)],
        # its REST parser (RapidJSON without full precision) is off by one unit for long decimals
        "f64": rng.integers(-1000, 1000, 100) / 8,
        "i32": rng.integers(-(2**31), 2**31, 100, dtype=np.int32),
        "i64": rng.integers(-(2**63), 2**63, 100, dtype=np.int64),
        "u8": np.arange(256, dtype=np.uint8),
        "boolean": np.array([True, False]),
    }
    for signature, values in cases.items():
        answer = client.predict(1, {"x": values}, (spec("y", values.dtype.name),), signature)["y"]
        assert answer.tobytes() == values.tobytes(), signature


@pytest.mark.parametrize("server", SERVERS)
def test_refusals_are_final_and_in_the_servers_words(ask: object, server: str) -> None:
    """A wrong name, dtype or value is a PredictionError that says what the server said."""
    client = ask("multi")  # type: ignore[operator]
    ones = np.ones((1, 3), np.float32)
    with pytest.raises(PredictionError, match="no_such_signature"):
        client.predict(1, {"a": ones}, (spec("m", "float32"),), "no_such_signature")
    with pytest.raises(PredictionError, match="a must be positive"):
        client.predict(1, {"a": -ones}, (spec("r", "float32", 3),), "fails")


def test_nobody_listens_for_grpc() -> None:
    """A refused gRPC connection is ServingUnavailable after its tries, as over REST."""
    pauses: list[float] = []
    with socket.socket() as held:  # bound, never listening: it refuses every connection
        held.bind(("127.0.0.1", 0))
        client = GrpcClient(f"127.0.0.1:{held.getsockname()[1]}", "m", 2, sleep=pauses.append)
        with closing(client), pytest.raises(ServingUnavailable, match="must be reachable"):
            client.states()
    assert len(pauses) == 3


class Busy(grpc.GenericRpcHandler):
    """Answers with an empty message; like TensorFlow Serving, it refuses a request for which it has no free thread."""

    def __init__(self, threads: int) -> None:
        self.free, self.refused = threading.Semaphore(threads), threading.Event()

    def service(self, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.call)

    def call(self, _request: bytes, context: Any) -> bytes:
        if not self.free.acquire(blocking=False):
            self.refused.set()
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_THREAD)
        self.refused.wait(0.02)  # so that others come meanwhile
        self.free.release()
        return b""


@pytest.fixture
def busy() -> Iterator[tuple[Busy, str]]:
    """Return a server with two threads, and its address."""
    handler = Busy(2)
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_clients_wait_for_a_free_thread_of_the_server(busy: tuple[Busy, str]) -> None:
    """Eight clients of the load that may have two requests open are never refused by a server with two threads."""
    handler, address = busy
    with closing(open_channel(address)) as channel, futures.ThreadPoolExecutor(8) as pool:
        turn = threading.Semaphore(2)
        clients = [GrpcConnection(channel, [b""], 30, turn) for _ in range(8)]
        assert {reply.status for reply in pool.map(lambda client: client.ask(0), clients * 5)} == {OK}
    assert not handler.refused.is_set()


def test_a_server_without_a_free_thread_is_asked_again(busy: tuple[Busy, str]) -> None:
    """A refusal because no thread is free is temporary, and not a verdict on the request."""
    handler, address = busy
    for _ in range(2):
        handler.free.acquire()
    with closing(GrpcClient(address, "m", 30, sleep=lambda _: handler.free.release())) as client:
        assert client.states() == {}
    assert handler.refused.is_set()
