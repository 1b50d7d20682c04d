"""Where a request's body ends is never in doubt: a request that leaves it open is refused, with its connection."""

import re
import socket
from typing import Any

import pytest

BODY = b'{"instances": [[1.0]]}'
POST = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\n"
UPGRADE = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"GET /v1/models/half HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def _answers(server: Any, *requests: bytes) -> bytes:
    """Return all that comes for some bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=600) as client:
        client.sendall(b"".join(requests))
        found = b""
        while piece := client.recv(65536):
            found += piece
        return found


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTHS = (
    b"+22", b"-22", b"0x16", b"22.0", b"2e1", b"2 2", b"22;", b"two", b"", b"2_2", b"9" * 5000, b"0" * 5000,
)  # fmt: skip
SIZES = (b"+16", b"-16", b"0x16", b"", b" 16", b"1_6", b"g", b"f" * 21)
REFUSED = {
    "both": POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "both, the other way": POST + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKS,
    "both, other case": POST + b"content-length: 0\r\ntRANSFER-eNCODING: CHUNKED\r\n\r\n" + CHUNKS,
    "both, for a GET": POST.replace(b"POST", b"GET") + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "two encodings": POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKS,
    "listed twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "gzip": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS,
    "misspelt": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKS,
    "space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS,
    "tab before the colon": POST + b"Content-Length\t: 5\r\n\r\n" + BODY,
    "vertical tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKS,
    "NUL": POST + b"Transfer-Encoding: chunked\0\r\n\r\n" + CHUNKS,
    "bare CR": POST + b"X: y\rContent-Length: 0\r\n\r\n" + BODY,
    "first line folded": POST.split(b"\r\n")[0] + b"\r\n Content-Length: 0\r\n" + LENGTH + b"\r\n" + BODY,
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + BODY,
    "gzip, then chunked": POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "chunked, then gzip": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n" + CHUNKS,
    "both, and another protocol": UPGRADE + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "HTTP/1.0, and another protocol": UPGRADE.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "bare line feeds": (POST + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "two lengths in one": POST + b"Content-Length: 5, 6\r\n\r\n" + BODY,
    **{f"length {length[:20]!r}": POST + b"Content-Length: " + length + b"\r\n\r\n" + BODY for length in LENGTHS},
    **{f"chunk {size[:20]!r}": CHUNKED + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n" for size in SIZES},
    "chunk too long": CHUNKED + b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("before", [b"", POST + LENGTH + b"\r\n" + BODY], ids=["first", "after others"])
def test_refused(zoo_server: Any, kind: str, before: bytes) -> None:
    """It is a 400, and what stands behind it on the connection is not read as a request."""
    found = _answers(zoo_server, before, before, REFUSED[kind], SMUGGLED)
    statuses = re.findall(rb"HTTP/1.1 [^\r]*", found)
    assert statuses == [b"HTTP/1.1 200 OK"] * (2 if before else 0) + [b"HTTP/1.1 400 Bad Request"]
    assert b"<TITLE>400 Bad Request</TITLE>" in found


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length:\t22 \r\n\r\n" + BODY,
        POST + b"Content-Length: 022\r\n\r\n" + BODY,
        POST + b"Transfer-Encoding: \t chunked \r\n\r\n" + CHUNKS,
        POST + b"Transfer-Encoding: Chunked\r\n\r\n" + CHUNKS.replace(b"16\r", b"0016;a=b\r"),
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 5000 + CHUNKS,
        UPGRADE + LENGTH + b"\r\n" + BODY,
        POST + b"Transfer_Encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY,
    ],
    ids=["white space", "leading zero", "encoding in white space", "extension", "zeros", "upgrade", "underscore"],
)
def test_taken(zoo_server: Any, request_: bytes) -> None:
    """What can only mean one thing is taken for it, and the next request is answered, too."""
    found = _answers(zoo_server, request_, SMUGGLED)
    assert found.count(b"HTTP/1.1 200 OK") == 2
    assert found.index(b'{"predictions":[[2.5]]}') < found.index(b'"state": "AVAILABLE"')
