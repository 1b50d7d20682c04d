"""The REST client against a real HTTP server that misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tasks.datasets.blocks import BODY_BYTES, MAX_ROWS, row_blocks
from tasks.datasets.predict_body import predict_body
from tasks.errors import PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.records import TensorSpec
from tasks.serving.client import RestClient
from tasks.serving.streaming import in_order

Y = TensorSpec("y", "float32", (None,))
Answer = tuple[int, bytes]


class Scripted:
    """A server that answers each request with the next of its answers (the last one for ever)."""

    def __init__(self, *answers: Answer | Callable[[bytes], Answer]) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.answers = list(answers)
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    outer.requests.append((self.command, self.path, body))
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                status, content = answer(body) if callable(answer) else answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served() -> Iterator[Callable[..., tuple[Scripted, RestClient, list[float]]]]:
    """Start scripted servers, each with a client whose pauses are recorded, not slept."""
    started: list[tuple[Scripted, RestClient]] = []

    def start(
        *answers: Answer | Callable[[bytes], Answer], timeout_s: float = 5
    ) -> tuple[Scripted, RestClient, list[float]]:
        server, pauses = Scripted(*answers), list[float]()
        client = RestClient(server.url, "m", timeout_s, sleep=pauses.append)
        started.append((server, client))
        return server, client, pauses

    yield start
    for server, client in started:
        client.close()
        server.close()


def echo(body: bytes) -> Answer:
    """Answer with twice the input."""
    return 200, json.dumps({"outputs": [2 * v for v in json.loads(body)["inputs"]["x"]]}).encode()


def ask(client: RestClient, x: np.ndarray) -> np.ndarray:
    return client.predict(3, {"x": x}, (Y,), "serving_default")["y"]


def test_order_and_rows_survive_many_requests(served: Callable[..., tuple[Scripted, RestClient, list[float]]]) -> None:
    """Rows cut into many requests on several connections come back in their order."""
    server, client, _ = served(echo)
    x = np.arange(3 * MAX_ROWS + 5, dtype=np.float32)
    assert ask(client, x).tolist() == (2 * x).tolist()
    assert len(server.requests) == 4
    assert {path for _, path, _ in server.requests} == {"/v1/models/m/versions/3:predict"}


@pytest.mark.parametrize("status", [503, 504])
def test_transient_is_tried_again(served: Callable[..., tuple[Scripted, RestClient, list[float]]], status: int) -> None:
    """503 and 504 are tried again after growing pauses, and then given up with the server's words."""
    server, client, pauses = served((status, b'{"error": "busy"}'), (status, b""), echo)
    assert ask(client, np.ones(2, np.float32)).tolist() == [2, 2]
    assert len(server.requests) == 3
    assert pauses == sorted(pauses)
    _, client, _ = served((status, b'{"error": "busy"}'))
    with pytest.raises(ServingUnavailable, match=rf"{status}: busy"):
        ask(client, np.ones(2, np.float32))


@pytest.mark.parametrize("status", [400, 404, 413, 501])
def test_refusal_is_final(served: Callable[..., tuple[Scripted, RestClient, list[float]]], status: int) -> None:
    """A refused request is never sent again, and its words are in the error."""
    server, client, pauses = served((status, b'{"error": "no such\\n input"}'))
    with pytest.raises(PredictionError, match=f"{status}: no such input"):
        ask(client, np.ones(1, np.float32))
    assert (len(server.requests), pauses) == (1, [])


def test_every_call_has_a_time_limit(served: Callable[..., tuple[Scripted, RestClient, list[float]]]) -> None:
    """A server that does not answer is a ServingTimeout that names the setting."""
    release = threading.Event()

    def hang(_body: bytes) -> Answer:
        release.wait(10)
        return 200, b"{}"

    _, client, _ = served(hang, timeout_s=0.1)
    with pytest.raises(ServingTimeout, match=r"0\.1 s.*serving\.request_timeout_s"):
        ask(client, np.ones(1, np.float32))
    release.set()


def test_nobody_listens() -> None:
    """A refused connection is ServingUnavailable, after its tries."""
    server = Scripted((200, b""))
    server.close()
    pauses: list[float] = []
    client = RestClient(server.url, "m", 1, sleep=pauses.append)
    with pytest.raises(ServingUnavailable, match="must be reachable"):
        ask(client, np.ones(1, np.float32))
    assert len(pauses) == 3
    client.close()


DEEP = b'{"outputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"predictions": [1]}', b'{"outputs": {"z": [1]}}', DEEP],
    ids=["empty", "page", "list", "rows", "one of two", "deep"],
)
def test_an_answer_without_the_outputs(
    served: Callable[..., tuple[Scripted, RestClient, list[float]]], body: bytes
) -> None:
    """A 200 that does not hold the outputs is a ServingError that shows what came."""
    _, client, _ = served((200, body))
    with pytest.raises(ServingError):
        client.predict(1, {"x": np.ones(1)}, (Y, TensorSpec("z", "float32", (None,))), "s")


