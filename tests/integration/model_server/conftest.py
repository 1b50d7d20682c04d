"""The embedded server as a real process."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

DATA = Path(__file__).parents[2] / "data" / "tfs_rest"
START_TIMEOUT_S = 300.0
# Some of TensorFlow's own texts name oneDNN's kernels, which are chosen by default only on some processors.
KERNELS = {"TF_ENABLE_ONEDNN_OPTS": "1"}


@dataclass
class RunningServer:
    """A server process, what it has printed so far, and a client for it."""

    process: subprocess.Popen[bytes]
    lines: list[str] = field(default_factory=list)
    rest_port: int = 0
    grpc_port: int = 0

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=600)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def predict(self, model: str, body: Any) -> tuple[int, Any]:
        """Post a predict request; `body` is an object or JSON text."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.request("POST", f"/v1/models/{model}:predict", text)
        return status, json.loads(answer)

    def states(self, model: str) -> dict[str, str]:
        """Return the state of each version of a model."""
        answer = json.loads(self.request("GET", f"/v1/models/{model}")[2])
        return {entry["version"]: entry["state"] for entry in answer.get("model_version_status", [])}

    def wait_for(self, happened: Callable[[], bool], timeout_s: float = 300.0) -> None:
        """Poll until something holds; fail with the server's log if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > deadline:
                pytest.fail(f"it did not come to that within {timeout_s} s; the server said:\n{self.log}")
            time.sleep(0.02)

    def stop(self) -> int:
        """End the process with SIGTERM and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=600)


def _collect(server: RunningServer) -> None:
    assert server.process.stderr is not None
    for raw in server.process.stderr:
        line = raw.decode(errors="replace")
        if found := re.search(r"Exporting HTTP/REST API at:localhost:(\d+)", line):
            server.rest_port = int(found[1])
        if found := re.search(r"Running gRPC ModelServer at \S+:(\d+)", line):
            server.grpc_port = int(found[1])
        server.lines.append(line)


class ServerStarter:
    """Starts servers and ends every one of them."""

    def __init__(self) -> None:
        self._servers: list[RunningServer] = []

    def spawn(self, *flags: str, env: dict[str, str] | None = None, **options: Any) -> RunningServer:
        """Start a process without waiting for its port."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.model_server", "--port=0", "--rest_api_port=0", *flags],
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "REHEARSAL_REST_HOST": "127.0.0.1", **(env or {})},
            **options,
        )
        server = RunningServer(process)
        self._servers.append(server)
        threading.Thread(target=_collect, args=(server,), daemon=True).start()
        return server

    def start(self, *flags: str, env: dict[str, str] | None = None) -> RunningServer:
        """Start a process and wait until it says that it accepts requests."""
        server = self.spawn(*flags, env=env)
        server.wait_for(lambda: server.rest_port != 0 or server.process.poll() is not None, START_TIMEOUT_S)
        assert server.process.poll() is None, server.log
        return server

    def stop_all(self) -> None:
        for server in self._servers:
            server.process.kill()
            server.process.wait()
            assert server.process.stderr is not None
            server.process.stderr.close()


@pytest.fixture
def starter() -> Iterator[ServerStarter]:
    """Start servers that end with the test."""
    starting = ServerStarter()
    yield starting
    starting.stop_all()


@pytest.fixture(scope="session")
def recorded_models() -> Path:
    """Return the directory of the SavedModels behind the recorded answers."""
    return DATA / "models"


@pytest.fixture(scope="session")
def zoo_server(tmp_path_factory: pytest.TempPathFactory, recorded_models: Path) -> Iterator[RunningServer]:
    """Serve every recorded model, with the configuration of the recording."""
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text((DATA / "models.config").read_text().replace("@MODELS@", str(recorded_models)))
    starting = ServerStarter()
    flags = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
    yield starting.start(*flags, env=KERNELS)
    starting.stop_all()


class ImageServer:
    """The `serving` image with every recorded model; asked as a RunningServer is."""

    request = RunningServer.request

    def __init__(self, rest_port: int) -> None:
        self.rest_port = rest_port


@contextlib.contextmanager
def running_image(image: str) -> Iterator[ImageServer]:
    """Run the image with the recorded models copied in, its flags given as `docker run` gives them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(DATA / "models", arcname=".")
        config = (DATA / "models.config").read_text().replace("@MODELS@", "/models").encode()
        entry = tarfile.TarInfo("models.config")
        entry.size = len(config)
        tar.addfile(entry, io.BytesIO(config))
    flags = ["--model_config_file=/models/models.config", "--allow_version_labels_for_unavailable_models=true"]
    with contextlib.closing(docker.from_env()) as client:
        container = client.containers.create(
            image, flags, volumes=["/models"], ports={"8501/tcp": ("127.0.0.1", None)}, labels={"recorded": "models"},
            environment=KERNELS,
        )  # fmt: skip
        try:
            container.put_archive("/models", archive.getvalue())
            container.start()
            container.reload()
            server = ImageServer(int(container.ports["8501/tcp"][0]["HostPort"]))
            deadline = time.monotonic() + START_TIMEOUT_S
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if server.request("GET", "/v1/models/zoo")[0] == 200:
                        break
                time.sleep(0.05)
            else:
                pytest.fail(container.logs().decode(errors="replace"))
            yield server
        finally:
            container.remove(v=True, force=True)


@pytest.fixture(scope="session", params=["embedded", pytest.param("image", marks=pytest.mark.docker)])
def recorded_server(request: pytest.FixtureRequest) -> Iterator[RunningServer | ImageServer]:
    """Serve every recorded model: from the child process, and from a container of the `serving` image."""
    if request.param == "embedded":
        yield request.getfixturevalue("zoo_server")
        return
    with running_image(request.getfixturevalue("test_image")) as server:
        yield server


@pytest.fixture(scope="session")
def odd_models() -> Path:
    """Return the directory of the SavedModels that are slow or answer in unusual types."""
    return DATA.parent / "serving_models"
