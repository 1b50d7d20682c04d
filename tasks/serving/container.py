"""A throwaway TensorFlow Serving container on a version directory, from its image to its removal.

The steps are:
    image    find it locally, or pull it
    create   without privileges, on a read-only root, with an empty anonymous volume at /models
    fill     copy the version directory into that volume through the engine; without a bind mount, this also works
             with a remote engine, or if this process runs in a container of the engine
    start    the engine chooses the port
    remove   with its volume, after saving its log and exit status; also if a step above fails
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, ParamSpec, TypeVar

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.images import Image
from docker.types import DeviceRequest, LogConfig
from docker.utils import parse_repository_tag

from configs.sections.serving import Serving
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
from tasks.serving.flags import flags_in
from tasks.serving.pinned import AT_ONCE, PINS, pinned_config
from tasks.serving.reaper import owner_labels, remove_orphans
from tasks.waiting import waiting_for

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

REST_PORT, GRPC_PORT = 8501, 8500
OOM_LOOKS, OOM_LOOK_S = 10, 0.2  # the most times to look, and the seconds between them
MODELS_DIR = "/models"  # TensorFlow Serving's image looks for $MODEL_NAME here
NOBODY = "65534:65534"
# The label with the version of tensorflow/serving's image. Source: its Dockerfile.
VERSION_LABEL = "tensorflow_serving_github_branchtag"


def ensure_image(serving: Serving) -> str:
    """Return the content id of `serving.image`, pulled for `serving.platform` if it is not available locally.

    Raises:
        ServingUnavailable: no engine answers, or the image is not available and cannot be pulled.
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
                "serving.image and the network, build an image (docker build --target serving), or set "
                "serving.backend: embedded."
            ) from exc


def _pull(client: docker.DockerClient, name: str, platform: str) -> None:
    """Pull an image, with a log line for each layer that is complete."""
    repository, tag = parse_repository_tag(name)
    layers: dict[str, bool] = {}  # maps an id to whether the layer is complete
    log.info("Pulling %s", name)
    pull = partial(client.api.pull, repository, tag or "latest", stream=True, decode=True, platform=platform or None)
    with waiting_for(f"the pull of {name}"):
        for event in with_limit(pull, PULL_SILENCE_S):
            if "error" in event:  # the HTTP status was 200 already
                raise APIError(event["error"])
            if event.get("status") == "Pulling fs layer":
                layers[event["id"]] = False
            elif event.get("status") in ("Pull complete", "Already exists"):
                layers[event["id"]] = True
                log.info("Pulling %s: %d of %d layers", name, sum(layers.values()), len(layers))


@contextlib.contextmanager
def run_container(serving: Serving, model_name: str, *version_dirs: Path, run_id: str) -> Iterator[ContainerServer]:
    """Run `serving.image` on version directories, and remove the container when the block ends.

    Args:
        serving: image, platform and limits.
        model_name: the name under which the model is served.
        version_dirs: `<anything>/<N>`; they are copied into the container, and each is served.
        run_id: names the run in the labels of the container.

    Raises:
        ServingUnavailable: there is no engine or image, or the engine failed.
        ServingError: the engine refused the settings of the configuration.
    """
    pins = [f"--model_config_file={MODELS_DIR}/{PINS}"] if len(version_dirs) > 1 else []
    content = partial(_version_archives, model_name, version_dirs)
    with run_container_with(serving, model_name, [*AT_ONCE, *serving.args, *pins], content, run_id=run_id) as server:
        yield server


@contextlib.contextmanager
def run_container_with(
    serving: Serving,
    model_name: str,
    flags: Sequence[str],
    content: Callable[[], Iterable[bytes | Iterator[bytes]]],
    *,
    run_id: str,
) -> Iterator[ContainerServer]:
    """Run `serving.image` with flags that say what it serves, as `run_container` does.

    Args:
        content: the tar archives that are copied to `MODELS_DIR` before the start.
    """
    with engine() as client:
        with engine_errors("list the containers of earlier runs"):
            remove_orphans(client, time.time())
        image = _ensure_image(client, serving.image, serving.platform)
        # With a name of our own, it can be removed even if the engine's answer never arrives.
        name = f"rehearsal-{uuid.uuid4().hex[:12]}"
        server = None
        try:
            with engine_errors("start the server"):
                network = own_network(client)
                container = _to_its_end(
                    client.containers.create,
                    str(image.id),
                    list(flags),
                    name=name,
                    labels=owner_labels(run_id, time.time()),
                    environment={"MODEL_NAME": model_name},
                    volumes=[MODELS_DIR, *_directories(serving)],
                    platform=serving.platform or None,
                    **hardening(serving),
                    **publishing(network),
                )
                for archive in content():
                    container.put_archive(MODELS_DIR, archive)
                for place, file in serving.files.items():
                    container.put_archive(str(PurePosixPath(place).parent), _as_archive(place, file))
                container.start()
            server = ContainerServer(client, container, serving, model_name, network)
            server.version = image.labels.get(VERSION_LABEL, "")
            yield server
        finally:
            _to_its_end(_remove, client, name, server)


