"""Checks of server addresses that need no network."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
from collections.abc import Collection, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from configs.redaction import MASK, hide

TRACKING = (
    "http://HOST:PORT or https://HOST:PORT of an MLflow server, sqlite:///FILE, a database (postgresql://..., "
    "mysql://... or mssql://...), or databricks"
)
DATABASES = r"sqlite:///[^?]|(postgresql|mysql|mssql)(\+\w+)?://.|databricks(://.+)?$"
# RFC 9110, section 5.6.2
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What the client itself sets, and what belongs to one connection.
OWN_HEADERS = (
    "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "te",
    "keep-alive", "proxy-connection", "trailer", "upgrade", "expect",
)  # fmt: skip
GRPC_NAME = re.compile(r"[A-Za-z0-9_.-]+")
USUAL_PORTS = {"http": 80, "https": 443}


def production_address(address: str) -> str:
    """Accept scheme, host and port of a production server's REST or gRPC interface.

    The address of an HTTP server may have a user name and a password.
    """
    if not address:
        return address
    rule = "must be http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT, without a path"
    parts = _address(address, rule)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or address != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(rule)
    if parts.scheme.startswith("grpc") and parts.port is None:
        raise ValueError("must name a port, because gRPC has no usual one")
    if parts.scheme.startswith("grpc") and parts.username is not None:
        raise ValueError("must not contain a user name, because gRPC does not send it; use promote.live_headers")
    return address


def server_address(address: str) -> str:
    """Accept host and port of a server beside the run, which needs neither TLS nor a user name."""
    if not address:
        return address
    rule = "must be http://HOST:PORT, without a user name and a path"
    parts = _address(address, rule)
    if address != f"http://{parts.netloc}" or "@" in address:
        raise ValueError(rule)
    return address


def host_and_port(address: str) -> str:
    """Accept host and port of a gRPC server."""
    if not address:
        return address
    rule = "must be HOST:PORT, such as 127.0.0.1:8500"
    _hide_user(address)
    parts = _address(f"grpc://{address}", rule)
    if parts.netloc != address or parts.port is None or "@" in address:
        raise ValueError(rule)
    return address


def path_of_metrics(path: str) -> str:
    """Accept the path of a server's metrics, without a query, which TensorFlow Serving refuses."""
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("must be a path such as /monitoring/prometheus/metrics")
    return path


def header_name(name: str) -> str:
    """Accept the name of an HTTP header that a user may set."""
    lower = name.lower()
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"must map names of HTTP headers to their values, but '{name}' is not such a name")
    if lower in OWN_HEADERS or lower.startswith("grpc-"):
        raise ValueError(f"must not contain '{name}', which the client sets itself")
    if lower.endswith("-bin"):
        raise ValueError(f"must not contain '{name}', because gRPC takes bytes for a name that ends in -bin")
    return name


def header_value(value: str) -> str:
    """Accept the value of an HTTP header: printable ASCII, without a space at its ends."""
    if not value.isascii() or not value.isprintable() or value != value.strip() or not value:
        raise ValueError("must be printable ASCII text without spaces at its ends")
    return value


def check_headers(names: Collection[str], addresses: Collection[str]) -> None:
    """Refuse headers of which it would depend on the client what is sent."""
    lower = [name.lower() for name in names]
    for name in names:
        if lower.count(name.lower()) > 1:
            raise ValueError(f"live_headers must name each header once, got '{name}' in several spellings")
        if not GRPC_NAME.fullmatch(name) and any(address.startswith("grpc") for address in addresses):
            raise ValueError(f"live_headers must not contain '{name}', which gRPC does not accept as a name")
    if "authorization" in lower and any("@" in address for address in addresses):
        raise ValueError("live_headers must not contain Authorization, because the user name of live_url is sent as it")


def check_different(addresses: Sequence[str]) -> None:
    """Refuse a server that is named twice, because another one would be missing."""
    known: dict[tuple[str, int | None], str] = {}
    for address in addresses:
        if same := known.get(place_of(address)):
            raise ValueError(f"live_urls must name each server once, got '{same}' and '{address}'")
        known[place_of(address)] = address


def place_of(address: str) -> tuple[str, int | None]:
    """Return host and port of a valid address, which are the same in all its spellings."""
    parts = urlsplit(address)
    host = (parts.hostname or "").rstrip(".")
    with contextlib.suppress(ValueError):  # it is a name
        host = str(ipaddress.ip_address(host))
    return host, parts.port or USUAL_PORTS.get(parts.scheme)


def tracking_uri(uri: str) -> str:
    """Accept the tracking URIs that MLflow can use; one of a server must have a valid address.

    Source: `_register_tracking_stores` in mlflow/tracking/_tracking_service/utils.py (3.17), which has plugins as well.
    MLflow writes to directories only if MLFLOW_ALLOW_FILE_STORE is set.
    """
    _hide_user(uri)
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


def page_address(address: str) -> str:
    """Accept the address of a server's pages, which may be below a path; nobody's password belongs into a link."""
    if not address:
        return address
    rule = "must be http://HOST:PORT or https://HOST/PATH, without a user name"
    parts = _address(address, rule)
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(rule)
    return address


def _is_a_plugin(uri: str) -> bool:
    """Return whether an installed package adds this kind of tracking URI to MLflow."""
    return any(uri.startswith(f"{found.name}:") for found in entry_points(group="mlflow.tracking_store"))


def check_tls(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> None:
    """Check that PEM files can be used for TLS.

    Raises:
        ValueError: a file has no certificate or key, the two do not belong together, or the key has a password.
    """
    try:
        if ca_file is not None:
            ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ValueError) as exc:
        raise ValueError(f"live_tls.ca_file must hold certificates in PEM, got '{ca_file}': {exc}") from exc
    if cert_file is None or key_file is None:
        return
    try:  # an empty password, because OpenSSL would ask for one at the terminal
        ssl.create_default_context().load_cert_chain(cert_file, key_file, password="")
    except (OSError, ValueError) as exc:
        raise ValueError(
            f"live_tls.cert_file and live_tls.key_file must hold a certificate and its key in PEM, without a password, "
            f"got '{cert_file}' and '{key_file}': {exc}"
        ) from exc


def _hide_user(text: str) -> None:
    """Hide the user name and password of an address without a scheme, which is refused and shown in an error."""
    user, at, place = text.rpartition("@")
    if at and "://" not in user:
        hide({text: f"{MASK}@{place}"})


def _address(text: str, rule: str) -> SplitResult:
    """Split an HTTP address.

    Raises:
        ValueError: the host is missing, the port is invalid, or a character is not allowed in an address.
    """
    _hide_user(text)
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
