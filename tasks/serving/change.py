"""A throwaway server that watches a copy of the live directory, as production watches the live directory itself.

The embedded server watches the copy. A container gets the same content in its volume: a new version is copied there
under a name that servers ignore, and then renamed in the container, so that its server also sees nothing or all of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.sections.serving import Serving
from configs.serving_flags import flag_value
from tasks.errors import ServingError
from tasks.records import Backend
from tasks.serving.archive import tar_file, tar_stream
from tasks.serving.client import RestClient
from tasks.serving.embedded import run_embedded_with
from tasks.serving.launch import Served, ThrowawayServer, ready
from tasks.serving.open_loop import CONNECTIONS
from tasks.serving.pinned import ONE_TRY, PINS, WATCHES_LABELS

if TYPE_CHECKING:
    from tasks.serving.container import ContainerServer

Show = Callable[[Callable[[], None]], None]
"""Makes what the copy says visible to the server; calls its argument immediately before the server can see a change."""
LOOK_S = 0.1  # between two measurements of the memory


@dataclass
class _Shown:
    """What the volume of a container has: the names of its versions, and the text of models.config, or nothing."""

    versions: set[str]
    config: bytes


@contextlib.contextmanager
def watching_server(  # noqa: PLR0913  what is served, where, and how
    backend: Backend, serving: Serving, model: Served, model_dir: Path, *, labels: bool, log_file: Path
) -> Iterator[tuple[ThrowawayServer, RestClient, Show]]:
    """Run a server on `<root>/<name>/<N>`, and with labels on `<root>/models.config`, until the block ends.

    It has the flags of production. The model's version is AVAILABLE when the block begins.

    Args:
        backend: docker or embedded. model: the version that is live. model_dir: the copy, `<root>/<name>`.
        labels: whether the server reads models.config, which names the versions and their labels.

    Raises:
        ServingError: as `throwaway_server`.
    """
    if backend.kind == "docker":
        with _watching_container(backend, serving, model, model_dir, labels, log_file) as found:
            yield found
        return
    where = [f"--model_name={model.name}", f"--model_base_path={model_dir.absolute()}"]
    if labels:
        where = [f"--model_config_file={model_dir.absolute().parent / PINS}", *WATCHES_LABELS]
    started = run_embedded_with(model.name, [ONE_TRY, *where], memory_mb=serving.memory_mb)
    with ready(started, serving, model, log_file) as (server, client):
        yield server, client, lambda mark: mark()


@contextlib.contextmanager
def _watching_container(  # noqa: PLR0913, PLR0917  as for `watching_server`
    backend: Backend, serving: Serving, model: Served, model_dir: Path, labels: bool, log_file: Path
) -> Iterator[tuple[ThrowawayServer, RestClient, Show]]:
    from tasks.serving.container import MODELS_DIR, ContainerServer, run_container_with  # imports docker

    config = model_dir.parent / PINS
    flags = [ONE_TRY, *serving.args, *([f"--model_config_file={MODELS_DIR}/{PINS}", *WATCHES_LABELS] if labels else [])]

    def content() -> Iterator[bytes | Iterator[bytes]]:
        for path in _versions(model_dir).values():
            yield tar_stream(path, model_dir.name)
        if labels:
            yield tar_file(PINS, config.read_bytes())

    shown = _Shown(set(_versions(model_dir)), config.read_bytes() if labels else b"")
    image = serving.model_copy(update={"image": backend.image})
    started = run_container_with(image, model.name, flags, content, run_id=model.run_id)
    with ready(started, serving, model, log_file) as (server, client):
        assert isinstance(server, ContainerServer)
        yield server, client, lambda mark: _show(server, model_dir, shown, mark)


def _show(server: ContainerServer, model_dir: Path, shown: _Shown, mark: Callable[[], None]) -> None:
    """Bring the volume of a container to the state of the copy, each change with one rename."""
    found, name = _versions(model_dir), model_dir.name
    for version in sorted(found.keys() - shown.versions):
        staging = f"{name}/.staging-{uuid.uuid4().hex[:12]}"
        server.put(tar_stream(found[version], staging))
        mark()
        server.rename(f"{staging}/{version}", f"{name}/{version}")
    if shown.config and (text := (model_dir.parent / PINS).read_bytes()) != shown.config:
        server.put(tar_file(f"{PINS}.new", text))
        mark()
        server.rename(f"{PINS}.new", PINS)
        shown.config = text
    for version in sorted(shown.versions - found.keys()):
        server.rename(f"{name}/{version}", f"{name}/.withdrawn-{version}-{uuid.uuid4().hex[:8]}")
    shown.versions = set(found)


def at_once(backend: Backend, args: tuple[str, ...]) -> int:
    """Return how many requests over gRPC may be open at the same time.

    TensorFlow Serving has four threads for each processor, or --grpc_max_threads, and refuses a request for which none
    is free, so that a short wait would count as a failure. Half as many are open, because a thread is busy for a moment
    after its answer has been sent.

    Sources: tensorflow_serving/model_servers/server.h; grpc, src/cpp/thread_manager/thread_manager.cc.
    """
    if backend.kind != "docker":
        return CONNECTIONS
    flag = flag_value(args, "grpc_max_threads") or ""
    threads = int(flag) if flag.isdecimal() else 4 * len(os.sched_getaffinity(0))
    return max(1, min(CONNECTIONS, threads // 2))


def _versions(model_dir: Path) -> dict[str, Path]:
    """Return the version directories of a copy by their names, which are digits only."""
    return {path.name: path for path in sorted(model_dir.iterdir()) if path.name.isdecimal()}


@contextlib.contextmanager
def memory_watched(server: ThrowawayServer) -> Iterator[Callable[[], float]]:
    """Measure the memory of a server ten times a second; yield a function that returns the most so far, in MB."""
    most, stop = [server.limited_mb()], threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            with contextlib.suppress(ServingError):
                most[0] = max(most[0], server.limited_mb())

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        stop.set()
        thread.join()