def _version_archives(model_name: str, version_dirs: Sequence[Path]) -> Iterator[bytes | Iterator[bytes]]:
    """Yield an archive of each version directory, and of a configuration that pins them if there are several."""
    for version_dir in version_dirs:
        yield tar_stream(version_dir, model_name)
    if len(version_dirs) > 1:
        numbers = [int(version_dir.name) for version_dir in version_dirs]
        yield tar_file(PINS, pinned_config(model_name, f"{MODELS_DIR}/{model_name}", numbers).encode())


def _directories(serving: Serving) -> list[str]:
    """Return the directories of the configured files: volumes, because nothing can be copied into a read-only root."""
    found = {str(PurePosixPath(place).parent) for place in serving.files}
    return sorted(directory for directory in found if directory != MODELS_DIR)


def _as_archive(place: str, file: Path) -> bytes:
    try:
        return tar_file(PurePosixPath(place).name, file.read_bytes())
    except OSError as exc:
        raise ServingError(f"serving.files: '{file}' must be readable, got {exc.strerror}") from exc


def known_flags(serving: Serving) -> dict[str, str]:
    """Return the flags of the server in `serving.image` with their types, as its `--help` lists them.

    Raises:
        ServingUnavailable: there is no engine or image, or the engine failed.
    """
    with engine() as client, engine_errors("list the flags of the server"):
        image = _ensure_image(client, serving.image, serving.platform)
        name = f"rehearsal-{uuid.uuid4().hex[:12]}"
        try:
            container = _to_its_end(
                client.containers.create,
                str(image.id),
                ["--help"],
                name=name,
                labels=owner_labels("flags", time.time()),
                platform=serving.platform or None,
                network_disabled=True,
                **hardening(serving),
            )
            container.start()
            with waiting_for(f"the flags of {serving.image}"):
                container.wait(timeout=serving.startup_timeout_s)
            return flags_in(container.logs().decode(errors="replace"))
        finally:
            _to_its_end(_remove, client, name, None)


