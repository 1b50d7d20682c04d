"""Checks of server addresses that need no network."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def server_address(address: str) -> str:
    """Accept scheme, host and port of an HTTP server; a user name and a password are optional."""
    if not address:
        return address
    rule = "must be http://HOST:PORT or https://HOST:PORT, without a path"
    parts = _address(address, rule)
    if parts.scheme not in ("http", "https") or address != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(rule)
    return address


def host_and_port(address: str) -> str:
    """Accept host and port of a gRPC server."""
    if not address:
        return address
    rule = "must be HOST:PORT, such as 127.0.0.1:8500"
    parts = _address(f"grpc://{address}", rule)
    if parts.netloc != address or parts.port is None or "@" in address:
        raise ValueError(rule)
    return address


def tracking_uri(uri: str) -> str:
    """Accept a tracking URI; one of a server must have a valid address."""
    if re.search(r"[\x00-\x1f\x7f]", uri):
        raise ValueError("must be a tracking URI without control characters")
    if uri.startswith(("http://", "https://")):
        _address(uri, "must be the address of an MLflow server, such as http://HOST:PORT")
    return uri


def _address(text: str, rule: str) -> SplitResult:
    """Split an HTTP address.

    Raises:
        ValueError: the host is missing, the port is invalid, or a character is not allowed in an address.
    """
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(f"{rule}, spaces and control characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as name resolution does
    except ValueError as exc:
        raise ValueError(f"{rule} ({exc})") from exc
    if not host or port == 0:
        raise ValueError(rule)
    return parts
