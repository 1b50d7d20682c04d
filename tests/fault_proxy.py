"""A proxy between a client and a real HTTP server that misbehaves from a chosen request on.

Which request it is follows from its method and path or its number, never from a time. A fault that waits does so until
the test says that it has seen enough, or until the proxy is closed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Rule = Callable[[str, str], str]
WITHHELD = ("transfer-encoding", "connection", "keep-alive")


@dataclass
class FaultProxy:
    """Relays requests, one a connection.

    Attributes:
        upstream: `host:port`, or the path of a Unix socket.
        rule: of a request's method and path: the fault, or an empty string to relay it. Faults are
            hang (no answer), late (the server's own answer, once `seen_enough` is set), reset, cut (the server's own
            answer without its end), after (relayed, and its answer is withheld), stall (the first event of a stream,
            and no other), html (a page in place of the answer), or a status such as `503`, with headers behind it:
            `429 Retry-After: 3600`.
        edit: of a path and the body of the server's answer to it: the body to relay.
        path: a Unix socket to listen on; empty is a port of loopback. address: where it listens, as a URL.
        asked: method and path of every request so far. relayed: of those that the server has answered. faults: of
            those that were not relayed as they are.
    """

    upstream: str
    rule: Rule = lambda _method, _path: ""
    edit: Callable[[str, bytes], bytes] = lambda _path, content: content
    path: str = ""
    asked: list[str] = field(default_factory=list)
    relayed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seen_enough: threading.Event = field(default_factory=threading.Event)
    misbehaved: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._opened: list[socket.socket] = []
        self._closed = False
        if self.path:
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(self.path)
            self._listening.listen(128)
            self.address = f"unix://{self.path}"
        else:
            self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
            self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def from_request(self, method: str, path: str, fault: str) -> None:
        """Misbehave from the first request on that has a method and a part of a path."""
        begun = threading.Event()

        def rule(asked: str, at: str) -> str:
            if asked == method and path in at:
                begun.set()
            return fault if begun.is_set() else ""

        self.rule = rule

    def close(self) -> None:
        """Let go of whoever waits, and listen no more."""
        self._closed = True
        self.seen_enough.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for opened in (self._listening, *self._opened):
            opened.close()
        Path(self.path).unlink(missing_ok=True) if self.path else None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # until the listening socket is closed
            while True:
                connection, _ = self._listening.accept()
                self._opened.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError), connection:
            stream = connection.makefile("rb")
            method, path, _ = stream.readline().decode().split(" ", 2)
            headers = http.client.parse_headers(stream)
            if headers.get("Expect", "").lower() == "100-continue":
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = _body(stream, headers)
            self.asked.append(f"{method} {path}")
            fault = self.rule(method, path)
            if fault:
                self.faults.append(f"{method} {path}")
                self.misbehaved.set()
            self._misbehave(fault, connection, lambda: self._relayed(method, path, headers, body))

    def _misbehave(self, fault: str, connection: socket.socket, relayed: Callable[[], bytes]) -> None:
        if fault in ("hang", "late"):
            self.seen_enough.wait()
            if fault == "hang":
                return
        if fault == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault == "stall":
            event = b'{"status": "Pulling fs layer", "id": "a"}\r\n'
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + b"%x\r\n%s\r\n" % (len(event), event))
            self.seen_enough.wait()
        elif fault == "html":
            page = b"<html><body>Please log in</body></html>"
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + page)
        elif fault[:3].isdecimal():
            status, _, more = fault.partition(" ")
            lines = f"HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\nConnection: close\r\n{more}\r\n"
            connection.sendall((lines if not more else f"{lines}\r\n").encode())
        else:
            answer = relayed()
            if fault == "after":
                self.seen_enough.wait()
                return
            if not self._closed:
                head, _, content = answer.partition(b"\r\n\r\n")
                cut = head + b"\r\n\r\n" + content[: len(content) // 2] if content else head[:8]
                connection.sendall(cut if fault == "cut" else answer)

    def _relayed(self, method: str, path: str, headers: http.client.HTTPMessage, body: bytes) -> bytes:
        """Return the server's own answer, head and body."""
        if self.upstream.startswith("/"):
            server = http.client.HTTPConnection("localhost")
            server.sock = socket.socket(socket.AF_UNIX)
            server.sock.connect(self.upstream)
        else:
            server = http.client.HTTPConnection(self.upstream)
        with contextlib.closing(server):
            sent = {k: v for k, v in headers.items() if k.lower() not in (*WITHHELD, "content-length", "expect")}
            server.request(method, path, body or (b"" if method in ("POST", "PUT", "PATCH") else None), sent)
            answer = server.getresponse()
            content = self.edit(path, answer.read())
            self.relayed.append(f"{method} {path}")
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in (*WITHHELD, "content-length")]
            length = answer.getheader("Content-Length") if method == "HEAD" else str(len(content))
            kept += [("Connection", "close")]
            if length and answer.status != 204:
                kept += [("Content-Length", length)]
            head = "".join(f"{name}: {value}\r\n" for name, value in kept)
            return f"HTTP/1.1 {answer.status} {answer.reason}\r\n{head}\r\n".encode() + content


def _body(stream: object, headers: http.client.HTTPMessage) -> bytes:
    """Read what a request has sent, by its length or in chunks."""
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        chunks = []
        while size := int(stream.readline(), 16):  # type: ignore[attr-defined]
            chunks.append(stream.read(size))  # type: ignore[attr-defined]
            stream.readline()  # type: ignore[attr-defined]
        stream.readline()  # type: ignore[attr-defined]
        return b"".join(chunks)
    return bytes(stream.read(int(headers.get("Content-Length") or 0)))  # type: ignore[attr-defined]
