"""Real throwaway containers on a real engine."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import requests

from configs.sections.serving import Serving
from tasks.errors import MemoryExceeded, ModelLoadError, ServingError, ServingUnavailable, StoreError
from tasks.records import Candidate, Signature
from tasks.serving.container import ContainerServer, ensure_image, run_container
from tasks.serving.engine import engine
from tasks.serving.launch import wait_available
from tasks.serving.reaper import LABEL, reap
from tests.fault_proxy import FaultProxy

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
HALF = ROOT / "tests/data/tfs_rest/models/half/1"  # x -> 0.5 x + 2
OWNER = """
import sys, time
from pathlib import Path
from configs.sections.serving import Serving
from tasks.serving.container import run_container
with run_container(Serving(image=sys.argv[1]), "half", Path(sys.argv[2]), run_id=sys.argv[3]):
    print("started", flush=True)
    time.sleep(3000)
"""

SAYING = """
import signal

def interrupt(number, frame):
    print("interrupted", flush=True)
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
"""


def over_tcp(proxy: FaultProxy) -> str:
    """Return a proxy's address as DOCKER_HOST takes it."""
    return proxy.address.replace("http://", "tcp://")


@pytest.fixture
def serving() -> Serving:
    """Return the configuration with the image under test."""
    return Serving(image=os.environ.get("REHEARSAL_TEST_IMAGE", "keras-rehearsal-serving:test"))


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    """Return a connection to the engine for looking behind the container's back."""
    with engine() as connected:
        yield connected


@pytest.fixture
def run_id() -> str:
    """Return a label by which this test finds its own containers."""
    return uuid.uuid4().hex


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    """Return a private copy of a version directory whose name is padded."""
    return Path(shutil.copytree(HALF, tmp_path / "half" / "00000012"))


def containers_of(client: docker.DockerClient, run_id: str) -> list[Any]:
    """Return the containers of a run, running or not."""
    return client.containers.list(all=True, filters={"label": f"{LABEL}.run={run_id}"})


def await_available(server: ContainerServer, serving: Serving, version_dir: Path) -> None:
    """Wait as the pipeline does."""
    nothing = Path(os.devnull)
    candidate = Candidate("half", 12, version_dir, "", Signature((), ()), 0, nothing, nothing, nothing)
    wait_available(server, candidate, serving).close()


