"""Large and hostile requests are answered, and others are answered meanwhile."""

import base64
import contextlib
import gzip
import json
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

MB = 2**20
INSTANCES = b'{"instances": '


def _request(body: bytes, model: str = "half", more: bytes = b"") -> bytes:
    head = b"POST /v1/models/%b:predict HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
    return head % (model.encode(), more, len(body)) + body


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + b"0\r\n\r\n"


@contextlib.contextmanager
def _connected(server: Any) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=600) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def _answer(client: socket.socket) -> tuple[int, bytes]:
    with client.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = dict(line.rstrip().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
        return status, file.read(int(headers[b"content-length"]))


def _ask_status(client: socket.socket) -> None:
    client.sendall(b"GET /v1/models/half HTTP/1.1\r\nHost: x\r\n\r\n")
    assert _answer(client)[0] == 200


def _error(answer: bytes) -> str:
    return str(json.loads(answer.decode("utf-8", "surrogateescape"))["error"])


def _has_answer(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


SLOW = {
    "short numbers": (INSTANCES + b"[[NaN.5]" + b",[1]" * (MB // 2) + b",2]}", "Expecting shape [1] but got: []"),
    "empty lists": (INSTANCES + b"[" + b"[]," * MB + b"[1]]}", "Expecting tensor size: 0 but got: 1"),
    "escapes": (INSTANCES + b'"' + b"\\ud83d\\ude00" * (MB // 4) + b'\xff"}', "Expecting 'instances' to be an list"),
    "number tails": (INSTANCES + b"[" + b"[NaN.5]," * (MB // 4) + b"2]}", "Expecting shape [1] but got: []"),
    "repeated keys": (b"{" + b'"instances":[[1],2],' * (MB // 8) + b'"a":1}', "Expecting shape [1] but got: []"),
}
"""Bodies that take the exact reader a second or so, and a part of the error: nothing is run."""


SUITE = ("short numbers", "escapes")


@pytest.mark.parametrize(
    "kind", [kind if kind in SUITE else pytest.param(kind, marks=pytest.mark.long) for kind in SLOW]
)
def test_others_are_answered_meanwhile(zoo_server: Any, kind: str) -> None:
    """While a large body is read, the status of a model is told to another client."""
    body, error = SLOW[kind]
    request = _request(body)
    with _connected(zoo_server) as busy, _connected(zoo_server) as other:
        busy.sendall(request[:-1])
        for _ in range(len(request) // 2**15):  # each is at least one turn of the event loop, which reads 64 KB
            _ask_status(other)
        busy.sendall(request[-1:])
        for _ in range(3):  # by the second at the latest the whole body has come
            _ask_status(other)
        assert not _has_answer(busy)
        status, answer = _answer(busy)
    assert status == 400
    assert error in _error(answer)


BODIES = {
    "arrays": (b"[" * 5 * MB, "Nested deeper than 100000 levels. at offset: 100001"),
    "objects": (b'{"a":' * MB, "Nested deeper than 100000 levels. at offset: 500001"),
    "deep and closed": (INSTANCES + b"[" * 90_000 + b"]" * 90_000 + b"}", "tensor parsing error: x"),
    "broad and deep": (
        INSTANCES + b'{"a":' * 200 + b"[" + b'{"a":1},' * (MB // 2) + b"1]" + b"}" * 201,
        "... Expecting",
    ),
    "commas": (b"," * 5 * MB, "The document is empty."),
    "colons": (b'{"a"' + b":" * 5 * MB, "Invalid value."),
    "quotes": (b'"' * 5 * MB, "Is not object"),
    "spaces": (b" " * 5 * MB, "The document is empty."),
    "backslashes": (b'{"' + b"\\" * 5 * MB, "Missing a closing quotation mark"),
    "long number": (INSTANCES + b"[" + b"1" * 5 * MB + b"]}", "Number too big"),
    "long fraction": (INSTANCES + b"[[0." + b"0" * 5 * MB + b"1]]}", None),
    "long exponent": (INSTANCES + b"[[1e-" + b"9" * 5 * MB + b"]]}", None),
    "long key": (b'{"' + b"k" * 5 * MB + b'": 1}', "Missing 'inputs' or 'instances' key"),
    "numbers": (INSTANCES + b"[[1]" + b",[1]" * MB + b"]}", None),
    "not utf-8": (INSTANCES + b'["' + b"\xff" * 5 * MB + b'"]}', "is not of expected type: float"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_hostile_body(zoo_server: Any, kind: str) -> None:
    """Megabytes of one kind are answered as a few bytes of it are."""
    body, error = BODIES[kind]
    with _connected(zoo_server) as client:
        client.sendall(_request(body))
        status, answer = _answer(client)
    assert status == (200 if error is None else 400), answer[:300]
    assert error is None or error in _error(answer)[-300:]


def test_large_base64(zoo_server: Any) -> None:
    """A binary string of megabytes arrives whole."""
    body = json.dumps({"signature_name": "string", "inputs": {"b64": base64.b64encode(b"x" * 5 * MB).decode()}})
    with _connected(zoo_server) as client:
        client.sendall(_request(body.encode(), "zoo"))
        status, answer = _answer(client)
    assert (status, len(json.loads(answer)["outputs"])) == (200, 5 * MB)


@pytest.mark.parametrize("content", [b" ", b"[", b"1,", b'{"a":'])
def test_gzip_bomb(zoo_server: Any, content: bytes) -> None:
    """A small body that unpacks to a large one is answered as the large one would be."""
    body = gzip.compress(content * (20 * MB))
    with _connected(zoo_server) as client:
        client.sendall(_request(body, more=b"Content-Encoding: gzip\r\n"))
        status, answer = _answer(client)
    assert (status, list(json.loads(answer))) == (400, ["error"])


def test_small_chunks(zoo_server: Any) -> None:
    """While a body comes in chunks of one byte, others are answered; then it is, too."""
    body = INSTANCES + b"[[2.0]" + b" " * 100_000 + b"]}"
    with _connected(zoo_server) as busy, _connected(zoo_server) as other:
        busy.sendall(_chunked(body, 1))
        _ask_status(other)
        assert not _has_answer(busy)
        assert _answer(busy) == (200, b'{"predictions":[[3.0]]}')
        busy.sendall(_request(INSTANCES + b"[[4.0]]}"))
        assert _answer(busy) == (200, b'{"predictions":[[4.0]]}')


@pytest.mark.parametrize("size", [1, 3, 5000])
def test_chunks_of_any_size(zoo_server: Any, size: int) -> None:
    """However a body is cut, the same arrives, and the requests behind it keep their order."""
    requests = _chunked(INSTANCES + b"[[2.0]" + b" " * 6000 + b"]}", size) + _request(INSTANCES + b"[[4.0]]}")
    with _connected(zoo_server) as client:
        client.sendall(requests)
        file = client.makefile("rb")
        found = b""
        while b"[[4.0]]" not in found:
            found += file.read1()
        file.close()
    assert found.count(b"HTTP/1.1 200") == 2
    assert found.index(b"[[3.0]]") < found.index(b"[[4.0]]")


@pytest.mark.parametrize("line", [b"X: " + b"y" * MB, b"y" * MB, b"X: y\r\n" * 50_000], ids=["value", "name", "many"])
def test_long_heads(zoo_server: Any, line: bytes) -> None:
    """A head beyond all measure is refused while it comes."""
    with _connected(zoo_server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /v1/models/half HTTP/1.1\r\n" + line)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_slow_senders(zoo_server: Any) -> None:
    """A request that comes byte by byte is answered, and others are between its bytes."""
    request = _request(INSTANCES + b"[[2.0]]}")
    with _connected(zoo_server) as slow, _connected(zoo_server) as other:
        for byte in request[:-1]:
            slow.sendall(bytes((byte,)))
        other.sendall(_request(INSTANCES + b"[[4.0]]}"))
        assert _answer(other) == (200, b'{"predictions":[[4.0]]}')
        assert not _has_answer(slow)
        slow.sendall(request[-1:])
        assert _answer(slow) == (200, b'{"predictions":[[3.0]]}')
