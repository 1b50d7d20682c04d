"""A production server is looked at after every promotion; what it does not serve as validated is taken back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
QUICK = ("--set", "training.epochs=3", "--set", "gates.metrics.accuracy={min: 0.3, worse_by: 0.5}")
APPROVE = ("--version", "2", "--approve", "--by", "ann")
Poll = Callable[[Callable[[], bool], float], bool]


def at(url: str, timeout_s: float = 60) -> tuple[str, ...]:
    """Return the options that have production at an address."""
    return (*QUICK, "--set", f"promote.live_url={url}", "--set", f"promote.live_timeout_s={timeout_s}")


@pytest.fixture(scope="module")
def production(open_server: Callable[[], Any], user: Any) -> Any:
    """Return the production server, which was started before there was anything to serve."""
    server = open_server()
    server.watch(user.models_root / "digits")
    return server


@pytest.fixture(scope="module")
def first(user: Any, production: Any) -> Any:
    """Return a first run, verified in production."""
    done = user.run(*at(production.url))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def second(user: Any, first: Any, impostor: Any) -> Any:
    """Return a run whose version 2 production answers otherwise: another model has that name and number there."""
    return user.run(*at(impostor.url), "--set", "seed=1")


@pytest.fixture(scope="module")
def impostor(user: Any, first: Any, open_server: Callable[[], Any]) -> Any:
    """Return a server that serves the bytes of version 1 as version 2, too."""
    root = user.directory / "elsewhere" / "digits"
    shutil.copytree(user.models_root / "digits" / "1", root / "2")
    server = open_server()
    server.watch(root)
    assert server.comes_to_serve(2)
    return server


def is_back(user: Any, production: Any, number: int, why: str) -> None:
    """Assert that a version was taken back, and that everything says so."""
    assert user.versions() == [1]
    assert production.comes_to_serve(1)
    aliases, found = user.registry()
    assert aliases["champion"] == 1
    assert (found[-1].tags["promotion"], found[0].tags["promotion"]) == ("rolled back", "promoted")
    assert why in found[-1].tags["reason"]
    assert user.history()[-1] == (number, "rolled back")


def test_a_version_is_seen_available_first(user: Any, first: Any, production: Any) -> None:
    """A first promotion into a server that waits for it is verified there before the run ends."""
    assert f"waiting for version 1 at {production.url}" in first.stdout
    assert production.serving() == [1]
    assert user.history()[-1] == (1, "live")


def test_a_difference_rolls_back(
    user: Any, second: Any, production: Any, ask_prefect: Callable[[str, dict[str, object]], Any]
) -> None:
    """Other answers than the validated ones: exit 1, state RolledBack, and what served before serves again."""
    assert second.returncode == 1, second.stdout + second.stderr
    assert second.stderr.count("\n") == 1
    assert "answers version 2 differently than validated" in second.stderr
    [newest] = ask_prefect("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert newest["state"]["name"] == "RolledBack"
    assert "differently than validated" in newest["state"]["message"]
    is_back(user, production, 2, "differently than validated")


def test_nobody_there_rolls_back(user: Any, second: Any, production: Any, unused_address: str) -> None:
    """Production that does not answer in time: exit 1; the screen has said how it is started."""
    done = user.run(*at(unused_address, 2), *APPROVE, flow="promote")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not AVAILABLE after 2 s" in done.stderr
    assert f"--model_base_path={user.models_root / 'digits'}" in done.stdout
    is_back(user, production, 3, "not AVAILABLE after 2 s")


def test_bytes_that_do_not_load_roll_back(
    user: Any, second: Any, production: Any, open_server: Callable[[], Any]
) -> None:
    """A server that ends at loading (its copy of the bytes is damaged) is END, and at once, not at the deadline."""
    root = user.directory / "mirror" / "digits"
    shutil.copytree(user.models_root / "digits" / "1", root / "1")
    server = open_server()
    server.watch(root)
    assert server.comes_to_serve(1)
    shutil.copytree(user.work_dir / "candidates" / "digits" / "2", root / ".4")
    (root / ".4" / "variables" / "variables.index").write_bytes(b"cut")
    (root / ".4").rename(root / "4")
    done = user.run(*at(server.url, 600), *APPROVE, flow="promote")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "version 4 ended with:" in done.stderr
    is_back(user, production, 4, "version 4 ended with:")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_an_interrupt_while_production_is_asked(
    user: Any, second: Any, unused_address: str, wait_for: Poll, number: int
) -> None:
    """Ended between the rename and the verdict: 130, and the screen names the version and the command that decides."""
    run = user.start(*at(unused_address, 300), *APPROVE, flow="promote")
    assert wait_for(lambda: run.poll() is not None or len(user.versions()) == 2, 600)
    [version] = set(user.versions()) - {1}
    os.killpg(run.pid, number)
    out, err = run.communicate(timeout=600)
    assert run.returncode == 130, out + err
    assert f"interrupted; the publish of version {version} is not finished" in err.splitlines()[-1]
    assert "python -m flows.doctor --config" in err.splitlines()[-1]
    looked = user.run(*at(unused_address, 1), "--check", flow="doctor")
    assert (looked.returncode, user.versions()) == (1, [1, version]), looked.stdout
    assert f"the publish of version {version} would be finished" in looked.stdout
    mended = user.run(*at(unused_address, 1), flow="doctor")
    assert f"finished: the publish of version {version}: rolled back" in mended.stdout, mended.stdout + mended.stderr
    assert user.versions() == [1]


def test_mlflow_down_when_production_is_changed(
    user: Any, second: Any, production: Any, open_server: Callable[[], Any], wait_for: Poll
) -> None:
    """MLflow that is gone at the last step: live all the same, exit 0 with a warning; the doctor tells it later."""
    late = open_server()
    run = user.start(*at(late.url), *APPROVE, flow="promote")
    assert wait_for(lambda: run.poll() is not None or len(user.versions()) == 2, 600)
    version = max(user.versions())
    database = user.directory / "mlflow.db"
    database.rename(user.directory / "away.db")
    database.mkdir()  # a database that cannot be opened, by no user
    late.watch(user.models_root / "digits")
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, out + err
    assert f"version {version} is live, approved by ann, by a tag in MLflow, but MLflow could not be updated; " in out
    assert production.comes_to_serve(version)
    down = user.run(*at(late.url), flow="doctor")
    assert (down.returncode, "could not be sent to MLflow" in down.stdout) == (1, True), down.stdout
    database.rmdir()
    (user.directory / "away.db").rename(database)
    assert user.registry()[0]["champion"] == 1
    told = user.run(*at(late.url), flow="doctor")
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"finished: the publish of version {version} was sent to MLflow" in told.stdout
    assert user.registry()[0]["champion"] == 2
    assert user.run(flow="doctor").stdout == "'digits' is in order\n"