def test_a_model_is_copied_in_served_and_removed_without_a_trace(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """The container serves the copied model on a port of loopback, and leaves only its log."""
    with run_container(serving, "half", version_dir, run_id=run_id) as server:
        shutil.rmtree(version_dir)  # nothing is shared: the server has its own copy
        await_available(server, serving, version_dir)
        url = f"{server.rest_url}/v1/models/half/versions/12:predict"
        answer = requests.post(url, json={"instances": [[1.0], [2.0]]}, timeout=600).json()
        [container] = containers_of(client, run_id)
        [volume] = [mount["Name"] for mount in container.attrs["Mounts"]]
        assert server.exit_code() is None
        assert server.rest_url.startswith("http://127.0.0.1:")
    assert answer == {"predictions": [[2.5], [3.0]]}
    assert "Successfully loaded servable version {name: half version: 12}" in server.log()
    assert server.image_id == ensure_image(serving)
    assert server.labels[f"{LABEL}.run"] == run_id
    assert containers_of(client, run_id) == []
    with pytest.raises(docker.errors.NotFound):
        client.volumes.get(volume)


def test_a_damaged_model_is_refused_in_the_servers_own_words(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """A truncated variables.index ends the server, and the error has its words and its log."""
    with (version_dir / "variables" / "variables.index").open("r+b") as file:
        file.truncate(20)
    with (
        pytest.raises(ModelLoadError, match=r"refused 'half' \(exit status 255\): .*DATA_LOSS") as caught,
        run_container(serving, "half", version_dir, run_id=run_id) as server,
    ):
        await_available(server, serving, version_dir)
    assert "Failed to start server" in caught.value.detail
    assert (server.exit_code(), server.log().strip()[-200:]) == (255, caught.value.detail[-200:])
    assert containers_of(client, run_id) == []


def test_too_little_memory_is_named(serving: Serving, tmp_path: Path, run_id: str) -> None:
    """A server that the kernel kills at its limit says which field to raise instead of blaming the model.

    A request takes 16 GB at once: with a limit that is only a little too low for the start, a kernel may read the
    libraries' pages again and again instead of killing.
    """
    import tensorflow as tf

    module = tf.Module()
    specification = tf.TensorSpec([None], tf.float32, name="x")
    module.serve = tf.function(
        lambda x: {"y": x + tf.reduce_max(tf.random.uniform([4 * tf.cast(x[0], tf.int32), 1000, 1000]))},
        input_signature=[specification],
    )
    version_dir = tmp_path / "half" / "12"
    tf.saved_model.save(module, str(version_dir), signatures=module.serve)
    limited = serving.model_copy(update={"memory_mb": 1024})
    with run_container(limited, "half", version_dir, run_id=run_id) as server:
        await_available(server, limited, version_dir)
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{server.rest_url}/v1/models/half:predict", json={"inputs": [1000.0]}, timeout=600)
        while server.exit_code() is None:
            time.sleep(0.05)
        error = server.explain_exit()
    assert type(error) is MemoryExceeded
    assert "limit of 1024 MiB. Raise serving.memory_mb" in str(error)


def test_an_exception_in_the_block_leaves_no_container(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """Whatever is raised while the server is used comes out as it is, and the container is gone."""
    with (
        pytest.raises(ZeroDivisionError),
        run_container(serving, "half", version_dir, run_id=run_id) as server,
    ):
        assert len(containers_of(client, run_id)) == 1
        raise ZeroDivisionError
    assert containers_of(client, run_id) == []
    assert server.exit_code() is None


def test_an_exception_while_it_is_filled_leaves_no_container(
    serving: Serving, client: docker.DockerClient, tmp_path: Path, run_id: str
) -> None:
    """A version directory that cannot be read fails between creation and start, and leaves nothing."""
    with (
        pytest.raises(StoreError, match="absent/1"),
        run_container(serving, "half", tmp_path / "absent" / "1", run_id=run_id),
    ):
        pytest.fail("a server was started on nothing")
    assert containers_of(client, run_id) == []


def start_owner(serving: Serving, version_dir: Path, run_id: str) -> subprocess.Popen[str]:
    """Start another process that holds a container."""
    command = [sys.executable, "-c", OWNER, serving.image, str(version_dir), run_id]
    owner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "started\n"
    return owner


def test_an_interrupt_removes_the_container(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """Ctrl-C in the middle of a rehearsal leaves no container."""
    owner = start_owner(serving, version_dir, run_id)
    before = containers_of(client, run_id)
    owner.send_signal(signal.SIGINT)
    _, errors = owner.communicate()
    assert len(before) == 1
    assert "KeyboardInterrupt" in errors
    assert containers_of(client, run_id) == []


def test_the_reaper_removes_what_a_killed_owner_left_and_nothing_else(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """The container of a SIGKILLed process goes, with its volume; the one of a living process stays."""
    owner = start_owner(serving, version_dir, run_id)
    with run_container(serving, "half", version_dir, run_id=f"{run_id}-live"):
        [orphan] = containers_of(client, run_id)
        [volume] = [mount["Name"] for mount in orphan.attrs["Mounts"]]
        spared = reap(time.time())
        owner.kill()
        owner.communicate()
        reaped = reap(time.time())
        assert len(containers_of(client, f"{run_id}-live")) == 1
    assert [found for found in spared if found.run_id.startswith(run_id)] == []
    assert [(found.container, found.reason) for found in reaped if found.run_id.startswith(run_id)] == [
        (orphan.name, f"its owner, process {owner.pid}, has ended")
    ]
    assert containers_of(client, run_id) == []
    with pytest.raises(docker.errors.NotFound):
        client.volumes.get(volume)


def test_the_next_run_reaps_by_itself(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """Starting a server removes the orphans of earlier runs without being asked to."""
    owner = start_owner(serving, version_dir, run_id)
    owner.kill()
    owner.communicate()
    with run_container(serving, "half", version_dir, run_id=f"{run_id}-next"):
        assert containers_of(client, run_id) == []


def test_the_hardening_is_in_force(
    serving: Serving, client: docker.DockerClient, version_dir: Path, run_id: str
) -> None:
    """Inside, the server is nobody, without capabilities, within its limits, and can write to /tmp alone."""
    limited = serving.model_copy(update={"cpus": 0.5, "memory_mb": 1024, "pids_limit": 300})
    with run_container(limited, "half", version_dir, run_id=run_id) as server:
        await_available(server, limited, version_dir)
        [container] = containers_of(client, run_id)
        status = container.exec_run(["cat", "/proc/1/status"]).output.decode()
        can_write = {
            path: container.exec_run(["touch", f"{path}/x"]).exit_code == 0
            for path in ("/tmp", "/", "/models", "/models/half/00000012", "/var/tmp", "/dev/shm")
        }
        host = container.attrs["HostConfig"]
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert facts["Uid"].split() == facts["Gid"].split() == ["65534"] * 4
    assert (facts["CapEff"], facts["CapBnd"], facts["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    assert [path for path, written in can_write.items() if written] == ["/tmp", "/dev/shm"]
    assert (host["Memory"], host["MemorySwap"]) == (1024 * 2**20, 1024 * 2**20)
    assert (host["NanoCpus"], host["PidsLimit"], host["Init"]) == (500_000_000, 300, True)
    assert (host["Privileged"], host["ReadonlyRootfs"]) == (False, True)
    assert [mount["Type"] for mount in container.attrs["Mounts"]] == ["volume"]


def test_limits_that_the_engine_refuses_are_not_tried_again(serving: Serving, version_dir: Path, run_id: str) -> None:
    """More processors than there are is the engine's refusal in its words, and not retryable."""
    greedy = serving.model_copy(update={"cpus": 100_000})
    with (
        pytest.raises(ServingError, match=r"could not start .*CPUs.* Check the configuration") as caught,
        run_container(greedy, "half", version_dir, run_id=run_id),
    ):
        pytest.fail("a server was started")
    assert not caught.value.retryable


def test_an_absent_image_is_one_clear_line(serving: Serving) -> None:
    """An image that is not available locally and cannot be pulled gives one line with its name and the remedies."""
    name = "keras-rehearsal.invalid/absent:0"
    with pytest.raises(ServingUnavailable) as caught:
        ensure_image(serving.model_copy(update={"image": name}))
    message = str(caught.value)
    assert message.startswith(f"The image {name} is not available locally and could not be pulled: ")
    assert message.endswith("or set serving.backend: embedded.")
    assert "\n" not in message


@pytest.fixture
def relay() -> Iterator[FaultProxy]:
    """Return a proxy that offers the engine's socket on a TCP port of loopback."""
    proxy = FaultProxy(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    yield proxy
    proxy.close()


def test_an_interrupt_while_the_engine_creates_the_container(
    relay: FaultProxy,
    serving: Serving,
    client: docker.DockerClient,
    version_dir: Path,
    run_id: str,
    wait_for: Callable[[Callable[[], bool], float], bool],
) -> None:
    """A Ctrl-C that comes while the engine is still at it does not leave the container that is about to be there."""
    relay.rule = lambda _method, path: "late" if "/containers/create" in path else ""
    owner = subprocess.Popen(
        [sys.executable, "-c", SAYING + OWNER, serving.image, str(version_dir), run_id],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": over_tcp(relay)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert relay.misbehaved.wait(600)
    owner.send_signal(signal.SIGINT)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "interrupted\n"
    relay.seen_enough.set()  # only now does the engine hear of the creation
    _, errors = owner.communicate(timeout=600)
    assert "KeyboardInterrupt" in errors
    assert wait_for(lambda: any("/containers/create" in request for request in relay.relayed), 600)
    assert containers_of(client, run_id) == []


def test_an_engine_over_tcp(
    relay: FaultProxy,
    serving: Serving,
    version_dir: Path,
    run_id: str,
    client: docker.DockerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With DOCKER_HOST=tcp://... a model is copied in, served and removed as over the socket."""
    monkeypatch.setenv("DOCKER_HOST", over_tcp(relay))
    with run_container(serving, "half", version_dir, run_id=run_id) as server:
        await_available(server, serving, version_dir)
        url = f"{server.rest_url}/v1/models/half:predict"
        assert requests.post(url, json={"instances": [[1.0]]}, timeout=600).json() == {"predictions": [[2.5]]}
    assert any("/containers/create" in request for request in relay.relayed)
    assert containers_of(client, run_id) == []
