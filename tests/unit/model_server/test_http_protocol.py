"""HTTP/1.1 over a real socket: every request is answered once, in its order, however its bytes arrive."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from tasks.model_server.http_protocol import _HEAD_BYTES, _TURN_BYTES, HttpProtocol

HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"
CHUNKED = b"POST /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Echo:
    """Answers with the method, the path and the body; where the body is `slow`, only when it is told to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.may_go_on = asyncio.Semaphore(0)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        self.headers = scope["headers"]
        if body == b"slow":
            await self.may_go_on.acquire()
        text = b" ".join((scope["method"].encode(), scope["raw_path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})


class Server:
    """A real server on loopback that says how much it has read."""

    def __init__(self) -> None:
        self.app, self.read, self.has_read = Echo(), 0, threading.Condition()
        server = self

        class Watched(HttpProtocol):
            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                with server.has_read:
                    server.read += nbytes
                    server.has_read.notify_all()

        self.uvicorn = uvicorn.Server(
            uvicorn.Config(
                self.app, interface="asgi3", http=Watched, lifespan="off", log_config=None, ws="none", loop="asyncio",
                proxy_headers=False,
            )
        )  # fmt: skip
        self.listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.is_running = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.thread.start()
        assert self.is_running.wait(300)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_running.set()
        await self.uvicorn.serve([self.listening])

    def wait_until_read(self, size: int) -> None:
        with self.has_read:
            assert self.has_read.wait_for(lambda: self.read >= size, 300)

    def in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function between the server's own turns, and wait for its end."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        assert done.wait(300)


class Client:
    """One connection, on which bytes are sent as they are."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.socket = socket.create_connection(("127.0.0.1", server.listening.getsockname()[1]), timeout=300)
        self.file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        """Send parts so that each arrives by itself."""
        for part in parts:
            before = self.server.read
            self.socket.sendall(part)
            self.server.wait_until_read(before + len(part))

    def answer(self, status: bytes = b"200 OK") -> bytes:
        assert self.file.readline() == b"HTTP/1.1 %b\r\n" % status
        headers = dict(line.rstrip().split(b": ", 1) for line in iter(self.file.readline, b"\r\n"))
        assert b"date" in headers
        return self.file.read(int(headers[b"content-length"]))

    def ask(self, *parts: bytes) -> bytes:
        self.send(*parts)
        return self.answer()

    def is_refused(self) -> bool:
        """Return whether the next answer is libevent's page for what is no HTTP, and the last."""
        page = self.answer(b"400 Bad Request")
        with contextlib.suppress(ConnectionResetError):  # bytes that nobody read end a connection so
            assert self.file.read() == b""
        return b"<TITLE>400 Bad Request</TITLE>" in page


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.uvicorn.should_exit = running.uvicorn.force_exit = True
    running.thread.join(300)
    assert not running.thread.is_alive()


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[], Client]]:
    with contextlib.ExitStack() as stack:

        def connected() -> Client:
            client = Client(server)
            stack.callback(client.socket.close)
            stack.callback(client.file.close)
            return client

        yield connected


def request(body: bytes, more: bytes = b"") -> bytes:
    return HEAD % (len(body), more) + body


def answer(body: bytes) -> bytes:
    return b"POST /v1/models/m:predict " + body


@pytest.mark.parametrize("size", [1, 2, 30, 60])
def test_request_in_pieces(connect: Any, size: int) -> None:
    """Head and body may come apart, and each in pieces, one request after the other."""
    client, whole = connect(), request(b"0123456789")
    for _ in range(2):
        assert client.ask(*(whole[at : at + size] for at in range(0, len(whole), size))) == answer(b"0123456789")


@pytest.mark.parametrize("size", [1, 7, 4000])
def test_chunks_in_pieces(connect: Any, size: int) -> None:
    """A chunked body arrives whole, however chunks and packets cut it."""
    body = b"0123456789" * 20
    pieces = [body[at : at + 3] for at in range(0, len(body), 3)]
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    whole = CHUNKED + chunks + b"0\r\n\r\n"
    assert connect().ask(*(whole[at : at + size] for at in range(0, len(whole), size))) == b"POST /chunked " + body


def test_pipelined_requests_keep_their_order(server: Server, connect: Any) -> None:
    """Requests sent without waiting are answered one by one, none before one that takes its time."""
    client = connect()
    client.send(request(b"a") + request(b"b"), request(b"slow") + request(b"c"))
    client.socket.sendall(request(b"d"))
    server.in_loop(server.app.may_go_on.release)
    assert [client.answer() for _ in range(5)] == [answer(body) for body in (b"a", b"b", b"slow", b"c", b"d")]


@pytest.mark.parametrize("bodies", [[b"slow"], [b"slow", b"b"], [b"b", b"slow", b"c"]])
@pytest.mark.parametrize("broken", [b"\0\r\n\r\n", CHUNKED + b"5\r\nwho", CHUNKED + b"zz\r\n", b"GET /\r\n\r\n"])
def test_what_is_no_http_waits_for_the_answers_before_it(
    server: Server, connect: Any, bodies: list[bytes], broken: bytes
) -> None:
    """What can be answered is answered first, a request that breaks off in its body never."""
    client = connect()
    client.send(b"".join(map(request, bodies)) + broken)
    client.socket.sendall(b"garbage\r\n\r\n")
    server.in_loop(server.app.may_go_on.release)
    assert [client.answer() for _ in bodies] == list(map(answer, bodies))
    assert client.is_refused()
    assert server.app.bodies == bodies


@pytest.mark.parametrize(
    "broken",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 99, b"GET / HTTP/3.0\r\n\r\n",
     b"GET /\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\xe4 HTTP/1.1\r\n\r\n",
     b"GET /\0 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\nHost: x\n\n", b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http(connect: Any, broken: bytes) -> None:
    """It is refused with a page, and so is all that came with it, at first and after an answer."""
    for before in ([], [request(b"x")]):
        client = connect()
        assert list(map(client.ask, before)) == [answer(b"x")] * len(before)
        client.socket.sendall(broken + request(b"x"))
        assert client.is_refused()


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("size", [1, 40, 4000])
def test_no_other_protocol(connect: Any, more: bytes, size: int) -> None:
    """Clients of Java ask for HTTP/2 with their first request: it is answered in HTTP/1.1, with its body."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    chunked = CHUNKED[:-2] + upgrade + b"\r\n1\r\nb\r\n0\r\n\r\n"
    whole = request(b"a", upgrade) + chunked + request(b"c", upgrade + more)
    client = connect()
    for at in range(0, len(whole), size):
        client.socket.sendall(whole[at : at + size])
    assert [client.answer() for _ in range(3)] == [answer(b"a"), b"POST /chunked b", answer(b"c")]
    if more:
        assert client.file.read() == b""
    else:
        assert client.ask(request(b"d")) == answer(b"d")


def test_no_tunnel(connect: Any) -> None:
    """A CONNECT is passed on and is the last request of its connection: what follows would be another protocol."""
    client = connect()
    client.socket.sendall(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + request(b"x"))
    assert client.answer().startswith(b"CONNECT ")
    assert client.file.read() == b""


def test_trailers_are_no_headers(server: Server, connect: Any) -> None:
    """What stands behind a chunked body changes nothing, whether it comes with the body or later."""
    chunks = b"1\r\nx\r\n0\r\nContent-Encoding: gzip\r\n\r\n"
    for cut in (0, 6, 20):
        assert connect().ask(CHUNKED + chunks[:cut], chunks[cut:]) == b"POST /chunked x"
        assert [name for name, _ in server.app.headers] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/a?", b"/a?"), (b"/a?b?", b"/a?b?"), (b"/a?b=c#d", b"/a?b=c#d"), (b"/%41%zz", b"/%41%zz"),
     (b"/a#b#c", b"/a#b#c"), (b"http://u@h:1/a?b", b"/a?b"), (b"//h/a", b"/a"), (b"http://h", b"/"),
     (b"http://h?a", b"?a"), (b"*", b"*")],
)  # fmt: skip
def test_targets(connect: Any, target: bytes, path: bytes) -> None:
    """The path is all of the target behind scheme and host."""
    assert connect().ask(b"GET %b HTTP/1.1\r\n\r\n" % target) == b"GET %b " % path


def test_close_is_kept(connect: Any) -> None:
    """A client that asks for the end of the connection gets it, as one of HTTP/1.0 does."""
    for last in (request(b"x", b"Connection: CLOSE\r\n"), request(b"x").replace(b"HTTP/1.1", b"HTTP/1.0")):
        client = connect()
        client.socket.sendall(request(b"x") + last + request(b"y"))
        assert [client.answer(), client.answer()] == [answer(b"x")] * 2
        assert client.file.read() == b""


@pytest.mark.parametrize(
    ("begin", "line"),
    [(b"GET / HTTP/1.1\r\n", b"X: y\r\n"), (b"GET / HTTP/1.1\r\nX: ", b"y" * 999), (b"GET / HTTP/1.1\r\n", b"y" * 999),
     (b"GET /", b"y" * 999), (b"", b"\r\n"), (CHUNKED + b"1;", b"y" * 999), (CHUNKED + b"0\r\nX: ", b"y" * 999)],
)  # fmt: skip
def test_endless_heads(connect: Any, begin: bytes, line: bytes) -> None:
    """A head, a chunk's size or a trailer that does not end is refused while it comes."""
    client = connect()
    with contextlib.suppress(ConnectionError):
        client.socket.sendall(begin)
        for _ in range(4 * _HEAD_BYTES // len(line)):
            client.socket.sendall(line)
    with contextlib.suppress(ConnectionError):  # what it did not read resets the connection
        assert client.is_refused()


def test_large_heads(connect: Any) -> None:
    """Heads below the limit are read, in one line or in ten thousand."""
    for more in (b"X: " + b"y" * 100_000 + b"\r\n", b"".join(b"x%d: y\r\n" % number for number in range(10_000))):
        client = connect()
        client.socket.sendall(request(b"x", more) + request(b"y", more))
        assert [client.answer(), client.answer()] == [answer(b"x"), answer(b"y")]


def test_no_more_is_read_while_requests_wait(server: Server, connect: Any) -> None:
    """A client that sends without end fills no memory, not even while it is answered; in the end it is, to the last."""
    client, other, x, slow = connect(), connect(), request(b"x"), request(b"slow")
    sent = slow + 100 * x + slow + 20_000 * x
    sender = threading.Thread(target=client.socket.sendall, args=(sent,))
    sender.start()
    server.wait_until_read(_TURN_BYTES)
    server.in_loop(server.app.may_go_on.release)
    assert [client.answer() for _ in range(101)] == [answer(b"slow"), *[answer(b"x")] * 100]
    for _ in range(20):
        assert other.ask(request(b"y")) == answer(b"y")
    assert server.read < 3 * _TURN_BYTES
    server.in_loop(server.app.may_go_on.release)
    assert client.answer() == answer(b"slow")
    assert all(client.answer() == answer(b"x") for _ in range(20_000))
    sender.join(300)


@pytest.mark.parametrize("cut", [5, -4, -1])
def test_end_of_the_server_waits_for_a_request_on_its_way(server: Server, connect: Any, cut: int) -> None:
    """A request whose head has come is still answered; then the connection is closed."""
    client, whole = connect(), request(b"body")
    assert client.ask(whole) == answer(b"body")
    client.send(whole[:cut])
    server.in_loop(lambda: asyncio.ensure_future(server.uvicorn.shutdown([server.listening])))
    server.in_loop(lambda: None)  # by then it has begun to end
    if cut < 0:
        assert client.ask(whole[cut:]) == answer(b"body")
    assert client.file.read() == b""
