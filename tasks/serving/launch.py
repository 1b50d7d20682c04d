"""Starts a throwaway server on a version directory, and waits until it is ready.

A server reports for each version:  START -> LOADING -> AVAILABLE -> UNLOADING -> END
Its port opens only after the first load, its status answers 200 in every state, and END before AVAILABLE means that
the server refused the model. So an ended process or END is final, AVAILABLE is ready, and every other state waits for
the deadline.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from configs.sections.serving import Serving
from tasks.errors import ModelLoadError, PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.records import Backend, Champion
from tasks.serving.attached import check_attached, run_attached, too_late
from tasks.serving.client import Access, RestClient
from tasks.serving.embedded import run_embedded
from tasks.serving.exits import ended_by_requests, remedy, server_words
from tasks.serving.flags import check_flags
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
POLL_S = 0.02
SILENT = "not listening"  # shown where a state would be


class Served(Protocol):
    """A model that a server can be started on: a candidate, or anything with a name and a version directory."""

    @property
    def name(self) -> str:
        """Return the name under which the model is served."""

    @property
    def version(self) -> int:
        """Return the version, which is the name of its directory."""

    @property
    def version_dir(self) -> Path:
        """Return the directory."""

    @property
    def run_id(self) -> str:
        """Return the run that is named in the labels of a container."""


class ThrowawayServer(Protocol):
    """A server with the models of one rehearsal: a container, a child process, or one that was running already.

    Attributes:
        backend: `docker`, `embedded` or `attached`.
        served_name: the name by which the server knows the model; for an attached server, not the user's.
        image, image_id: the configured image and its content id; empty without a container.
        version: the version of the server, or an empty string if it is unknown.
        waited_s: seconds that this run waited for others before its own models could be loaded.
    """

    backend: str
    served_name: str
    waited_s: float
    image: str
    image_id: str
    version: str

    @property
    def rest_url(self) -> str:
        """Return the URL of the REST API, such as `http://127.0.0.1:49153`, or an empty string."""

    @property
    def grpc_target(self) -> str:
        """Return the address of the gRPC API, such as `127.0.0.1:49154`, or an empty string."""

    def exit_code(self) -> int | None:
        """Return the exit status, or None while it runs or if that is unknown."""

    def log(self) -> str:
        """Return everything that it has printed so far."""

    def memory_mb(self) -> float:
        """Return the memory that it uses now, in MB; 0 if that is unknown."""

    def limited_mb(self) -> float:
        """Return the memory that counts against serving.memory_mb, in MB; 0 if that is unknown."""

    def explain_exit(self) -> ServingError:
        """Return the error that says why the server ended, and what to do."""

    def ended(self) -> ServingError | None:
        """Return why a server that was AVAILABLE does not serve the models any more, or None if it does."""


def check_engine(serving: Serving) -> None:
    """Raise `ServingError` if the configuration requires Docker or a running server, and it cannot be used."""
    if serving.backend == "attached":
        check_attached(serving)
    if serving.backend == "docker":
        from tasks.serving.engine import engine  # imports docker

        with engine():
            pass


def choose_backends(serving: Serving) -> tuple[Backend, ...]:
    """Return the servers that judge, one for each image; with docker, pull the images that are missing.

    Raises:
        ServingError: an image does not know a flag in serving.args.
        ServingUnavailable: serving.backend is docker, or a setting needs a container, and no engine answers or an image
            cannot be pulled.
    """
    if serving.backend == "embedded":
        return (Backend("embedded"),)
    if serving.backend == "attached":
        return (Backend("attached", url=serving.attached.url),)
    from tasks.serving.container import ensure_image, known_flags  # imports docker

    try:
        for image in serving.all_images:
            one = serving.model_copy(update={"image": image})
            ensure_image(one)
            if serving.args:
                check_flags(serving.args, image, known_flags(one))
    except ServingUnavailable as exc:
        if serving.backend == "docker":
            raise
        if serving.for_containers:
            raise ServingUnavailable(f"{exc} The embedded server has no serving.{serving.for_containers}.") from exc
        log.info("Using the embedded server (serving.backend=auto): %s", exc)
        return (Backend("embedded", reason=str(exc)),)
    return tuple(Backend("docker", image) for image in serving.all_images)


@contextlib.contextmanager
def throwaway_server(  # noqa: PLR0913, PLR0917  what is served, where, and beside what
    backend: Backend,
    serving: Serving,
    model: Served,
    log_file: Path,
    champion: Champion | None = None,
    beside: Sequence[Served] = (),
) -> Iterator[tuple[ThrowawayServer, RestClient]]:
    """Run a server on a model's version directory until the block ends, and write its log to `log_file`.

    The server is AVAILABLE when the block begins.

    Args:
        champion, beside: served with the model, each under its own version.

    Raises:
        ModelLoadError: the server refused the model. ServingTimeout: it was not ready in time.
        PredictionError: a request made it crash. ServingError: it ended otherwise, or did not answer in time.
    """
    others: list[Champion | Served] = [*([champion] if champion else []), *beside]
    version_dirs = [model.version_dir, *(other.version_dir for other in others)]
    if backend.kind == "docker":
        from tasks.serving.container import run_container

        started: contextlib.AbstractContextManager[ThrowawayServer] = run_container(
            serving.model_copy(update={"image": backend.image}), model.name, *version_dirs, run_id=model.run_id
        )
    elif backend.kind == "attached":
        started = run_attached(serving.attached, model.name, *version_dirs, run_id=model.run_id)
    else:
        started = run_embedded(model.name, *version_dirs, memory_mb=serving.memory_mb)
    with ready(started, serving, model, log_file, champion, beside) as found:
        yield found


@contextlib.contextmanager
def ready(  # noqa: PLR0913, PLR0917  as for `throwaway_server`
    started: contextlib.AbstractContextManager[ThrowawayServer],
    serving: Serving,
    model: Served,
    log_file: Path,
    champion: Champion | None = None,
    beside: Sequence[Served] = (),
) -> Iterator[tuple[ThrowawayServer, RestClient]]:
    """Run a server until the block ends; it is AVAILABLE when the block begins. Errors as of `throwaway_server`."""
    n_versions = 1 + bool(champion) + len(beside)
    with started as server, contextlib.ExitStack() as stack:
        stack.callback(lambda: _keep_log(server, log_file))
        which = f"'{model.name}' version {model.version}" if not beside else f"{n_versions} versions"
        with waiting_for(f"the model server to load {which}"):
            client = wait_available(server, model, serving, champion, beside)
        stack.callback(client.close)
        try:
            yield server, client
        except ServingTimeout as exc:  # not retryable: a model that hangs would hang again
            raise ServingError(str(exc), server.log()) from exc
        except (ServingUnavailable, PredictionError) as exc:
            error = server.ended()
            if error is None:
                raise
            raise ended_by_requests(error) from exc  # the reason of its end says more


def wait_available(
    server: ThrowawayServer,
    model: Served,
    serving: Serving,
    champion: Champion | None = None,
    beside: Sequence[Served] = (),
) -> RestClient:
    """Return a client as soon as the model's version and all that are served with it are AVAILABLE.

    Raises:
        ModelLoadError: the server ended, or reported END for a version.
        ServingTimeout: a version was not AVAILABLE within `serving.startup_timeout_s` for each of the others.
    """
    limit_s = serving.startup_timeout_s * (1 + len(beside))
    deadline = time.monotonic() + limit_s
    versions = [model.version, *([champion.version] if champion else []), *(other.version for other in beside)]
    states, client, answered = dict.fromkeys(versions, (SILENT, "")), None, False
    while time.monotonic() < deadline:
        if server.exit_code() is not None:
            raise _why_it_ended(server, model, champion, versions)
        if client is None and server.rest_url:
            access = Access(most_rows=serving.most_rows)
            client = RestClient(server.rest_url, server.served_name, serving.request_timeout_s, access=access)
        if client is not None:
            states = _told(client, versions)
            answered = answered or (SILENT, "") not in states.values()
        if client is not None and all(state == "AVAILABLE" for state, _ in states.values()):
            return client
        for version, (state, message) in states.items():
            if state == "END":
                raise _refused(model.name, [version], message, champion, server.log())
        time.sleep(POLL_S)
    number, (state, words) = next((v, told) for v, told in states.items() if told[0] != "AVAILABLE")
    late = f"'{model.name}' version {number} was not AVAILABLE after {limit_s:g} s"
    if server.backend == "attached":
        raise too_late(serving.attached, late, "gone" if answered and state == SILENT else state, words)
    used = 0.0
    with contextlib.suppress(ServingError):
        used = server.memory_mb() * 1e6 / 2**20
    raise ServingTimeout(
        f"{late} (last state: {state}; memory in use: {used:.0f} of {serving.memory_mb} MiB). Raise "
        "serving.startup_timeout_s, or serving.memory_mb if the memory is nearly full, or read the server log below.",
        detail=server.log(),
    )


def _told(client: RestClient, versions: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Return the state of each version and the server's words about it."""
    try:
        told = client.states()
    except ServingUnavailable:  # still loading, or it ended
        return dict.fromkeys(versions, (SILENT, ""))
    except PredictionError as exc:  # an attached server has not read of the model yet
        return dict.fromkeys(versions, ("unknown", str(exc)))
    return {version: told.get(version, ("unknown", "")) for version in versions}


