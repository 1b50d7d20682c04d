"""One command takes the champion back: the bytes that served before, verified live, whoever else is down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
QUICK = ("--set", "training.epochs=3", "--set", "gates.metrics.accuracy={min: 0.3, worse_by: 0.5}")


@pytest.fixture(scope="module")
def production(open_server: Callable[[], Any], user: Any) -> Any:
    """Return the production server."""
    server = open_server()
    server.watch(user.models_root / "digits")
    return server


@pytest.fixture(scope="module")
def roll_back(user: Any, production: Any) -> Callable[..., Any]:
    """Return a function that rolls back and returns the finished process."""

    def rolling(*args: str) -> Any:
        return user.run("--set", f"promote.live_url={production.url}", *args, flow="rollback")

    return rolling


@pytest.fixture(scope="module")
def one(user: Any, production: Any) -> None:
    """Have version 1 in production."""
    done = user.run(*QUICK, "--set", f"promote.live_url={production.url}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(user: Any, production: Any, one: None) -> None:
    """Have version 2 in production, after version 1."""
    done = user.run(*QUICK, "--set", f"promote.live_url={production.url}", "--set", "seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flows.rollback" in done.stdout


def refused(done: Any, words: str) -> None:
    """Assert one line on stderr, exit code 1, nothing on stdout."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stdout + done.stderr
    assert words in done.stderr


def test_nothing_has_served(workspace: Any) -> None:
    """Without any version a rollback is one line and exit code 1, and leaves no version."""
    refused(workspace.run(flow="rollback"), "a rollback needs a live version")
    assert workspace.versions() == []


def test_nothing_to_go_back_to(user: Any, one: None, roll_back: Callable[..., Any]) -> None:
    """The only version that ever served cannot be rolled back: one line, exit code 1, it serves on."""
    refused(roll_back(), "version 1 of 'digits' has none before it")
    refused(roll_back("--to", "7"), "--to must be a version that was in production, got 7; these were: 1")
    refused(roll_back("--to", "1"), "version 1 of 'digits' is live")
    assert user.versions() == [1]


def test_one_version_back(
    user: Any,
    two: None,
    production: Any,
    roll_back: Callable[..., Any],
    ask_prefect: Callable[[str, dict[str, object]], Any],
) -> None:
    """The old bytes serve again under the next number, and alias, tags, history and Prefect's page say so."""
    done = roll_back("--by", "ann")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits promoted: version 3 is live, rollback from version 2 to the bytes of version 1" in done.stdout
    assert "validated answers are gone" not in done.stdout  # the files of the run of version 1 are still there
    assert user.tree(user.models_root / "digits" / "3") == user.tree(user.models_root / "digits" / "1")
    assert production.serving() == [3]  # already, for the command has waited for it
    aliases, (old, bad) = user.registry()
    assert aliases["champion"] == 1
    assert (old.tags["promotion"], old.tags["serving_version"]) == ("promoted", "3")
    assert (bad.tags["promotion"], "rollback from version 2" in bad.tags["reason"]) == ("rolled back", True)
    assert sorted(user.history()[-2:]) == [(2, "rolled back"), (3, "live")]
    wanted = {"artifacts": {"key": {"any_": ["digits-production"]}}, "sort": "CREATED_DESC", "limit": 1}
    [shown] = ask_prefect("/artifacts/filter", wanted)
    assert "rollback from version 2" in shown["data"]


def test_not_back_to_what_was_bad(user: Any, two: None, roll_back: Callable[..., Any]) -> None:
    """A second rollback does not bring the bad version back by itself, and names how one may ask for it."""
    refused(roll_back(), "set --to N to a version that was rolled back itself: 2")
    assert user.versions() == [1, 2, 3]


def test_a_rollback_is_rolled_back(user: Any, two: None, production: Any, roll_back: Callable[..., Any]) -> None:
    """--to takes a rollback back: the bytes of version 2 serve again, as version 4."""
    done = roll_back("--to", "2", "--by", "bob")
    assert done.returncode == 0, done.stdout + done.stderr
    assert production.serving() == [4]
    assert user.tree(user.models_root / "digits" / "4") == user.tree(user.models_root / "digits" / "2")
    assert user.registry()[0]["champion"] == 2


def test_neither_mlflow_nor_prefect_is_needed(
    user: Any, two: None, production: Any, roll_back: Callable[..., Any], unused_address: str
) -> None:
    """With MLflow and Prefect down a rollback is done, exit code 0, with a warning each; the doctor tells MLflow."""
    address = user.env["PREFECT_API_URL"]
    user.env["PREFECT_API_URL"] = f"{unused_address}/api"
    try:
        done = roll_back("--to", "1", "--set", f"tracking.uri={unused_address}")
    finally:
        user.env["PREFECT_API_URL"] = address
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 5 is live" in done.stdout
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["warning", "warning"], done.stderr
    assert "MLflow is not updated yet; the next promotion or the doctor will do it" in done.stderr
    assert production.serving() == [5]
    assert user.registry()[0]["champion"] == 2
    told = user.run(flow="doctor")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "was sent to MLflow" in told.stdout
    assert user.registry()[0]["champion"] == 1


def test_without_anything_beside_the_live_versions(user: Any, two: None, production: Any, roll_back: Any) -> None:
    """With the whole work_dir gone a rollback still is one command; the screen says what is not compared."""
    shutil.rmtree(user.work_dir)
    done = roll_back("--to", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its validated answers are gone" in done.stdout
    assert production.serving() == [6]
