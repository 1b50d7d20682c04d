"""Nothing that a client sends makes the embedded server fall, hang or answer with an unexplained 5xx."""

import gzip
import http.client
import json
import socket
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.model_server.rest_app import MAX_BODY_BYTES

MODELS = ["half", "dense3", "kmulti", "multi", "text", "ints", "zoo", "nope"]
SIGNATURES = [
    "", "serving_default", "f32", "f64", "i8", "u64", "boolean", "string", "f16", "c64", "one", "total", "scalars",
    "bytes", "echo", "__saved_model_init_op",
]  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.fixed_dictionaries({"b64": st.text(alphabet=string.ascii_letters + "+/=", max_size=8)}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "a", "b", "text", "n", "y", "b64"]), inner, max_size=3)
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda document: json.dumps(document).encode("utf-8", "surrogatepass"),
        st.fixed_dictionaries(
            {},
            optional={
                "instances": st.lists(VALUES, max_size=4) | VALUES,
                "inputs": VALUES,
                "signature_name": st.sampled_from(SIGNATURES) | VALUES,
                "more": VALUES,
            },
        ),
    ),
    st.builds(
        lambda name, value: json.dumps({"signature_name": name, "inputs": value}).encode("utf-8", "surrogatepass"),
        st.sampled_from(SIGNATURES),
        VALUES,
    ),
)
PATH_PARTS = st.sampled_from(
    ["/", "v1", "models", "half", "twov", "versions", "labels", "stable", "1", "99", ":predict", ":", "metadata", "?",
     "%", "%41", "%zz", "..", "#", "a=b", "//", "\\", "~", "'", "%00", "%ff"]
)  # fmt: skip


@pytest.fixture(scope="module")
def connection(zoo_server: Any) -> Any:
    """Return one kept-alive connection for thousands of requests."""
    opened = http.client.HTTPConnection("127.0.0.1", zoo_server.rest_port, timeout=600)
    yield opened
    opened.close()


def _answer(connection: Any, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()


EXAMPLES = pytest.mark.parametrize("examples", [500, pytest.param(5000, marks=pytest.mark.long)])


@EXAMPLES
def test_any_body(connection: Any, examples: int) -> None:
    """Any body gets an answer, a JSON object with an error, or 501 for what JSON cannot carry."""

    @settings(max_examples=examples)
    @given(model=st.sampled_from(MODELS), body=BODIES)
    def answered(model: str, body: bytes) -> None:
        status, answer = _answer(connection, "POST", f"/v1/models/{model}:predict", body)
        assert status in (200, 400, 404, 501), (body, answer)
        document = json.loads(answer.decode("utf-8", "surrogateescape"))
        assert list(document) in ([["predictions"], ["outputs"]] if status == 200 else [["error"]])

    answered()


@EXAMPLES
def test_any_path(connection: Any, examples: int) -> None:
    """Any path gets 200, 400 or 404."""

    @settings(max_examples=examples)
    @given(method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "PATCH"]), parts=st.lists(PATH_PARTS, max_size=8))
    def answered(method: str, parts: list[str]) -> None:
        path = "/" + "/v1/models/half/"[1 : len(parts) * 3] + "".join(parts)
        status, answer = _answer(connection, method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None)
        assert status in (200, 400, 404), (path, answer)

    answered()


def test_body_over_the_limit_is_refused_before_it_is_read(zoo_server: Any) -> None:
    """A body that says it is too large gets 413 without any of it having been sent."""
    with socket.create_connection(("127.0.0.1", zoo_server.rest_port), timeout=600) as client:
        head = f"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_gzip(zoo_server: Any) -> None:
    """A body may be compressed; one that is cut short, or blows up beyond the limit, counts as empty."""
    body = b'{"instances": [[1.0], [3.0]]}'
    packed = gzip.compress(body)
    headers = {"Content-Encoding": "gzip"}
    status, _, answer = zoo_server.request("POST", "/v1/models/half:predict", packed, headers)
    assert (status, json.loads(answer)) == (200, {"predictions": [[2.5], [3.5]]})
    bomb = gzip.compress(b" " * (101 * 2**20) + body, compresslevel=1)
    for broken in (packed[:-9], bomb):
        status, _, answer = zoo_server.request("POST", "/v1/models/half:predict", broken, headers)
        assert (status, json.loads(answer)["error"]) == (400, "JSON Parse error: The document is empty")


