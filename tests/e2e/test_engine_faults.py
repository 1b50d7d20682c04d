"""A Docker engine that hangs, breaks off or refuses: one line, whom it waits for, and no container that is left."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.sections.serving import Serving
from tasks import waiting
from tasks.errors import ServingUnavailable
from tasks.serving import container
from tasks.serving import engine as engines
from tasks.serving.container import ensure_image, run_container
from tasks.serving.engine import engine
from tasks.serving.reaper import LABEL
from tests.fault_proxy import FaultProxy

HALF = Path(__file__).parents[2] / "tests/data/tfs_rest/models/half/1"
CREATE, FILL, START, LOGS = ("POST", "/containers/create"), ("PUT", "/archive"), ("POST", "/start"), ("GET", "/logs")
LIFE = [
    *((*call, fault) for call in (CREATE, FILL, START, LOGS) for fault in ("500", "reset")),
    (*CREATE, "cut"), (*CREATE, "after"), (*CREATE, "hang"), (*FILL, "hang"), (*START, "after"), (*LOGS, "hang"),
]  # fmt: skip
LIMIT_S = 3  # for one answer, so that a test need not wait for the minute of a run
Poll = Callable[[Callable[[], bool], float], bool]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what is logged; a wait is worth a line at once."""
    monkeypatch.setattr(waiting, "SILENCE_S", 0.05)
    caplog.set_level(logging.INFO, "tasks")
    return caplog


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Return a proxy before the engine, at which DOCKER_HOST points."""
    upstream = os.environ["DOCKER_HOST"].removeprefix("unix://")
    with contextlib.closing(FaultProxy(upstream, path=str(tmp_path / "docker.sock"))) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.address)
        yield proxy


def left(run_id: str) -> list[str]:
    """Return the containers of a run."""
    with engine() as client:
        return [found.name for found in client.containers.list(all=True, filters={"label": f"{LABEL}.run={run_id}"})]


def test_an_engine_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    """A socket that accepts and says nothing ends at the limit, with its address and the ways out."""
    monkeypatch.setattr(engines, "CONNECT_S", 0.5)
    address = f"unix://{tmp_path}/mute.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(address.removeprefix("unix://"))
        mute.listen()
        with pytest.raises(ServingUnavailable, match=f"engine answers at {address}: .*embedded") as caught, engine():
            pytest.fail("it has answered")
    assert "\n" not in str(caught.value)
    assert f"waiting for the Docker engine at {address}, " in said.text


@pytest.mark.docker
@pytest.mark.parametrize(("method", "path", "fault"), LIFE)
def test_at_each_call_of_a_containers_life(
    method: str,
    path: str,
    fault: str,
    proxy: FaultProxy,
    said: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    test_image: str,
    wait_for: Poll,
) -> None:
    """One call that goes wrong is one line, and what was created is removed, even where nobody heard that it was."""
    run_id = uuid.uuid4().hex
    proxy.rule = lambda asked, at: fault if asked == method and path in at else ""
    if fault in ("hang", "after"):
        monkeypatch.setattr(engines, "CALL_S", LIMIT_S)
    refused = pytest.raises(
        ServingUnavailable, match=r"^The Docker engine could not start the server: [^\n]+ or set serving.backend: emb"
    )
    with (
        contextlib.nullcontext() if path == "/logs" else refused,
        run_container(Serving(image=test_image), "half", HALF, run_id=run_id),
    ):
        assert path == "/logs", "a server was started"
    assert proxy.faults
    if path == "/logs":
        assert "could not be saved: The Docker engine could not return the server's log: " in said.text
    if fault in ("hang", "after"):
        assert "waiting for the Docker engine to " in said.text
    proxy.rule = lambda _method, _path: ""
    assert wait_for(lambda: left(run_id) == [], 600)  # the engine removes what it was asked to, if it takes long, too


@pytest.mark.docker
@pytest.mark.parametrize("fault", ["hang", "after", "500"])
def test_a_removal_that_goes_wrong(
    fault: str,
    proxy: FaultProxy,
    said: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    test_image: str,
) -> None:
    """An engine that does not remove hides no verdict: one line of warning, and the reaper's label stays on it."""
    run_id = uuid.uuid4().hex
    monkeypatch.setattr(engines, "CALL_S", LIMIT_S)
    with run_container(Serving(image=test_image), "half", HALF, run_id=run_id):
        proxy.rule = lambda asked, _path: fault if asked == "DELETE" else ""
    assert "could not be removed (" in said.text
    assert "a later run will remove it." in said.text
    proxy.rule = lambda _method, _path: ""
    for name in left(run_id):
        with engine() as client:
            client.api.remove_container(name, v=True, force=True)


@pytest.mark.docker
def test_a_pull_that_stalls(proxy: FaultProxy, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that says no more in the middle of a pull ends at the limit, in the one line of an absent image."""
    monkeypatch.setattr(container, "PULL_SILENCE_S", LIMIT_S)
    proxy.rule = lambda _method, path: "stall" if "/images/create" in path else ""
    name = "keras-rehearsal.invalid/absent:0"
    words = rf"^The image {name} is not available locally and could not be pulled: it sent nothing for .* s[^\n]+\Z"
    with pytest.raises(ServingUnavailable, match=words):
        ensure_image(Serving(image=name))
    assert f"waiting for the Docker engine to look for the image {name}, " in said.text
