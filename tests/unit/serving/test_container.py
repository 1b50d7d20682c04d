"""What a container is asked for, and where its engine is."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.sections.serving import Serving
from tasks import waiting
from tasks.errors import ServingUnavailable
from tasks.serving import container
from tasks.serving.container import _pull, _to_its_end, ensure_image, hardening, publishing
from tasks.serving.engine import engine_address, rest_host


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("unix:///var/run/docker.sock", "127.0.0.1"),
        ("npipe:////./pipe/docker_engine", "127.0.0.1"),
        ("tcp://127.0.0.1:2375", "127.0.0.1"),
        ("tcp://localhost:2375", "127.0.0.1"),
        ("tcp://[::1]:2375", "127.0.0.1"),
        ("tcp://build.example:2376", "build.example"),
        ("tcp://[2001:db8::7]:2376", "[2001:db8::7]"),
        ("ssh://me@gpu.example:22", "gpu.example"),
    ],
)
def test_the_rest_host_follows_the_engine(address: str, host: str) -> None:
    """A local engine publishes on loopback, a remote one on its own host."""
    assert rest_host(address) == host


@pytest.mark.parametrize(
    ("address", "published"), [("unix:///x.sock", "127.0.0.1"), ("ssh://me@gpu.example", "0.0.0.0")]
)
def test_only_a_remote_engine_publishes_beyond_loopback(
    monkeypatch: pytest.MonkeyPatch, address: str, published: str
) -> None:
    """A port of a local engine is open to this machine alone; the engine chooses its number."""
    monkeypatch.setenv("DOCKER_HOST", address)
    assert publishing("") == {"ports": {"8501/tcp": (published, None), "8500/tcp": (published, None)}}


def test_beside_the_server_no_port_is_published() -> None:
    """A process in a container of the same engine joins the server's network instead of publishing a port."""
    assert publishing("bridge") == {"network": "bridge"}


def test_docker_host_comes_before_any_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine is DOCKER_HOST where that is set, else the usual socket."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert engine_address() == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://build.example:2376")
    assert engine_address() == "tcp://build.example:2376"


def test_no_processor_limit_unless_asked_for() -> None:
    """`cpus: 0` is no limit, and swap never adds to the memory limit."""
    assert hardening(Serving(cpus=0))["nano_cpus"] is None
    limits = hardening(Serving(cpus=1.5, memory_mb=300))
    assert limits["nano_cpus"] == 1_500_000_000
    assert limits["mem_limit"] == limits["memswap_limit"] == "300m"


def test_without_an_engine_there_is_one_line_with_the_address_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An absent engine gives a single line: what is missing, where it was sought, what to do."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ServingUnavailable) as caught:
        ensure_image(Serving())
    assert str(caught.value) == (
        f"No Docker engine answers at unix://{tmp_path}/none.sock: No such file or directory. "
        "Start it, set DOCKER_HOST, or set serving.backend: embedded."
    )


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1", "ssh://me@127.0.0.1:1"])
def test_a_senseless_or_refused_address_is_an_absent_engine(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Whatever DOCKER_HOST holds, the error is the one for an absent engine."""
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(ServingUnavailable, match=f"No Docker engine answers at {address}"):
        ensure_image(Serving())


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_while_the_thread_of_a_call_is_started(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has begun by then is waited for; one that has not never begins."""
    begin, may_end = threading.Event(), threading.Event()
    calls: list[str] = []
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        monkeypatch.setattr(threading.Thread, "start", start)
        if begun:
            start(thread)
            assert begin.wait(600)
        raise KeyboardInterrupt

    def call() -> None:
        calls.append("begun")
        begin.set()
        assert may_end.wait(600)
        calls.append("ended")

    def waiting(outcomes: list[Future[None]]) -> None:
        may_end.set()
        wait(outcomes, 600)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(container, "wait", waiting)
    with pytest.raises(KeyboardInterrupt):
        _to_its_end(call)
    assert calls == (["begun", "ended"] if begun else [])
    if not begun:
        start(threads[0])  # the operating system gets round to it only now
        threads[0].join(600)
        assert calls == []


def test_a_pull_is_named_while_a_layer_takes_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each layer has its line, and between them the pull has one every few seconds."""
    said = threading.Event()

    def pull(*_words: object, **_options: object) -> Iterator[dict[str, str]]:
        yield {"status": "Pulling fs layer", "id": "a"}
        assert said.wait(600)
        yield {"status": "Pull complete", "id": "a"}

    monkeypatch.setattr(waiting, "SILENCE_S", 0.001)
    monkeypatch.setattr(waiting.log, "info", lambda _words, whom, _seconds: whom == "the pull of x:1" and said.set())
    with caplog.at_level("INFO", "tasks"):
        _pull(SimpleNamespace(api=SimpleNamespace(pull=pull)), "x:1", "")  # type: ignore[arg-type]
    assert caplog.messages == ["Pulling x:1", "Pulling x:1: 1 of 1 layers"]
