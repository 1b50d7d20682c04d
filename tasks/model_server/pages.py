"""The pages that libevent, under TensorFlow Serving, sends for requests that reach no handler.

Source: libevent, http.c, evhttp_send_error.
"""

from typing import Final

_REASONS: Final = {
    400: "Bad Request", 404: "Not Found", 413: "Payload Too Large", 417: "Expectation Failed", 501: "Not Implemented",
}  # fmt: skip


def page(status: int) -> bytes:
    """Return the HTML page of a status."""
    reason = _REASONS[status]
    text = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    return text.encode()
