"""Finds the Docker engine and the addresses of its ports, and translates its errors into ours."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar, cast
from urllib.parse import urlsplit

import docker
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env
from paramiko import SSHException
from requests import ReadTimeout, RequestException
from urllib3.exceptions import HTTPError

from tasks.errors import ServingError, ServingUnavailable
from tasks.waiting import waiting_for

T = TypeVar("T")

CONNECT_S = 5
CALL_S = 60  # time limit of one answer of the engine
PULL_SILENCE_S = 300  # the longest time between two events of a pull; unpacking a large layer sends few
# docker-py does not translate urllib3's errors while it reads a stream, such as the progress of a pull
ENGINE_ERRORS = (APIError, RequestException, DockerException, SSHException, HTTPError)
LOOPBACK = "127.0.0.1"


def engine_address() -> str:
    """Return the address of the engine: DOCKER_HOST, else the current context of the docker command."""
    context = ContextAPI.kwargs_from_context(environment=os.environ)
    return str(kwargs_from_env().get("base_url") or context.get("base_url") or "unix:///var/run/docker.sock")


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """Hold a connection to the engine.

    Raises:
        ServingUnavailable: no engine answers.
    """
    address = "the configured address"
    try:
        address = engine_address()
        with waiting_for(f"the Docker engine at {address}"):
            _knock(address)
            client = docker.from_env(timeout=CONNECT_S)
    except (DockerException, SSHException, OSError) as exc:
        raise ServingUnavailable(
            f"No Docker engine answers at {address}: {root_cause(exc)}. "
            "Start it, set DOCKER_HOST, or set serving.backend: embedded."
        ) from exc
    client.api.timeout = CALL_S
    with contextlib.closing(client):
        yield client


def _knock(address: str) -> None:
    """Raise the operating system's own error if no process listens at a Unix socket.

    docker-py hides that error in another one, and leaves the socket of a failed attempt open.
    """
    if address.startswith("unix://"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as knock:
            knock.settimeout(CONNECT_S)  # connecting waits if the engine does not accept connections
            knock.connect(address.removeprefix("unix://"))


def rest_host(address: str) -> str:
    """Return the host at which this process reaches the ports that an engine at `address` publishes."""
    parts = urlsplit(address)
    host = parts.hostname if parts.scheme in ("tcp", "http", "https", "ssh") else None
    if host in (None, "localhost", "127.0.0.1", "::1"):
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


def own_network(client: docker.DockerClient) -> str:
    """Return the network of the container that this process runs in, or an empty string.

    This matters only if the same engine runs it: then its neighbours can be reached, but not its host's loopback.
    """
    name = socket.gethostname()  # by default, the start of the container's id
    try:
        container = client.containers.get(name)
    except APIError:
        return ""
    if not str(container.id).startswith(name):
        return ""
    network = next(iter(container.attrs["NetworkSettings"]["Networks"]), "")
    return "" if network == "host" else str(network)


@contextlib.contextmanager
def engine_errors(task: str) -> Iterator[None]:
    """Translate docker-py's errors, and print a line if the engine takes long.

    A refusal (4xx) is final; other errors may be temporary.
    """
    try:
        with waiting_for(f"the Docker engine to {task}"):
            yield
    except ENGINE_ERRORS as exc:
        refused = isinstance(exc, APIError) and exc.is_client_error()
        kind, place = (ServingError, "the configuration") if refused else (ServingUnavailable, "the engine")
        raise kind(
            f"The Docker engine could not {task}: {root_cause(exc)}. Check {place}, or set serving.backend: embedded."
        ) from exc


def with_limit(stream: Callable[[], Iterable[T]], limit_s: float) -> Iterator[T]:
    """Yield the items of a stream with a time limit for each, because docker-py sets no limit for a pull.

    Raises:
        ReadTimeout: no item came for `limit_s`.
    """
    arrived: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def read() -> None:
        error: Exception | None = StopIteration()
        try:
            for item in stream():
                arrived.put((item, None))
        except Exception as exc:  # noqa: BLE001  raised in the reading thread
            error = exc
        arrived.put((None, error))

    threading.Thread(target=read, daemon=True).start()  # after a timeout, the rest of the stream is dropped
    while True:
        try:
            item, error = arrived.get(timeout=limit_s)
        except Empty:
            raise ReadTimeout(f"it sent nothing for {limit_s:g} s") from None
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield cast(T, item)


def root_cause(exc: BaseException) -> str:
    """Return the innermost reason in one line: the message of the engine or of the operating system."""
    if isinstance(exc, APIError):
        return str(exc.explanation or exc).strip().rstrip(".")
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(exc).split())
