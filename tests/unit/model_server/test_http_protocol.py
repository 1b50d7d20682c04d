"""The short way for heads that came before: taken where it may be, and never for another request than the first."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from tasks.model_server.http_protocol import HttpProtocol

HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"


class Echo:
    """Answers with the body and with the way that it came."""

    knows_answers = True

    def answer_at_once(self, path: bytes, body: bytes) -> tuple[int, bytes] | None:
        status = 400 if body == b"bad" else 200
        return (status, b"at once " + path + b" " + body) if self.knows_answers else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if body == b"slow":
            await asyncio.sleep(0.3)
        text = b"usual " + scope["raw_path"] + b" " + body
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


class Client:
    """One connection, on which bytes are sent as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=300)
        self.file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        """Send parts so far from one another that each arrives by itself."""
        for part in parts:
            self.socket.sendall(part)
            time.sleep(0.02)

    def answer(self, status: bytes = b"200 OK") -> bytes:
        assert self.file.readline() == b"HTTP/1.1 %b\r\n" % status
        headers = dict(line.rstrip().split(b": ", 1) for line in iter(self.file.readline, b"\r\n"))
        assert headers[b"content-type"] == b"application/json"
        assert b"date" in headers
        return self.file.read(int(headers[b"content-length"]))

    def ask(self, *parts: bytes) -> bytes:
        self.send(*parts)
        return self.answer()


@pytest.fixture
def running() -> Iterator[tuple[uvicorn.Server, Echo, Any]]:
    """A real server on loopback, and what connects to it."""
    HttpProtocol._heads.clear()
    app = Echo()
    config = uvicorn.Config(
        app, interface="asgi3", http=HttpProtocol, lifespan="off", log_config=None, ws="none", proxy_headers=False
    )
    server = uvicorn.Server(config)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(listening.getsockname()[1]))
        return clients[-1]

    yield server, app, connect
    for client in clients:
        client.file.close()
        client.socket.close()
    server.should_exit = True
    thread.join(300)
    assert not thread.is_alive()


def request(body: bytes, more: bytes = b"") -> bytes:
    return HEAD % (len(body), more) + body


def test_second_request_takes_the_short_way(running: Any) -> None:
    """The same head with another body of its size is answered at once, on any connection, with that body's answer."""
    client = running[2]()
    assert client.ask(request(b"one")) == b"usual /v1/models/m:predict one"
    assert client.ask(request(b"two")) == b"at once /v1/models/m:predict two"
    assert running[2]().ask(request(b"six")) == b"at once /v1/models/m:predict six"
    assert client.ask(request(b"four")) == b"usual /v1/models/m:predict four"  # its length makes another head


def test_a_failure_is_answered_at_once_too(running: Any) -> None:
    """What is wrong with a request is found out once, not again on the usual way."""
    client = running[2]()
    client.ask(request(b"one"))
    client.send(request(b"bad"))
    assert client.answer(b"400 Bad Request") == b"at once /v1/models/m:predict bad"
    assert client.ask(request(b"two")) == b"at once /v1/models/m:predict two"


@pytest.mark.parametrize("size", [1, 2, 30, 60])
def test_request_in_pieces(running: Any, size: int) -> None:
    """Head and body may come apart, and each in pieces."""
    client, whole = running[2](), request(b"0123456789")
    head = len(whole) - 10
    assert client.ask(whole[:head], whole[head:]) == b"usual /v1/models/m:predict 0123456789"
    assert client.ask(whole[:head], whole[head:]) == b"at once /v1/models/m:predict 0123456789"
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert client.ask(*pieces).endswith(b"/v1/models/m:predict 0123456789")
    assert client.ask(whole) == b"at once /v1/models/m:predict 0123456789"


def test_what_cannot_be_answered_at_once_takes_the_usual_way(running: Any) -> None:
    """The whole request then goes to the application, held pieces included."""
    client, whole = running[2](), request(b"body")
    client.ask(whole)
    running[1].knows_answers = False
    assert client.ask(whole) == b"usual /v1/models/m:predict body"
    assert client.ask(whole[:-2], whole[-2:]) == b"usual /v1/models/m:predict body"


