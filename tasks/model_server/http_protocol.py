"""HTTP/1.1 on the REST port: uvicorn's protocol with the parser llhttp, and libevent's targets and refusals."""

import asyncio
import re
from collections.abc import Sized
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tasks.model_server.pages import page

_TURN_BYTES: Final = 16 * 2**10
"""How much of a connection is read in one turn of the event loop, in bytes: 1 ms of tiny chunks, 7 of requests."""
_HEAD_BYTES: Final = 128 * 2**10
"""How much may come, in bytes, before a head, a piece of a body or a trailer is whole; llhttp itself has no limit."""
_LENGTH_DIGITS: Final = 100
_ORIGIN: Final = re.compile(rb"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?(?://[^/?#]*)?")


class _Parser(httptools.HttpRequestParser):
    """llhttp, which would stop parsing HTTP and skip the body if a client asks for another protocol."""

    def __init__(self, protocol: "HttpProtocol") -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse more bytes.

        Raises:
            httptools.HttpParserError: the bytes are not HTTP.
        """
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._protocol.stay_in_http(data[upgrade.args[0] :])


class _Flow(FlowControl):
    """Does not read while requests are waiting, so that a client cannot send endlessly without reading answers."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """A connection of a client."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Create a protocol without received bytes."""
        super().__init__(*args, **settings)
        self.parser = _Parser(self)
        self._piece = bytearray(_TURN_BYTES)
        self._again = b""
        self._unread = 0  # bytes since something was whole
        self._in_head = False
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to read."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the buffer for the next bytes, whose size limits one turn of the event loop."""
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the bytes in the buffer."""
        data = bytes(self._piece[:nbytes])
        self._unread += nbytes
        while data and not self._is_refused:
            self._again = b""
            self.data_received(data)
            data = self._again
        if self._unread > _HEAD_BYTES and not self._is_refused:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header, but not a trailer, because the application may have read the headers already."""
        if self._in_head:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Begin to answer; the path is what libevent takes of the target, an empty query included.

        Raises:
            httptools.HttpParserError: the version is unknown, or it is in doubt where the body ends.
        """
        self._in_head, self._unread = False, 0
        if self._comes_again():
            return
        version = self.parser.get_http_version()
        _check_framing(version, self.headers)
        self.expect_100_continue &= version == "1.1"
        target, self.url = _ORIGIN.sub(b"", self.url) or b"/", b"/"
        super().on_headers_complete()
        self.scope["raw_path"], self.scope["query_string"] = target, b""
        self.cycle.keep_alive &= self.scope["method"] != "CONNECT"

    def on_body(self, body: bytes) -> None:
        """Store a part of a body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish a request."""
        self._unread = 0
        if not self._comes_again():
            super().on_message_complete()

    def stay_in_http(self, rest: bytes) -> None:
        """Parse a request for another protocol again as a plain one, together with the bytes after it."""
        self._again = rest
        if self._comes_again():
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            self._again = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)) + rest
            self.parser = _Parser(self)  # the other one may think that this was the last request

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP with libevent's page, after the answers to earlier requests."""
        self._is_refused = True
        if self.pipeline:
            if self.cycle.more_body:  # it is this one that is broken
                self.pipeline.popleft()
        elif not self.cycle or self.cycle.more_body or self.cycle.response_complete:
            self._end_with_page()

    def on_response_complete(self) -> None:
        """Start the next request, or refuse the bytes after the last one."""
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self._is_refused and not self.transport.is_closing():
            self._end_with_page()

    def _comes_again(self) -> bool:
        """Return whether this is a head that asks for another protocol."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _end_with_page(self) -> None:
        body = page(400)
        headers = [*self.server_state.default_headers, (b"content-type", b"text/html"), (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % header for header in headers]
        head = b"".join([b"HTTP/1.1 400 Bad Request\r\n", *lines, b"content-length: %d\r\n\r\n" % len(body)])
        self.transport.write(head + body)
        self.transport.close()


def _check_framing(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a request that a server before this one could take for two (RFC 9112, 6.1)."""
    if version not in ("1.0", "1.1"):
        raise httptools.HttpParserError("neither HTTP/1.0 nor HTTP/1.1")
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if encodings and (encodings != [b"chunked"] or lengths or version != "1.1"):
        raise httptools.HttpParserError("Transfer-Encoding other than chunked, or beside Content-Length")
    if lengths and len(lengths[0]) > _LENGTH_DIGITS:
        raise httptools.HttpParserError("Content-Length of too many digits")