def test_slow_and_half_closed_clients_do_not_block_others(zoo_server: Any) -> None:
    """While clients dawdle over their requests, one that does not is answered."""
    idle = []
    for opening in (
        b"",
        b"POST /v1/models/half:predict HTTP/1.1\r\nContent-",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ):
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", zoo_server.rest_port), timeout=600)
            client.sendall(opening)
            idle.append(client)
    idle[0].shutdown(socket.SHUT_WR)
    try:
        assert zoo_server.predict("half", {"instances": [[2.0]]}) == (200, {"predictions": [[3.0]]})
    finally:
        for client in idle:
            client.close()


def test_slow_prediction_does_not_block_others(starter: Any, odd_models: Any) -> None:
    """While one prediction runs for long, states and other predictions are answered."""
    server = starter.start("--model_name=odd", f"--model_base_path={odd_models / 'odd'}")
    busy = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=600)
    assert server.predict("odd", {"signature_name": "slow", "inputs": 1}) == (200, {"outputs": 1})
    busy.request("POST", "/v1/models/odd:predict", json.dumps({"signature_name": "slow", "inputs": 2_000_000}))
    assert server.states("odd") == {"1": "AVAILABLE"}
    assert server.predict("odd", {"signature_name": "slow", "inputs": 2}) == (200, {"outputs": 2})
    busy.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        busy.sock.recv(1, socket.MSG_PEEK)
    busy.close()


def test_client_that_goes_away_is_no_harm(zoo_server: Any) -> None:
    """Clients that close their connection in the middle of a request or an answer leave the server well."""
    rows = json.dumps({"instances": [[1.0]] * 20_000}).encode()
    head = f"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(rows)}\r\n\r\n".encode()
    for sent in (head, head + rows[:1000], head + rows):
        client = socket.create_connection(("127.0.0.1", zoo_server.rest_port), timeout=600)
        client.sendall(sent)
        client.close()
    assert zoo_server.predict("half", {"instances": [[2.0]]}) == (200, {"predictions": [[3.0]]})


def test_graph_that_raises(zoo_server: Any) -> None:
    """An assertion in the graph is a 400 with its own message."""
    status, answer = zoo_server.predict("multi", {"signature_name": "fails", "instances": [[1, -2, 3]]})
    assert status == 400
    assert "a must be positive" in answer["error"]


def test_numbers_that_json_carries_badly(starter: Any, odd_models: Any) -> None:
    """Subnormal outputs are zero, NaN and infinities bare tokens, bytes stay bytes, float16 is refused."""
    server = starter.start("--model_name=odd", f"--model_base_path={odd_models / 'odd'}")
    body = b'{"signature_name":"tiny","inputs":[1]}'
    for _ in range(3):  # the first run is TensorFlow's threads', later ones the server's own
        status, _, answer = server.request("POST", "/v1/models/odd:predict", body)
        outputs = json.loads(answer.decode("utf-8", "surrogateescape"))["outputs"]
        assert status == 200
        assert str(outputs["numbers"]) == "[0.0, -0.0, -0.0, nan, inf, -inf, 0.1, 1e-37]"
        assert outputs["text"] == ['\udcff"\n'] * 8
    assert server.predict("odd", {"signature_name": "half", "instances": [1.0]}) == (
        400,
        {"error": "Failed to write JSON value for tensor type: half"},
    )
    status, answer = server.predict("odd", {"signature_name": "uneven", "instances": [1.0]})
    assert (status, "inconsistent batch size" in answer["error"]) == (400, True)


def test_pipelined_and_split_requests(zoo_server: Any) -> None:
    """Two requests in one packet and one request in many packets are all answered."""
    body = b'{"instances": [[2.0]]}'
    request = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", zoo_server.rest_port), timeout=600) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(request * 2)
        for position in range(0, len(request), 7):
            client.sendall(request[position : position + 7])
        received = b""
        while received.count(b'{"predictions":[[3.0]]}') < 3:
            received += client.recv(65536)