def test_pipelined_requests_keep_their_order(running: Any) -> None:
    """Requests sent without waiting are answered one by one."""
    client = running[2]()
    client.ask(request(b"a"))
    client.send(request(b"b") + request(b"c") + request(b"d"))
    assert [client.answer()[-1:] for _ in range(3)] == [b"b", b"c", b"d"]
    client.send(request(b"e"), request(b"f"))
    assert [client.answer() for _ in range(2)] == [b"at once /v1/models/m:predict " + body for body in (b"e", b"f")]


def test_known_head_waits_for_the_answer_before(running: Any) -> None:
    """A request that could be answered at once does not overtake one that takes its time."""
    client = running[2]()
    client.ask(request(b"b"))
    client.send(request(b"slow"), request(b"c"))
    assert [client.answer()[-1:] for _ in range(2)] == [b"w", b"c"]


def test_known_head_inside_another_is_part_of_it(running: Any) -> None:
    """What stands where a header of an unfinished head goes on is no request."""
    client = running[2]()
    client.ask(request(b"body"))
    client.send(b"POST /other HTTP/1.1\r\nX-Inner: ", request(b"body"))
    assert client.answer() == b"usual /other body"


@pytest.mark.parametrize(
    "whole",
    [
        request(b"x", b"Connection: keep-alive\r\n"),
        request(b"x", b"Content-Encoding: gzip\r\n"),
        request(b"x", b"Expect: nothing\r\n"),
        request(b"x").replace(b":predict", b":predict?a=b"),
        request(b"x").replace(b"POST", b"PUT"),
        b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        request(b"x", b"X-Long: " + b"y" * 2048 + b"\r\n"),
        request(b"x" * (256 * 1024 + 1)),
    ],
    ids=["connection", "gzip", "expect", "query", "put", "chunked", "long head", "large body"],
)
def test_never_the_short_way(running: Any, whole: bytes) -> None:
    """A head that says more than how long the body is goes to h11 every time."""
    client = running[2]()
    for _ in range(3):
        assert client.ask(whole).startswith(b"usual ")


def test_close_is_kept(running: Any) -> None:
    """A client that asks for the end of the connection gets it, the second time too."""
    for _ in range(2):
        client = running[2]()
        client.ask(request(b"x", b"Connection: close\r\n"))
        assert client.file.read() == b""


def test_head_that_ends_in_bare_line_feeds(running: Any) -> None:
    """Its body may hold what looks like the end of a head."""
    body = b"ab\r\n\r\ncd"
    whole = b"POST /v1/models/m:predict HTTP/1.1\nHost: x\nContent-Length: %d\n\n" % len(body) + body
    client = running[2]()
    for _ in range(3):
        assert client.ask(whole) == b"usual /v1/models/m:predict " + body


def test_no_more_heads_are_kept_than_the_limit(running: Any) -> None:
    """A client whose heads all differ does not fill the memory."""
    client = running[2]()
    for number in range(600):
        client.socket.sendall(request(b"x", b"X-Request: %d\r\n" % number))
        assert client.answer().startswith(b"usual ")
    assert 0 < len(HttpProtocol._heads) <= 256


@pytest.mark.parametrize("cut", [5, -4, -1])
def test_end_of_the_server_waits_for_a_request_on_its_way(running: Any, cut: int) -> None:
    """A known request of which a part has come is still answered; then the connection is closed."""
    server, _, connect = running
    client, whole = connect(), request(b"body")
    client.ask(whole)
    client.send(whole[:cut])
    server.should_exit = True
    if cut == 5:  # nothing to answer yet
        assert client.file.read() == b""
        return
    while any(listening.is_serving() for listening in server.servers):  # until it has begun to end
        time.sleep(0.01)
    assert client.ask(whole[cut:]) == b"usual /v1/models/m:predict body"
    assert client.file.read() == b""
