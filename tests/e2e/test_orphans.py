"""No container outlives its run: at once where the run can still act, at the next run where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from tests.fault_proxy import FaultProxy

pytestmark = pytest.mark.docker
Poll = Callable[[Callable[[], bool], float], bool]
MOMENTS = (  # requests to the engine that a container's life consists of; the long proof takes all of them
    ("POST", "/start"), ("GET", "/logs"), ("POST", "/containers/create"), ("PUT", "/archive"), ("GET", "/json"),
    ("DELETE", "/containers/"),
)  # fmt: skip
ATTEMPTS = [0, *(pytest.param(attempt, marks=pytest.mark.long) for attempt in range(1, 20))]
LABEL = "keras-rehearsal"


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    """Connect to the engine."""
    client = docker.from_env()
    yield client
    client.close()


def containers_of(client: docker.DockerClient, pid: int) -> list[str]:
    """Return the names of the containers that a process owns, in whatever state."""
    found = client.api.containers(all=True, filters={"label": f"{LABEL}.pid={pid}"})
    return [container["Names"][0].lstrip("/") for container in found]


def volumes_of(client: docker.DockerClient, pid: int) -> set[str]:
    """Return the names of the volumes of the containers that a process owns."""
    found = client.api.containers(all=True, filters={"label": f"{LABEL}.pid={pid}"})
    return {mount["Name"] for container in found for mount in container["Mounts"]}


@pytest.fixture
def watched(workspace: Any) -> Iterator[FaultProxy]:
    """Return a proxy between the runs of the workspace and the engine, which tells at which request a run is."""
    proxy = FaultProxy(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    workspace.env["DOCKER_HOST"] = proxy.address.replace("http://", "tcp://")
    yield proxy
    proxy.close()


def run_until(workspace: Any, proxy: FaultProxy, image: str, attempt: int) -> Any:
    """Start a run on Docker and come back when it has sent one of `MOMENTS`, of which the engine hears later."""
    method, path = MOMENTS[attempt % len(MOMENTS)]
    proxy.rule = lambda asked, at: "late" if asked == method and path in at else ""
    run = start(workspace, image)
    while not proxy.misbehaved.wait(1):
        assert run.poll() is None, run.stderr.read()
    return run


def start(workspace: Any, image: str) -> Any:
    """Start a run on Docker."""
    run = workspace.start(
        *("--set", "serving.backend=docker", "--set", f"serving.image={image}", "--set", "training.epochs=1")
    )
    threading.Thread(target=run.stdout.read, daemon=True).start()  # an unread pipe would stop the run
    return run


def start_until_container(workspace: Any, client: docker.DockerClient, image: str, wait_for: Poll) -> Any:
    """Start a run on Docker and come back when its container exists."""
    run = start(workspace, image)
    assert wait_for(lambda: run.poll() is not None or bool(containers_of(client, run.pid)), 600)
    assert run.poll() is None, run.stderr.read()
    return run


@pytest.mark.long
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_ended_run_leaves_no_container(
    attempt: int,
    number: signal.Signals,
    workspace: Any,
    watched: FaultProxy,
    engine: docker.DockerClient,
    test_image: str,
    wait_for: Poll,
) -> None:
    """SIGINT or SIGTERM in the middle of a call of a container's life: it is gone when the run is, with its volume."""
    run = run_until(workspace, watched, test_image, attempt)
    run.send_signal(number)
    watched.seen_enough.set()
    run.wait(600)
    assert run.returncode in (130, 3, 0)  # the last two: it had judged before the signal came
    assert wait_for(lambda: set(watched.faults) <= set(watched.relayed), 600)
    assert containers_of(engine, run.pid) == []


@pytest.mark.long
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_killed_run_is_cleaned_up_after(
    attempt: int, workspace: Any, watched: FaultProxy, engine: docker.DockerClient, test_image: str, wait_for: Poll
) -> None:
    """After SIGKILL the container is left, `flows.reap` removes it with its volume, and leaves one that is owned."""
    other = start_until_container(workspace, engine, test_image, wait_for)
    os.kill(other.pid, signal.SIGSTOP)  # alive, and in the middle of its work
    try:
        run = run_until(workspace, watched, test_image, attempt)
        run.kill()
        run.wait()
        watched.seen_enough.set()
        assert wait_for(lambda: set(watched.faults) <= set(watched.relayed), 600)
        watched.rule = lambda _method, _path: ""
        left, volumes = containers_of(engine, run.pid), volumes_of(engine, run.pid)
        assert len(volumes) == len(left)
        reaped = subprocess.run(
            [sys.executable, "-m", "flows.reap"], capture_output=True, text=True, check=True, env=workspace.env
        )
        assert all(name in reaped.stdout for name in left), reaped.stdout
        assert containers_of(engine, run.pid) == []
        assert volumes.isdisjoint(volume.name for volume in engine.volumes.list())
        assert containers_of(engine, other.pid)
    finally:
        os.kill(other.pid, signal.SIGCONT)
    other.wait(600)
    assert containers_of(engine, other.pid) == []


@pytest.mark.long
def test_the_next_run_cleans_up(workspace: Any, engine: docker.DockerClient, test_image: str, wait_for: Poll) -> None:
    """Nobody has to call anything: the next run on Docker removes what a killed one left."""
    killed = start_until_container(workspace, engine, test_image, wait_for)
    killed.kill()
    killed.wait()
    assert containers_of(engine, killed.pid)
    done = workspace.run(
        *("--set", "serving.backend=docker", "--set", f"serving.image={test_image}", "--set", "training.epochs=1"),
        *("--set", "gates.metrics.accuracy=0.1"),
    )
    assert done.returncode == 0, done.stderr
    assert containers_of(engine, killed.pid) == []
