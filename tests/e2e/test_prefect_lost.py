"""A Prefect API that dies in the middle of a run: what has become of production decides, and nobody waits for long."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fault_proxy import FaultProxy

Poll = Callable[[Callable[[], bool], float], bool]


@pytest.fixture
def alone(workspace: Any) -> Any:
    """Return a workspace without a configured Prefect API: its runs bring one along."""
    workspace.env.pop("PREFECT_API_URL")
    return workspace


def kill_the_api(pid: int) -> None:
    """Kill the temporary Prefect server of a run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"flows.temporary_server" in command and parent == str(pid):
            os.kill(int(entry.name), signal.SIGKILL)
            return
    pytest.fail("the run has no Prefect server of its own")


def reading(run: Any) -> tuple[list[str], list[str], Callable[[], None]]:
    """Read both streams of a run as they come, for an unread pipe would stop it; return them and what waits."""
    out: list[str] = []
    err: list[str] = []
    readers = [threading.Thread(target=to.extend, args=(of,)) for to, of in ((out, run.stdout), (err, run.stderr))]
    for reader in readers:
        reader.start()

    def ended() -> None:
        run.wait(900)
        for reader in readers:
            reader.join()

    return out, err, ended


def test_after_the_rename(alone: Any, open_server: Callable[[], Any], wait_for: Poll) -> None:
    """The version is live: the summary says so, exit 0, and Prefect's loss is a line of warning."""
    late = open_server()
    run = alone.start("--set", "training.epochs=3", "--set", "gates.metrics={accuracy: 0.1}",
                      "--set", f"promote.live_url={late.url}", "--set", "promote.live_timeout_s=600")  # fmt: skip
    out, err, ended = reading(run)
    assert wait_for(lambda: run.poll() is not None or alone.versions() == [1], 600), "".join(out)
    kill_the_api(run.pid)  # the run waits for production, which is not there yet
    late.watch(alone.models_root / "digits")
    ended()
    assert run.returncode == 0, "".join(out + err)
    assert "digits version 1 promoted: version 1 is live" in "".join(out)
    assert [line.partition(":")[0] for line in err] == ["warning"], "".join(err)
    assert "Prefect's API at http://127.0.0.1:" in err[0]
    assert alone.history()[-1] == (1, "live")


@pytest.mark.long
def test_after_an_approval(alone: Any, open_server: Callable[[], Any], wait_for: Poll) -> None:
    """What a person approved and production took is live: exit 0, and Prefect's loss is a line of warning."""
    settings = ("--set", "training.epochs=3", "--set", "gates.metrics={accuracy: 0.1}", "--set", "promote.mode=review")
    done = alone.run(*settings)
    assert done.returncode == 0, done.stdout + done.stderr
    late = open_server()
    live = ("--set", f"promote.live_url={late.url}", "--set", "promote.live_timeout_s=600")
    run = alone.start(*settings, *live, "--version", "1", "--approve", "--by", "ann", flow="promote")
    out, err, ended = reading(run)
    assert wait_for(lambda: run.poll() is not None or alone.versions() == [1], 600), "".join(out)
    kill_the_api(run.pid)
    late.watch(alone.models_root / "digits")
    ended()
    assert run.returncode == 0, "".join(out + err)
    assert "digits promoted: version 1 is live, approved by ann" in "".join(out)
    assert [line.partition(":")[0] for line in err] == ["warning"], "".join(err)
    assert "Prefect's API at http://127.0.0.1:" in err[0]


@pytest.mark.long
def test_in_the_training(alone: Any, wait_for: Poll) -> None:
    """Nothing has become of the run: exit 1 with one line of error, and nothing is live."""
    run = alone.start("--set", "training.epochs=300", "--set", "training.patience=0")
    out, err, ended = reading(run)
    assert wait_for(lambda: run.poll() is not None or any("epoch 3/" in line for line in out), 600), "".join(out)
    kill_the_api(run.pid)
    ended()
    assert run.returncode == 1, "".join(out + err)
    assert [line.partition(":")[0] for line in err] == ["error"], "".join(err)
    assert err[0].startswith("error: Prefect's API at http://127.0.0.1:"), err[0]
    assert alone.versions() == []


@pytest.fixture
def hanging(workspace: Any) -> Iterator[FaultProxy]:
    """Return a proxy between a workspace and the configured Prefect API, which a run gives a few seconds to answer."""
    address = urlsplit(workspace.env["PREFECT_API_URL"])
    proxy = FaultProxy(address.netloc)
    workspace.env |= {
        "PREFECT_API_URL": f"{proxy.address}{address.path}",
        "PREFECT_API_REQUEST_TIMEOUT": "8",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }
    yield proxy
    proxy.close()


def from_then_on(happened: Callable[[], bool]) -> Callable[[str, str], str]:
    """Return a rule by which an API hangs once something has come to hold; its stream of events never opens."""
    return lambda _method, path: "503" if "/events/" in path else "hang" if happened() else ""


@pytest.mark.long
def test_an_api_that_hangs_after_the_rename(workspace: Any, hanging: FaultProxy) -> None:
    """The version is live, so it is exit 0 with one line of warning; the screen says who is waited for."""
    hanging.rule = from_then_on(lambda: workspace.versions() == [1])
    done = workspace.run("--set", "training.epochs=3", "--set", "gates.metrics={accuracy: 0.1}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits version 1 promoted: version 1 is live" in done.stdout
    assert f"waiting for Prefect's API at {workspace.env['PREFECT_API_URL']}, 5 s so far" in done.stdout
    [line] = done.stderr.splitlines() if done.stderr.count("\n") == 1 else pytest.fail(done.stderr)
    assert line.startswith("warning: ")
    assert f"Prefect's API at {workspace.env['PREFECT_API_URL']} must answer, got ReadTimeout" in line


@pytest.mark.long
def test_an_api_that_hangs_from_the_start(workspace: Any, hanging: FaultProxy) -> None:
    """Nothing is trained: exit 1 with one line that names the address and the way out."""
    hanging.rule = from_then_on(lambda: True)
    done = workspace.run("--set", "training.epochs=3")
    assert done.returncode == 1, done.stdout + done.stderr
    [line] = done.stderr.splitlines() if done.stderr.count("\n") == 1 else pytest.fail(done.stderr)
    assert line.startswith(f"error: Prefect's API at {workspace.env['PREFECT_API_URL']} must answer, got ")
    assert line.endswith("; start it, or unset PREFECT_API_URL to use a temporary one")
    assert "epoch" not in done.stdout
    assert workspace.versions() == []
