"""HTTP/1.1 on the REST port: uvicorn's, with a short way for heads that came before.

A client that predicts sends the same head again and again, and h11 reads and checks it in Python each time,
which takes longer than all the rest of a one-row request. So the bytes of a head are remembered once h11 has
taken them for those of a plain POST: the same bytes mean the same again.
"""

import asyncio
import re
from typing import Any, Final, NamedTuple, Protocol

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from tasks.model_server.pages import page

_HEADS: Final = 256
_HEAD_BYTES: Final = 2048
_BODY_BYTES: Final = 256 * 1024
"""How many heads are remembered, up to which size, and before bodies of which size."""
_PIECES: Final = 256
"""How many pieces of a body are read in one turn of the event loop; h11 takes some 20 us for each chunk."""
_NOT_PLAIN: Final = frozenset((b"connection", b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"))
_ORIGIN: Final = re.compile(rb"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?(?://[^/?#]*)?")


class AnswersAtOnce(Protocol):
    """An ASGI application that knows some answers without waiting for anything."""

    def answer_at_once(self, path: bytes, body: bytes) -> tuple[int, bytes] | None:
        """Return status and JSON text of the answer to a POST, or None where it takes the usual way."""


class _Head(NamedTuple):
    path: bytes
    body_size: int


class _Connection(h11.Connection):
    """h11's connection, with request targets as libevent reads them, and a limit to what is read in one turn."""

    pieces_left = _PIECES

    def next_event(self) -> Any:
        """Return the next event; of a target only its path and query, and an empty query too, which ASGI forgets.

        Raises:
            h11.RemoteProtocolError: no HTTP, or two answers to where the body ends.
        """
        if not self.pieces_left:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Data):
            self.pieces_left -= 1
        if not isinstance(event, h11.Request):
            return event
        _check_framing(event)
        target = _ORIGIN.sub(b"", event.target)
        if target.endswith(b"?") and target.count(b"?") == 1:
            target = target[:-1] + b"%3F"
        if target == event.target:
            return event
        return h11.Request(
            method=event.method, target=target or b"/", headers=event.headers, http_version=event.http_version
        )


def _check_framing(request: h11.Request) -> None:
    """Refuse a request that a server before this one could take for two (RFC 9112, 6.1)."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version != b"1.1"):
        raise h11.RemoteProtocolError("Transfer-Encoding beside Content-Length, or before HTTP/1.1")


class HttpProtocol(H11Protocol):
    """One connection of a client."""

    app: AnswersAtOnce
    _heads: Final[dict[bytes, _Head]] = {}  # of all connections

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Begin with nothing received."""
        super().__init__(*args, **settings)
        self.conn: _Connection = _Connection(h11.SERVER)
        self._held = bytearray()  # a known head with a part of its body
        self._held_until = 0  # the size of both
        self._next_turn: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        """Answer a whole request with a known head, wait for the rest of one, or leave what came to h11."""
        if self._held:
            self._held += data
            if len(self._held) < self._held_until:
                return
            data, self._held = bytes(self._held), bytearray()
        elif not self._is_idle():
            super().data_received(data)
            return
        head, end, body = data.partition(b"\r\n\r\n")
        known = self._heads.get(head)
        if known and len(body) < known.body_size:
            self._unset_keepalive_if_required()
            self._held, self._held_until = bytearray(data), len(head) + len(end) + known.body_size
            return
        if known and len(body) == known.body_size:
            answer = self.app.answer_at_once(known.path, body)
            if answer is not None:
                self._write(*answer)
                return
        super().data_received(data)
        if end and not known and len(head) <= _HEAD_BYTES:
            self._remember(head, body)

    def handle_events(self) -> None:
        """Read what has come, but of many small pieces a few in each turn of the event loop."""
        self.conn.pieces_left = _PIECES
        super().handle_events()
        if not self.conn.pieces_left and self._next_turn is None:
            self.transport.pause_reading()
            self._next_turn = self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._next_turn = None
        if self.transport.is_closing():
            return
        if not self.flow.read_paused:
            self.transport.resume_reading()
        self.handle_events()

    def shutdown(self) -> None:
        """End the connection after the request that is on its way, if one is."""
        held, self._held = bytes(self._held), bytearray()
        if held:
            super().data_received(held)
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with libevent's page."""
        body = page(400)
        headers = [("content-type", "text/html"), ("connection", "close"), ("content-length", str(len(body)))]
        head = h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400])
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_idle(self) -> bool:
        """Return whether a new request begins here and the answer to it can be sent."""
        return self.conn.our_state is h11.IDLE and not self.conn.trailing_data[0] and not self.flow.write_paused

    def _remember(self, head: bytes, body: bytes) -> None:
        """Keep a head that h11 has just read, with what has come of its body."""
        if self.transport.is_closing():  # it was refused
            return
        if self.conn.their_state not in (h11.SEND_BODY, h11.DONE) or self.conn.trailing_data[0]:
            return
        headers = dict(self.headers)
        size = int(headers.get(b"content-length", 0))
        is_plain = self.scope["method"] == "POST" and self.scope["http_version"] == "1.1"
        if not is_plain or self.scope["query_string"] or size > _BODY_BYTES or not _NOT_PLAIN.isdisjoint(headers):
            return
        if self.cycle.body != body:  # the head ended earlier, in bare line feeds
            return
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        self._heads[head] = _Head(self.scope["raw_path"], size)

    def _write(self, status: int, answer: bytes) -> None:
        head = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer))
        self.transport.write(b"HTTP/1.1 %d %b\r\n" % (status, STATUS_PHRASES[status]) + b"".join(head) + answer)
        self.on_response_complete()
