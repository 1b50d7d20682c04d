"""Where the Docker engine is, how its ports are reached from here, and its errors as ours."""

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
CALL_S = 60  # for one answer of the engine
PULL_SILENCE_S = 300  # from one event of a pull to the next; the unpacking of a large layer is one of few
# docker-py lets urllib3's through where it reads a stream, such as the progress of a pull
ENGINE_ERRORS = (APIError, RequestException, DockerException, SSHException, HTTPError)
LOOPBACK = "127.0.0.1"


def engine_address() -> str:
    """Return where the engine listens: DOCKER_HOST, else the docker command's current context."""
    context = ContextAPI.kwargs_from_context(environment=os.environ)
    return str(kwargs_from_env().get("base_url") or context.get("base_url") or "unix:///var/run/docker.sock")


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """Hold a connection to the engine.

    Raises:
        ServingUnavailable: none answers.
    """
    address = "the configured address"
    try:
        address = engine_address()
        with waiting_for(f"the Docker engine at {address}"):
            _knock(address)
            client = docker.from_env(timeout=CONNECT_S)
    except (DockerException, SSHException, OSError) as exc:
        raise ServingUnavailable(
            f"A container needs a Docker engine, and none answers at {address}: {root_cause(exc)}. "
            "Start it, set DOCKER_HOST, or use serving.backend: embedded."
        ) from exc
    client.api.timeout = CALL_S
    with contextlib.closing(client):
        yield client


def _knock(address: str) -> None:
    """Raise the operating system's own error if nobody listens at a Unix socket.

    docker-py hides that error in another one, and leaves the socket of a failed attempt open.
    """
    if address.startswith("unix://"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as knock:
            knock.settimeout(CONNECT_S)  # an engine that accepts no more leaves a knock waiting
            knock.connect(address.removeprefix("unix://"))


def rest_host(address: str) -> str:
    """Return the host on which an engine at `address` publishes ports, as seen from here."""
    parts = urlsplit(address)
    host = parts.hostname if parts.scheme in ("tcp", "http", "https", "ssh") else None
    if host in (None, "localhost", "127.0.0.1", "::1"):
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


def own_network(client: docker.DockerClient) -> str:
    """Return the network of the container that this process runs in, or an empty string.

    Only if this very engine runs it: its host's loopback is out of reach then, and its neighbours are not.
    """
    name = socket.gethostname()  # the start of the container's id, unless somebody chose another
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
    """Translate docker-py's errors, and say so where the engine takes long.

    What it refuses (4xx) is final; anything else may pass.
    """
    try:
        with waiting_for(f"the Docker engine to {task}"):
            yield
    except ENGINE_ERRORS as exc:
        refused = isinstance(exc, APIError) and exc.is_client_error()
        kind, place = (ServingError, "the serving section") if refused else (ServingUnavailable, "the engine")
        raise kind(
            f"The Docker engine could not {task}: {root_cause(exc)}. Look at {place}, or use serving.backend: embedded."
        ) from exc


def with_limit(stream: Callable[[], Iterable[T]], limit_s: float) -> Iterator[T]:
    """Yield what a stream gives, and break off where it gives nothing for long; docker-py sets no limit for a pull.

    Raises:
        ReadTimeout: nothing came for `limit_s`.
    """
    arrived: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def read() -> None:
        error: Exception | None = StopIteration()
        try:
            for item in stream():
                arrived.put((item, None))
        except Exception as exc:  # noqa: BLE001  raised by who reads
            error = exc
        arrived.put((None, error))

    threading.Thread(target=read, daemon=True).start()  # of a stream that is broken off nobody hears any more
    while True:
        try:
            item, error = arrived.get(timeout=limit_s)
        except Empty:
            raise ReadTimeout(f"not a word for {limit_s:g} s") from None
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield cast(T, item)


def root_cause(exc: BaseException) -> str:
    """Return the innermost reason in one line: the engine's or the operating system's words."""
    if isinstance(exc, APIError):
        return str(exc.explanation or exc).strip().rstrip(".")
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(exc).split())