def _why_it_ended(
    server: ThrowawayServer, model: Served, champion: Champion | None, versions: Sequence[int]
) -> ServingError:
    """Return the error of a server that ended while it loaded; of several versions, it names those that it refused."""
    error, words = server.explain_exit(), server_words(server.log())
    if len(versions) == 1 or not isinstance(error, ModelLoadError):
        return error
    # The server's words name each version that it refused: `{name: m version: 2} due to error: ...`.
    named = [number for number in versions if re.search(rf"\bversion: {number}\}}", words, re.IGNORECASE)]
    if champion is not None and champion.version in named:
        named = [champion.version]
    return _refused(model.name, named or [model.version], words, champion, error.detail)


def _refused(name: str, versions: Sequence[int], words: str, champion: Champion | None, detail: str) -> ModelLoadError:
    """Return the error that says which versions a server refused and why, and what to do if that version is live."""
    which, advice = "", f". {remedy(words) or 'Export it again'}"
    if champion is not None and champion.version in versions:
        which, advice = ", which is live,", f"; repair or remove '{champion.version_dir}'"
    numbers = ", ".join(map(str, versions))
    error = ModelLoadError(
        f"the server must load '{name}' version {numbers}{which} but refused it: {' '.join(words.split())}{advice}",
        detail,
    )
    error.versions = tuple(versions)
    return error


def _keep_log(server: ThrowawayServer, log_file: Path) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.write_text(server.log(), encoding="utf-8")
