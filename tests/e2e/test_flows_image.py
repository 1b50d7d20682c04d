"""The image `flows`: what it is, and the main job in it, against the engine outside."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.docker
USER = 1000
CONFIG = """
name: digits
data: {load: "configs.digits:load"}
model: {build: "configs.digits:build"}
training: {epochs: 5}
gates: {metrics: {accuracy: 0.5}}
"""


def docker(*arguments: str) -> str:
    """Run a Docker command and return what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def engine_socket() -> Path:
    """Return the socket of the engine."""
    return Path(urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")).path)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project's directory, which the image's user can write."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "cfg.yaml").write_text(CONFIG)
    os.chown(directory, USER, USER)
    return directory


class Relay(socketserver.ThreadingTCPServer):
    """The engine over TCP on loopback, as an engine elsewhere is reached."""

    daemon_threads, block_on_close = True, True

    def __init__(self, engine: Path) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.engine = engine


class Connection(socketserver.BaseRequestHandler):
    """One connection, copied in both directions until both ends have closed it."""

    def handle(self) -> None:
        assert isinstance(self.server, Relay)
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self.server.engine))
            back = threading.Thread(target=copy, args=(engine, self.request))
            back.start()
            copy(self.request, engine)
            back.join()


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source has no more, and say so to the sink."""
    with contextlib.suppress(OSError):  # the other end has gone
        while content := source.recv(65536):
            sink.sendall(content)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(engine_socket: Path) -> Iterator[str]:
    """Give the address of the engine over TCP."""
    with Relay(engine_socket) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def main_job(image: str, project: Path, test_image: str, *options: str) -> str:
    """Run the main job in the image and return what it printed."""
    command = ["flows.train_and_serve", "--config", "cfg.yaml", "--set", "serving.backend=docker"]
    command += ["--set", f"serving.image={test_image}"]
    return docker("run", "--rm", "--network", "host", "--volume", f"{project}:/rehearsal", *options, image, *command)


def test_what_the_image_is(flows_image: str) -> None:
    """It is not root's, has the labels of the OCI, and a list of exactly the packages that are in it."""
    [found] = json.loads(docker("image", "inspect", flows_image))
    assert found["Config"]["User"] == "rehearsal"
    labels = found["Config"]["Labels"]
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"]
    inside = docker("run", "--rm", "--entrypoint", "cat", flows_image, "/opt/flows/sbom.cdx.json")
    bill = json.loads(inside)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part["version"] for part in bill["components"]}
    listed = docker("run", "--rm", "--entrypoint", "python", flows_image, "-m", "pip", "list", "--format", "json")
    installed = {one["name"].lower().replace("_", "-").replace(".", "-"): one["version"] for one in json.loads(listed)}
    assert {name: version for name, version in installed.items() if name not in ("pip", "setuptools")} == parts
    assert docker("run", "--rm", "--entrypoint", "id", flows_image, "-u").strip() == str(USER)


def test_through_a_mounted_socket(flows_image: str, project: Path, test_image: str, engine_socket: Path) -> None:
    """The throwaway container runs on the engine whose socket is mounted."""
    group = str(engine_socket.stat().st_gid)
    mount = ("--volume", f"{engine_socket}:/var/run/docker.sock", "--group-add", group)
    printed = main_job(flows_image, project, test_image, *mount)
    assert "digits version 1 promoted: version 1 is live" in printed
    assert "judged by docker" in printed
    assert (project / "models" / "digits" / "1" / "saved_model.pb").stat().st_uid == USER


@pytest.mark.long
def test_over_tcp(flows_image: str, project: Path, test_image: str, relay: str) -> None:
    """DOCKER_HOST names an engine over TCP, which judges the same way."""
    printed = main_job(flows_image, project, test_image, "--env", f"DOCKER_HOST={relay}")
    assert "judged by docker" in printed
    assert "digits version 2" in printed
