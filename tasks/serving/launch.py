"""Starting a throwaway server on one version directory, and knowing when it is ready.

A server reports per version:  START -> LOADING -> AVAILABLE -> UNLOADING -> END
Its port opens only after the first load, its status answers 200 in every state, and END before AVAILABLE means
that the model was refused. So: ended process or END is final, AVAILABLE is ready, all else waits for the deadline.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from configs.schema import Serving
from tasks.errors import ModelLoadError, ServingError, ServingTimeout, ServingUnavailable
from tasks.records import Backend, Champion
from tasks.serving.client import RestClient
from tasks.serving.embedded import run_embedded
from tasks.serving.exits import ended_by_requests
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
POLL_S = 0.02


class Served(Protocol):
    """What a server is started on: a candidate, or whatever else has a name and a version directory."""

    @property
    def name(self) -> str:
        """Return what the server calls the model."""

    @property
    def version(self) -> int:
        """Return the version, which is the name of its directory."""

    @property
    def version_dir(self) -> Path:
        """Return the directory."""

    @property
    def run_id(self) -> str:
        """Return what a container's labels say that it belongs to."""


class ThrowawayServer(Protocol):
    """A started server: a container or a child process, not yet known to be ready.

    Attributes:
        backend: `docker` or `embedded`.
        image, image_id: image as asked for, and its content id; empty when embedded.
        version: what the server calls itself, where it says so.
    """

    backend: str
    image: str
    image_id: str
    version: str

    @property
    def rest_url(self) -> str:
        """Return where REST listens, such as `http://127.0.0.1:49153`, or an empty string."""

    @property
    def grpc_target(self) -> str:
        """Return where gRPC listens, such as `127.0.0.1:49154`, or an empty string."""

    def exit_code(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def log(self) -> str:
        """Return everything that it has printed so far."""

    def memory_mb(self) -> float:
        """Return the memory that it uses now, in MB; 0 where that is not known."""

    def explain_exit(self) -> ServingError:
        """Return the error that says why it ended: its class, its own words, the remedy."""


def check_engine(serving: Serving) -> None:
    """Raise `ServingUnavailable` now if the configuration insists on Docker and no engine answers."""
    if serving.backend == "docker":
        from tasks.serving.engine import engine  # imports docker

        with engine():
            pass


def choose_backends(serving: Serving) -> tuple[Backend, ...]:
    """Return the servers that judge, one an image; with docker, the images are available.

    Raises:
        ServingUnavailable: docker was asked for, and no engine answers or the image is not to be had.
    """
    if serving.backend == "embedded":
        return (Backend("embedded"),)
    from tasks.serving.container import ensure_image  # imports docker

    try:
        for image in serving.all_images:
            ensure_image(serving.model_copy(update={"image": image}))
    except ServingUnavailable as exc:
        if serving.backend == "docker":
            raise
        log.info("Using the embedded server (serving.backend=auto): %s", exc)
        return (Backend("embedded", reason=str(exc)),)
    return tuple(Backend("docker", image) for image in serving.all_images)


@contextlib.contextmanager
def throwaway_server(
    backend: Backend,
    serving: Serving,
    candidate: Served,
    log_file: Path,
    champion: Champion | None = None,
) -> Iterator[tuple[ThrowawayServer, RestClient]]:
    """Run a server on exactly the candidate's bytes until the block ends; its log is kept in `log_file`.

    The server is AVAILABLE when the block begins.

    Args:
        champion: is served beside the candidate, each under its own version.

    Raises:
        ModelLoadError: it refused the model. ServingTimeout: it was not ready in time.
        PredictionError: it ended itself over a request. ServingError: it ended otherwise, or did not answer in time.
    """
    version_dirs = [candidate.version_dir, *([champion.version_dir] if champion else [])]
    if backend.kind == "docker":
        from tasks.serving.container import run_container

        started: contextlib.AbstractContextManager[ThrowawayServer] = run_container(
            serving.model_copy(update={"image": backend.image}), candidate.name, *version_dirs, run_id=candidate.run_id
        )
    else:
        started = run_embedded(candidate.name, *version_dirs, memory_mb=serving.memory_mb)
    with started as server, contextlib.ExitStack() as stack:
        stack.callback(lambda: _keep_log(server, log_file))
        with waiting_for(f"the model server to load '{candidate.name}' version {candidate.version}"):
            client = wait_available(server, candidate, serving, champion)
        stack.callback(client.close)
        try:
            yield server, client
        except ServingTimeout as exc:  # a model that hangs would hang again
            raise ServingError(str(exc), server.log()) from exc
        except ServingUnavailable as exc:
            if server.exit_code() is None:
                raise
            raise ended_by_requests(server.explain_exit()) from exc  # it went away: why says more than that


def wait_available(
    server: ThrowawayServer,
    candidate: Served,
    serving: Serving,
    champion: Champion | None = None,
) -> RestClient:
    """Return a client as soon as the candidate's version, and the champion's where it is there, is AVAILABLE.

    Raises:
        ModelLoadError: the server ended, or the version did.
        ServingTimeout: neither AVAILABLE nor an end within `serving.startup_timeout_s`.
    """
    deadline = time.monotonic() + serving.startup_timeout_s
    versions = [candidate.version, *([champion.version] if champion else [])]
    states, client = dict.fromkeys(versions, ("not listening", "")), None
    while time.monotonic() < deadline:
        if server.exit_code() is not None:
            raise server.explain_exit()
        if client is None and server.rest_url:
            client = RestClient(server.rest_url, candidate.name, serving.request_timeout_s)
        if client is not None:
            with contextlib.suppress(ServingUnavailable):  # refused: still loading
                told = client.states()
                states = {version: told.get(version, ("unknown", "")) for version in versions}
        if client is not None and all(state == "AVAILABLE" for state, _ in states.values()):
            return client
        for version, (state, message) in states.items():
            if state == "END":
                live = champion is not None and version == champion.version
                which = ", which is live," if live else ""
                remedy = f"; repair or remove '{champion.version_dir}'" if live and champion else ""
                raise ModelLoadError(
                    f"the server must load '{candidate.name}' version {version}{which} and refused it: "
                    f"{' '.join(message.split())}{remedy}",
                    detail=server.log(),
                )
        time.sleep(POLL_S)
    waiting, state = next((v, state) for v, (state, _) in states.items() if state != "AVAILABLE")
    used = 0.0
    with contextlib.suppress(ServingError):
        used = server.memory_mb() * 1e6 / 2**20
    raise ServingTimeout(
        f"'{candidate.name}' version {waiting} not AVAILABLE after {serving.startup_timeout_s:g} s (last state: "
        f"{state}; memory in use: {used:.0f} of {serving.memory_mb} MiB). Raise serving.startup_timeout_s, or "
        "serving.memory_mb where the memory is nearly full, or read the server log below.",
        detail=server.log(),
    )


def _keep_log(server: ThrowawayServer, log_file: Path) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.write_text(server.log(), encoding="utf-8")
