"""Checks of server addresses that need no network."""

from __future__ import annotations

import os
import re
from importlib.metadata import entry_points
from urllib.parse import SplitResult, urlsplit

TRACKING = (
    "http://HOST:PORT or https://HOST:PORT of an MLflow server, sqlite:///FILE, a database (postgresql://..., "
    "mysql://... or mssql://...), or databricks"
)
DATABASES = r"sqlite:///[^?]|(postgresql|mysql|mssql)(\+\w+)?://.|databricks(://.+)?$"


def server_address(address: str) -> str:
    """Accept scheme, host and port of an HTTP server; a user name and a password are optional."""
    if not address:
        return address
    rule = "must be http://HOST:PORT or https://HOST:PORT, without a path"
    parts = _address(address, rule)
    if parts.scheme not in ("http", "https") or address != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(rule)
    return address


def tracking_uri(uri: str) -> str:
    """Accept the tracking URIs that MLflow can use; one of a server must have a valid address.

    Source: `_register_tracking_stores` in mlflow/tracking/_tracking_service/utils.py (3.17), which has plugins as well.
    MLflow writes to directories only if MLFLOW_ALLOW_FILE_STORE is set.
    """
    if re.search(r"[\x00-\x1f\x7f]", uri):
        raise ValueError("must be a tracking URI without control characters")
    if uri.startswith(("http://", "https://")):
        _address(uri, "must be the address of an MLflow server, such as http://HOST:PORT")
    elif not re.match(DATABASES, uri) and not _is_a_plugin(uri):
        is_directory = uri.startswith("file:") or ":" not in uri
        if not (uri.startswith("file:///") and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")):
            moved = "; the runs in a directory are moved by `mlflow migrate-filestore`" if uri and is_directory else ""
            raise ValueError(f"must be {TRACKING}{moved}")
    return uri


def _is_a_plugin(uri: str) -> bool:
    """Return whether an installed package adds this kind of tracking URI to MLflow."""
    return any(uri.startswith(f"{found.name}:") for found in entry_points(group="mlflow.tracking_store"))


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