def test_an_answer_without_rows(served: Callable[..., tuple[Scripted, RestClient, list[float]]]) -> None:
    """One value for all rows, as a sum over the batch gives, is a ServingError that names the output."""
    _, client, _ = served((200, b'{"outputs": 3.5}'))
    with pytest.raises(ServingError, match="one answer for each row, got a single value for 'y'"):
        client.predict(1, {"x": np.ones(2)}, (Y,), "s")


def test_numbers_that_json_does_not_have(served: Callable[..., tuple[Scripted, RestClient, list[float]]]) -> None:
    """NaN and Infinity stand bare in TensorFlow Serving's answers and are read as such."""
    _, client, _ = served((200, b'{"outputs": [NaN, Infinity, -Infinity, 1.5]}'))
    np.testing.assert_array_equal(ask(client, np.ones(4)), [np.nan, np.inf, -np.inf, 1.5])


EMPTY = [
    ("float32", (None, None, 3), b"[[], []]", (2, 0, 3)),
    ("float32", (None, None, None), b"[[], []]", (2, 0, 0)),
    ("int64", (None, 3), b"[]", (0, 3)),
    ("string", (None, None, 2), b"[[]]", (1, 0, 2)),
    ("string", (None,), b"[]", (0,)),
    ("float32", None, b"[[]]", (1, 0)),
]


@pytest.mark.parametrize(("dtype", "shape", "body", "wanted"), EMPTY)
def test_an_empty_answer_has_the_axes_of_its_signature(
    served: Callable[..., tuple[Scripted, RestClient, list[float]]], dtype: str, shape: Any, body: bytes, wanted: Any
) -> None:
    """JSON says nothing of the axes behind an empty one, as of the tags of a text without a word."""
    _, client, _ = served((200, b'{"outputs": ' + body + b"}"))
    assert client.predict(1, {"x": np.ones(1)}, (TensorSpec("o", dtype, shape),), "s")["o"].shape == wanted


def test_float32_reads_back_exactly() -> None:
    """Every float32 is written so that it reads back as the same float32."""
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    values = bits[np.isfinite(bits)]
    back = np.asarray(json.loads(predict_body({"x": values}))["inputs"]["x"], np.float64).astype(np.float32)
    np.testing.assert_array_equal(back.view(np.uint32), values.view(np.uint32))


def test_text_and_bytes_in_requests_and_answers(
    served: Callable[..., tuple[Scripted, RestClient, list[float]]],
) -> None:
    """Text goes as it is, bytes as b64, and b64 comes back as bytes."""
    body = json.loads(predict_body({"t": np.array([["ä", "b"]]), "b": np.array([b"\xff\x00\xfe"])}, "other"))
    assert body == {"signature_name": "other", "inputs": {"t": [["ä", "b"]], "b": [{"b64": "/wD+"}]}}
    _, client, _ = served((200, b'{"outputs": [{"b64": "/wD+"}]}'))
    answer = client.predict(1, {"x": np.ones(1)}, (TensorSpec("o_bytes", "string", (None,)),), "s")["o_bytes"]
    assert answer.tolist() == [b"\xff\x00\xfe"]


def test_rows_in_a_request_follow_their_size() -> None:
    """Small rows go by the thousand, large ones by their bytes, and one huge row goes alone."""
    sizes = [len(block["x"]) for block in row_blocks({"x": np.zeros(10_000)})]
    assert sizes == [MAX_ROWS, MAX_ROWS, 10_000 - 2 * MAX_ROWS]
    half, three = (np.zeros((5, int(BODY_BYTES * share / 10)), np.float32) for share in (0.5, 3))  # 10 bytes a number
    assert [len(b["x"]) for b in row_blocks({"x": half})] == [2, 2, 1]
    assert [len(b["x"]) for b in row_blocks({"x": three})] == [1] * 5


def test_memory_stays_flat() -> None:
    """However many items there are, no more than twice the connections are ahead of what was taken."""
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield number

    for taken, result in enumerate(in_order(lambda n: n * n, items(), connections=3), start=1):
        assert result == (taken - 1) ** 2
        assert made - taken < 6


def test_an_error_stops_the_rest() -> None:
    """The first error ends the stream; what was not begun is not begun."""
    begun: list[int] = []

    def fail(number: int) -> int:
        begun.append(number)
        raise PredictionError("no")

    with pytest.raises(PredictionError):
        list(in_order(fail, range(1000), connections=2))
    assert len(begun) <= 4