def _to_its_end(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function to its end; a Ctrl-C or SIGTERM during the call is raised after it.

    If an interrupt stopped the creation of a container, its removal would be sent before it exists. The interrupt may
    come at any moment, even while the thread starts, so only the call itself can tell whether it has begun: either it
    begins and is waited for, or it is cancelled and never begins.
    """
    outcome: Future[R] = Future()

    def call() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            outcome.set_result(function(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001  raised in the waiting thread
            outcome.set_exception(exc)

    try:
        threading.Thread(target=call, name="engine").start()
        return outcome.result()
    finally:
        if not outcome.cancel():
            wait([outcome])


def hardening(serving: Serving) -> dict[str, Any]:
    """Return the limits of a server that runs models which have not been judged.

    A real TensorFlow Serving needs:
        pids_limit: a pool of 256 threads for each model directory, and about 10 threads for each processor.
        mem_limit: the model, the answers in progress, and the contents of /tmp, which count as memory.
        /tmp: nothing for a Keras export; the limit is half of the memory.
        open files: one for each connection and each file being read; the engine's default is kept.
        /dev/shm: nothing; the engine's default of 64 MB is kept.
    """
    memory = f"{serving.memory_mb}m"
    return {
        "user": NOBODY,
        "read_only": True,
        "tmpfs": {"/tmp": f"size={serving.memory_mb // 2}m"},  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": memory,
        "memswap_limit": memory,  # memory plus swap, so there is no swap
        "nano_cpus": int(serving.cpus * 1e9) or None,
        "pids_limit": serving.pids_limit,
        "init": True,
        "device_requests": _gpus(serving.gpus),
        "healthcheck": {"test": ["NONE"]},  # the client polls the state itself
        "log_config": LogConfig(type="json-file", config={"max-size": "8m", "max-file": "2"}),
    }


def _gpus(wanted: int | Literal["all"]) -> list[DeviceRequest]:
    if not wanted:
        return []
    return [DeviceRequest(count=-1 if wanted == "all" else wanted, capabilities=[["gpu"]])]


def publishing(network: str) -> dict[str, Any]:
    """Return the options of `create` that make the server reachable from this process.

    Args:
        network: the network to join, or an empty string to publish a port that the engine chooses.
    """
    if network:
        return {"network": network}
    # Only a remote engine must publish beyond its own loopback, so that we can reach it.
    address = LOOPBACK if rest_host(engine_address()) == LOOPBACK else "0.0.0.0"  # noqa: S104
    return {"ports": {f"{port}/tcp": (address, None) for port in (REST_PORT, GRPC_PORT)}}


def _remove(client: docker.DockerClient, name: str, server: ContainerServer | None) -> None:
    """Save the state and the log, then remove the container and its volume; never hide another error."""
    try:
        if server is not None:
            server.remember()
    except ServingError as exc:
        log.warning("The log of container %s could not be saved: %s", name, exc)
    try:
        with waiting_for(f"the Docker engine to remove container {name}"):
            client.api.remove_container(name, v=True, force=True)
    except NotFound:
        pass  # it was never created
    except ENGINE_ERRORS as exc:
        log.warning("Container %s could not be removed (%s); a later run will remove it.", name, root_cause(exc))


class ContainerServer:
    """A started container (a `ThrowawayServer`); its log and exit status are available even after its removal."""

    backend = "docker"
    waited_s = 0.0

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
        self.served_name = self._model_name = model_name
        self._network = network
        self._kept: tuple[dict[str, Any], str] | None = None

    @property
    def rest_url(self) -> str:
        """Return the URL of the REST API, or an empty string while the engine has published no port."""
        address = self._address(REST_PORT)
        return f"http://{address}" if address else ""

    @property
    def grpc_target(self) -> str:
        """Return the address of the gRPC API, or an empty string while the engine has published no port."""
        return self._address(GRPC_PORT)

    def _address(self, port: int) -> str:
        """Return host and port at which this process reaches a port of the container, or an empty string."""
        self._state()
        settings = self._container.attrs["NetworkSettings"]
        if self._network:
            address = settings["Networks"][self._network]["IPAddress"]
            return f"{address}:{port}" if address else ""
        published = (settings["Ports"] or {}).get(f"{port}/tcp")
        return f"{rest_host(engine_address())}:{published[0]['HostPort']}" if published else ""

    def exit_code(self) -> int | None:
        """Return the exit status, or None while it runs or if it was removed while it was running."""
        state = self._state()
        return int(state["ExitCode"]) if state["Status"] in ("exited", "dead") else None

    def log(self) -> str:
        """Return everything that it has printed so far (the last 8 to 16 MB)."""
        if self._kept is not None:
            return self._kept[1]
        with engine_errors("return the server's log"):
            return self._container.logs().decode(errors="replace")

    def explain_exit(self) -> ServingError:
        """Return the error that says why the server ended."""
        code = self.exit_code() or 0
        oom_mb = self._memory_mb if self._ran_out_of_memory(code) else 0
        return explain_exit(code, self.log(), self._model_name, oom_limit_mb=oom_mb)

    def ended(self) -> ServingError | None:
        """Return the error that says why the server ended, or None while it runs."""
        return None if self.exit_code() is None else self.explain_exit()

    def _ran_out_of_memory(self, code: int) -> bool:
        """Return whether the engine reports that the memory limit was reached.

        For a killed server, the engine is asked several times: Docker 20.10 may report status 137 before it.
        """
        looks = OOM_LOOKS if code == KILLED and self._kept is None else 1
        for look in range(looks):
            if look:
                time.sleep(OOM_LOOK_S)
            if self._state().get("OOMKilled"):
                return True
        return False

    def memory_mb(self) -> float:
        """Return the memory in use, in MB, without the file cache; 0 if the engine does not report it."""
        with engine_errors("report the server's memory"):
            # without one_shot, the engine waits a second to measure the processor
            found = self._client.api.stats(str(self._container.id), stream=False, one_shot=True)
        memory = found.get("memory_stats") or {}
        cached = memory.get("stats") or {}
        files = cached.get("total_inactive_file", cached.get("inactive_file", 0))  # cgroups v1, v2
        return max(0.0, float(memory.get("usage", 0) - files) / 1e6)

    def limited_mb(self) -> float:
        """Return the memory that counts against its limit, in MB; 0 if the engine does not report it."""
        return self.memory_mb()

    def put(self, archive: bytes | Iterator[bytes]) -> None:
        """Copy a tar archive to `MODELS_DIR`, while the server runs."""
        with engine_errors("copy files to the server"):
            self._container.put_archive(MODELS_DIR, archive)

    def rename(self, source: str, target: str) -> None:
        """Rename a file or directory below `MODELS_DIR` in one step, as the owner of the volume.

        Raises:
            ServingError: the image has no mv, or it failed.
        """
        command = ["mv", "-fT", f"{MODELS_DIR}/{source}", f"{MODELS_DIR}/{target}"]
        with engine_errors("rename a directory in the server's container"):
            found = self._client.api.exec_create(self._container.id, command, user="0:0")["Id"]
            words: bytes = self._client.api.exec_start(found)
            code = self._client.api.exec_inspect(found)["ExitCode"]
        if code:
            raise ServingError(
                f"the image {self.image} must have mv, with which the change of a version is rehearsed, got "
                f"{' '.join(words.decode(errors='replace').split())}; leave `change` out of gates.use"
            )

    def remember(self) -> None:
        """Save the last state and the log for the time after the removal."""
        self._kept = self._state(), self.log()

    def _state(self) -> dict[str, Any]:
        """Return the saved state, or else the state that the engine reports now."""
        if self._kept is not None:
            return self._kept[0]
        with engine_errors("report the server's state"):
            self._container.reload()
        return dict(self._container.attrs["State"])
