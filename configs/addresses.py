"""Addresses of servers, as far as they can be checked before anybody is asked."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def server_address(address: str) -> str:
    """Take scheme, host and port of an HTTP server, with a user's name and password at most."""
    if not address:
        return address
    rule = "must be http://HOST:PORT or https://HOST:PORT and nothing behind it"
    parts = _address(address, rule)
    if parts.scheme not in ("http", "https") or address != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(rule)
    return address


def tracking_uri(uri: str) -> str:
    """Take a tracking URI; that of a server must be an address that can be asked."""
    if re.search(r"[\x00-\x1f\x7f]", uri):
        raise ValueError("must be a tracking URI without control characters")
    if uri.startswith(("http://", "https://")):
        _address(uri, "must be the address of an MLflow server, such as http://HOST:PORT")
    return uri


def _address(text: str, rule: str) -> SplitResult:
    """Split an HTTP address.

    Raises:
        ValueError: it has no host, a port that there is not, or what no address may hold.
    """
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(f"{rule}, without spaces and control characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as a look-up of the name will
    except ValueError as exc:
        raise ValueError(f"{rule} ({exc})") from exc
    if not host or port == 0:
        raise ValueError(rule)
    return parts
