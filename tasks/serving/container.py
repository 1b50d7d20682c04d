"""A throwaway TensorFlow Serving container on one version directory, from its image to its removal.

In this order:
    image    found locally, else pulled
    create   without privileges, on a read-only root, with an empty anonymous volume at /models
    fill     the version directory goes into that volume through the engine: no bind mount, so that a
             remote engine, or one that runs this very process in a container, does as well
    start    the engine chooses the port
    remove   with its volume, after its log and exit status were kept; also when anything above fails
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.images import Image
from docker.types import LogConfig
from docker.utils import parse_repository_tag

from configs.schema import Serving
from tasks.errors import ServingError, ServingUnavailable
from tasks.serving.archive import tar_file, tar_stream
from tasks.serving.engine import (
    ENGINE_ERRORS,
    LOOPBACK,
    PULL_SILENCE_S,
    engine,
    engine_address,
    engine_errors,
    own_network,
    rest_host,
    root_cause,
    with_limit,
)
from tasks.serving.exits import KILLED, explain_exit
from tasks.serving.pinned import CONFIG, ONE_TRY, pinned_config
from tasks.serving.reaper import owner_labels, remove_orphans
from tasks.waiting import waiting_for

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

REST_PORT, GRPC_PORT = 8501, 8500
OOM_LOOKS, OOM_LOOK_S = 10, 0.2  # at most, and seconds between them
MODELS_DIR = "/models"  # TensorFlow Serving's image looks for $MODEL_NAME here
NOBODY = "65534:65534"
# What tensorflow/serving's image says about itself. Source: its Dockerfile.
VERSION_LABEL = "tensorflow_serving_github_branchtag"


def ensure_image(serving: Serving) -> str:
    """Return the content id of `serving.image`, pulled for `serving.platform` if it is not available locally.

    Raises:
        ServingUnavailable: there is no engine, or the image is absent and cannot be pulled.
    """
    with engine() as client:
        return str(_ensure_image(client, serving.image, serving.platform).id)


def _ensure_image(client: docker.DockerClient, name: str, platform: str) -> Image:
    with engine_errors(f"look for the image {name}"):
        with contextlib.suppress(ImageNotFound):
            return client.images.get(name)
        try:
            _pull(client, name, platform)
            return client.images.get(name)
        except ENGINE_ERRORS as exc:
            raise ServingUnavailable(
                f"The image {name} is not available locally and could not be pulled: {root_cause(exc)}. Check "
                "serving.image and the network, build one (docker build --target serving), or use "
                "serving.backend: embedded."
            ) from exc


def _pull(client: docker.DockerClient, name: str, platform: str) -> None:
    """Pull an image, with a log line for each layer that is complete."""
    repository, tag = parse_repository_tag(name)
    layers: dict[str, bool] = {}  # id: complete
    log.info("Pulling %s", name)
    pull = partial(client.api.pull, repository, tag or "latest", stream=True, decode=True, platform=platform or None)
    with waiting_for(f"the pull of {name}"):
        for event in with_limit(pull, PULL_SILENCE_S):
            if "error" in event:  # the status is 200 by then
                raise APIError(event["error"])
            if event.get("status") == "Pulling fs layer":
                layers[event["id"]] = False
            elif event.get("status") in ("Pull complete", "Already exists"):
                layers[event["id"]] = True
                log.info("Pulling %s: %d of %d layers", name, sum(layers.values()), len(layers))


@contextlib.contextmanager
def run_container(serving: Serving, model_name: str, *version_dirs: Path, run_id: str) -> Iterator[ContainerServer]:
    """Run `serving.image` on version directories; nothing of it is left when the block ends.

    Args:
        serving: image, platform and limits.
        model_name: what the server calls the model.
        version_dirs: `<anything>/<N>`; their bytes are copied into the container, and each is served.
        run_id: names the run in the container's labels.

    Raises:
        ServingUnavailable: no engine or image, or the engine failed.
        ServingError: the engine refused what the configuration asks for.
    """
    with engine() as client:
        with engine_errors("look for what earlier runs left behind"):
            remove_orphans(client, time.time())
        image = _ensure_image(client, serving.image, serving.platform)
        # Named beforehand, so that it can be removed even if the answer to its creation never arrives.
        name = f"rehearsal-{uuid.uuid4().hex[:12]}"
        server = None
        try:
            with engine_errors("start the server"):
                network = own_network(client)
                container = _to_its_end(
                    client.containers.create,
                    str(image.id),
                    [*ONE_TRY, *([f"--model_config_file={MODELS_DIR}/{CONFIG}"] if len(version_dirs) > 1 else [])],
                    name=name,
                    labels=owner_labels(run_id, time.time()),
                    environment={"MODEL_NAME": model_name},
                    volumes=[MODELS_DIR],
                    platform=serving.platform or None,
                    **hardening(serving),
                    **publishing(network),
                )
                for version_dir in version_dirs:
                    container.put_archive(MODELS_DIR, tar_stream(version_dir, model_name))
                if len(version_dirs) > 1:
                    numbers = [int(version_dir.name) for version_dir in version_dirs]
                    pins = pinned_config(model_name, f"{MODELS_DIR}/{model_name}", numbers)
                    container.put_archive(MODELS_DIR, tar_file(CONFIG, pins.encode()))
                container.start()
            server = ContainerServer(client, container, serving, model_name, network)
            server.version = image.labels.get(VERSION_LABEL, "")
            yield server
        finally:
            _to_its_end(_remove, client, name, server)


def _to_its_end(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that a Ctrl-C or SIGTERM does not cut short: it is raised when the call is through.

    Broken off while the engine creates a container, its removal would come before it is there. The interrupt may come
    at any moment, even while the thread is being started, so that only the call itself knows whether it has begun:
    either it begins and is waited for, or it is cancelled and never begins.
    """
    outcome: Future[R] = Future()

    def call() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            outcome.set_result(function(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001  raised by who waits
            outcome.set_exception(exc)

    try:
        threading.Thread(target=call, name="engine").start()
        return outcome.result()
    finally:
        if not outcome.cancel():
            wait([outcome])


def hardening(serving: Serving) -> dict[str, Any]:
    """Return the limits that a server of unjudged models runs under.

    What a real TensorFlow Serving needs of each:
        pids_limit: pools of 256 threads for each directory that is measured, and some 10 a processor besides.
        mem_limit: the model, its answers under way, and what lies in /tmp, which counts as memory.
        /tmp: written by no part of it that a Keras export uses; half of the memory at most.
        open files: one a connection and one a file that is being read; the engine's own limit is left as it is.
        /dev/shm: nothing; the engine's 64 MB are left as they are.
    """
    memory = f"{serving.memory_mb}m"
    return {
        "user": NOBODY,
        "read_only": True,
        "tmpfs": {"/tmp": f"size={serving.memory_mb // 2}m"},  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": memory,
        "memswap_limit": memory,  # memory and swap together: no swap
        "nano_cpus": int(serving.cpus * 1e9) or None,
        "pids_limit": serving.pids_limit,
        "init": True,
        "healthcheck": {"test": ["NONE"]},  # the client asks often enough
        "log_config": LogConfig(type="json-file", config={"max-size": "8m", "max-file": "2"}),
    }


def publishing(network: str) -> dict[str, Any]:
    """Return the options of `create` that make the server reachable from here.

    Args:
        network: the one to join, or an empty string to publish a port that the engine chooses.
    """
    if network:
        return {"network": network}
    # Only a remote engine publishes to others than its own host: to us.
    address = LOOPBACK if rest_host(engine_address()) == LOOPBACK else "0.0.0.0"  # noqa: S104
    return {"ports": {f"{port}/tcp": (address, None) for port in (REST_PORT, GRPC_PORT)}}


def _remove(client: docker.DockerClient, name: str, server: ContainerServer | None) -> None:
    """Keep what is left to know, then remove the container and its volume; never hides another error."""
    try:
        if server is not None:
            server.keep()
    except ServingError as exc:
        log.warning("The log of container %s is lost: %s", name, exc)
    try:
        with waiting_for(f"the Docker engine to remove container {name}"):
            client.api.remove_container(name, v=True, force=True)
    except NotFound:
        pass  # it was never created
    except ENGINE_ERRORS as exc:
        log.warning("Container %s is left behind (%s); a later run removes it.", name, root_cause(exc))


class ContainerServer:
    """A started container (a `ThrowawayServer`); after its removal it still tells its log and exit status."""

    backend = "docker"

    def __init__(
        self, client: docker.DockerClient, container: Container, serving: Serving, model_name: str, network: str
    ) -> None:
        self.version = ""
        self.image = serving.image
        self.image_id = str(container.attrs["Image"])
        self.labels: dict[str, str] = container.labels
        self._client = client
        self._container = container
        self._memory_mb = serving.memory_mb
        self._model_name = model_name
        self._network = network
        self._kept: tuple[dict[str, Any], str] | None = None

    @property
    def rest_url(self) -> str:
        """Return where REST listens, or an empty string while the engine has published no port."""
        address = self._address(REST_PORT)
        return f"http://{address}" if address else ""

    @property
    def grpc_target(self) -> str:
        """Return where gRPC listens, or an empty string while the engine has published no port."""
        return self._address(GRPC_PORT)

    def _address(self, port: int) -> str:
        """Return host and port, as seen from here, of a port of the container, or an empty string."""
        self._state()
        settings = self._container.attrs["NetworkSettings"]
        if self._network:
            address = settings["Networks"][self._network]["IPAddress"]
            return f"{address}:{port}" if address else ""
        published = (settings["Ports"] or {}).get(f"{port}/tcp")
        return f"{rest_host(engine_address())}:{published[0]['HostPort']}" if published else ""

    def exit_code(self) -> int | None:
        """Return the exit status, or None while it runs or if it ran until it was removed."""
        state = self._state()
        return int(state["ExitCode"]) if state["Status"] in ("exited", "dead") else None

    def log(self) -> str:
        """Return everything that it has printed so far (the last 8 to 16 MB)."""
        if self._kept is not None:
            return self._kept[1]
        with engine_errors("show the server's log"):
            return self._container.logs().decode(errors="replace")

    def explain_exit(self) -> ServingError:
        """Return the error that says why it ended."""
        code = self.exit_code() or 0
        oom_mb = self._memory_mb if self._ran_out_of_memory(code) else 0
        return explain_exit(code, self.log(), self._model_name, oom_limit_mb=oom_mb)

    def _ran_out_of_memory(self, code: int) -> bool:
        """Return whether the engine says that the memory limit was reached.

        Of a killed server it is asked again for a while: Docker 20.10 was seen to report status 137 without it.
        """
        looks = OOM_LOOKS if code == KILLED and self._kept is None else 1
        for look in range(looks):
            if look:
                time.sleep(OOM_LOOK_S)
            if self._state().get("OOMKilled"):
                return True
        return False

    def memory_mb(self) -> float:
        """Return the memory in use, in MB, without what only caches files; 0 if the engine does not say."""
        with engine_errors("tell the server's memory"):
            # one_shot: the engine would otherwise wait a second for a second look at the processor
            found = self._client.api.stats(str(self._container.id), stream=False, one_shot=True)
        memory = found.get("memory_stats") or {}
        cached = memory.get("stats") or {}
        files = cached.get("total_inactive_file", cached.get("inactive_file", 0))  # control groups v1, v2
        return max(0.0, float(memory.get("usage", 0) - files) / 1e6)

    def keep(self) -> None:
        """Keep the last state and the log, for after the removal."""
        self._kept = self._state(), self.log()

    def _state(self) -> dict[str, Any]:
        """Return the engine's account of it, renewed unless it was kept."""
        if self._kept is not None:
            return self._kept[0]
        with engine_errors("tell the server's state"):
            self._container.reload()
        return dict(self._container.attrs["State"])
