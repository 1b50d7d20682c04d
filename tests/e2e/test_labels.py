"""promote.layout: labels: models.config says what serves as stable and as canary, and every client gets that."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
QUICK = ("--set", "training.epochs=3", "--set", "gates.metrics.accuracy={min: 0.3, worse_by: 0.5}")
ROW = json.dumps({"instances": [[float(n % 17) for n in range(64)]]}).encode()
Poll = Callable[[Callable[[], bool], float], bool]


def start(server: Any, user: Any) -> None:
    """Start production as the command line says."""
    server.start(
        f"--model_config_file={user.models_root / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
    )


@pytest.fixture(scope="module")
def production(open_server: Callable[[], Any]) -> Any:
    """Return the production server, which is not started yet."""
    return open_server()


@pytest.fixture(scope="module")
def options(production: Any) -> tuple[str, ...]:
    """Return the options of every command here."""
    return (*QUICK, "--set", "promote.layout=labels", "--set", f"promote.live_url={production.url}")


@pytest.fixture(scope="module")
def first(user: Any, production: Any, options: tuple[str, ...], wait_for: Poll) -> str:
    """Return what a first run said that began with no production at all; it is started as the run says."""
    run = user.start(*options)
    config = user.models_root / "models.config"
    assert wait_for(lambda: run.poll() is not None or config.exists(), 600)
    start(production, user)
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, out + err
    return str(out)


@dataclass
class Client:
    """Asks for one label without a pause and keeps every answer."""

    ask: Callable[[], tuple[int, Any]]
    answers: list[tuple[int, Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.is_set():
            answer = self.ask()
            if not self.answers or self.answers[-1] != answer:
                self.answers.append(answer)


@pytest.fixture
def stable_client(production: Any, first: str) -> Iterator[Client]:
    """Return a client of the label stable that is at it during the whole test."""
    client = Client(lambda: production.ask("/labels/stable:predict", ROW))
    thread = threading.Thread(target=client.run)
    thread.start()
    yield client
    client.ended.set()
    thread.join()


def answer_of(production: Any, version: int) -> tuple[int, Any]:
    """Return what one version answers to the row."""
    found: tuple[int, Any] = production.ask(f"/versions/{version}:predict", ROW)
    assert found[0] == 200, found
    return found


def labels(user: Any, name: str = "digits") -> dict[str, int]:
    """Return the labels of one model in models.config."""
    from tasks.store.serving_config import labels_of

    return labels_of(user.models_root / name)


def test_nothing_ran_before(user: Any, production: Any, first: str, wait_for: Poll) -> None:
    """A run that finds no production says how to start it, waits for it, and its version is stable there."""
    assert f"no server answers at promote.live_url {production.url}" in first
    assert f"--model_config_file={user.models_root / 'models.config'}" in first
    assert "digits version 1 promoted: version 1 is live" in first
    assert labels(user) == {"stable": 1}
    assert wait_for(lambda: production.ask("/labels/stable:predict", ROW) == answer_of(production, 1), 600)


def test_a_canary_is_beside(
    user: Any, production: Any, options: tuple[str, ...], stable_client: Client, wait_for: Poll
) -> None:
    """A second promotion is served as canary; stable clients get version 1 all the while; the alias is canary."""
    done = user.run(*options, "--set", "seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits version 2 canary: version 2 is the canary" in done.stdout
    assert "--to stable" in done.stdout
    assert labels(user) == {"stable": 1, "canary": 2}
    assert production.serving() == [1, 2]
    assert wait_for(lambda: production.ask("/labels/canary:predict", ROW) == answer_of(production, 2), 600)
    assert stable_client.answers == [answer_of(production, 1)]
    assert answer_of(production, 1) != answer_of(production, 2)
    aliases, found = user.registry()
    assert (aliases["champion"], aliases["canary"]) == (1, 2)
    assert found[1].tags["promotion"] == "canary"


def test_a_canary_is_no_way_back(user: Any, options: tuple[str, ...], production: Any) -> None:
    """A rollback while a canary stands beside the only stable version has nothing to go back to."""
    done = user.run(*options, flow="rollback")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stdout + done.stderr
    assert labels(user) == {"stable": 1, "canary": 2}


def test_an_experiment_on_users(
    user: Any, production: Any, options: tuple[str, ...], stable_client: Client, wait_for: Poll
) -> None:
    """Both versions repeat their recorded answers under labels of their own; a stop restores models.config."""
    config = user.models_root / "models.config"
    before = config.read_text()
    done = user.run(*options, "--versions", "1,2", "--shares", "50,50", "--name", "trial", "--by", "ann", flow="ab")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits in experiment: trial: a: version 1 (50 %), b: version 2 (50 %)" in done.stdout
    assert "waiting for version 2 as 'b'" in done.stdout
    assert "only checking that" not in done.stdout
    assert labels(user) == {"stable": 1, "canary": 2, "a": 1, "b": 2}
    for label, version in (("a", 1), ("b", 2)):
        assert production.ask(f"/labels/{label}:predict", ROW) == answer_of(production, version)
    assert user.registry()[1][1].tags["experiment"].startswith("trial, label b, 50 %, since ")
    done = user.run(*options, "--stop", "--by", "bob", flow="ab")
    assert done.returncode == 0, done.stdout + done.stderr
    assert config.read_text() == before
    assert wait_for(lambda: production.ask("/labels/b:predict", ROW)[0] == 400, 600)
    assert stable_client.answers == [answer_of(production, 1)]


def test_the_canary_becomes_stable(
    user: Any, production: Any, options: tuple[str, ...], stable_client: Client, wait_for: Poll
) -> None:
    """--to stable moves the label: clients get version 1, then version 2, never an error; the champion follows."""
    done = user.run(*options, "--to", "stable", "--by", "ann", flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert labels(user)["stable"] == 2
    expected = [answer_of(production, 1), answer_of(production, 2)]
    assert wait_for(lambda: stable_client.answers == expected, 600), stable_client.answers
    assert user.registry()[0]["champion"] == 2
    again = user.run(*options, "--to", "stable", flow="promote")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1), again.stderr
    assert "has no canary besides version 2" in again.stderr


def test_a_rollback_moves_the_label(
    user: Any, production: Any, options: tuple[str, ...], stable_client: Client, wait_for: Poll
) -> None:
    """A rollback makes the former version stable without a new number, and leaves no canary that was rolled back."""
    done = user.run(*options, flow="rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert user.versions() == [1, 2]
    assert labels(user)["stable"] == 1
    expected = [answer_of(production, 2), answer_of(production, 1)]
    assert wait_for(lambda: stable_client.answers == expected, 600), stable_client.answers
    assert user.registry()[0]["champion"] == 1
    assert labels(user) == {"stable": 1, "canary": 1}
    again = user.run(*options, "--to", "stable", flow="promote")
    assert again.returncode == 1, again.stdout + again.stderr
    assert labels(user)["stable"] == 1


def test_a_label_only_moves_to_what_is_served(
    user: Any, production: Any, options: tuple[str, ...], stable_client: Client, unused_address: str
) -> None:
    """A version that is not seen AVAILABLE gets no label: exit 1 with the reason, and label and clients stay."""
    before, answer = labels(user), answer_of(production, 1)
    elsewhere = ("--set", f"promote.live_url={unused_address}", "--set", "promote.live_timeout_s=3")
    done = user.run(*options, *elsewhere, "--to", "2", flow="rollback")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not AVAILABLE after 3 s" in done.stderr.splitlines()[-1]
    assert "version 1 is still live" in done.stderr.splitlines()[-1]
    assert labels(user) == before
    assert stable_client.answers == [answer]


def test_two_models_in_one_file(
    user: Any, production: Any, options: tuple[str, ...], stable_client: Client, wait_for: Poll
) -> None:
    """Another model's promotion into the same models.config leaves the first one's entry and clients alone."""
    before, answer = labels(user), answer_of(production, 1)
    done = user.run(*options, "--set", "name=second", "--set", "seed=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert labels(user, "second") == {"stable": 1}
    assert labels(user) == before
    assert wait_for(lambda: production.ask("/labels/stable:predict", ROW, name="second")[0] == 200, 600)
    assert stable_client.answers == [answer]


def test_production_starts_again(user: Any, production: Any, first: str, wait_for: Poll) -> None:
    """Production that is started anew on the file serves the same labels."""
    expected = production.ask("/labels/stable:predict", ROW)
    production.stop()
    start(production, user)
    assert wait_for(lambda: production.ask("/labels/stable:predict", ROW) == expected, 600)
    assert production.ask("/labels/stable:predict", ROW, name="second")[0] == 200


def test_labels_need_a_server_to_look_at(user: Any) -> None:
    """Without promote.live_url the layout is a configuration error, before anything runs."""
    done = user.run("--set", "promote.layout=labels")
    assert done.returncode == 2
    assert "live_url" in done.stderr
