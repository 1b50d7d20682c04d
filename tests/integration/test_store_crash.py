"""A process that is killed before any of its file-system calls leaves nothing that a server or the next run minds.

The suite kills at every 101st call; those with the mark `long` kill at every call.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.proof.chain import chain_problems
from tasks.savedmodel.manifest import hash_files
from tasks.store.champion import champion_version
from tasks.store.experiment import running
from tasks.store.history import NOTES, SERVED, read, served_digest, state_of
from tasks.store.journal import pending
from tasks.store.layout import STAGING, versions
from tasks.store.publish import PRUNED
from tasks.store.serving_config import MODELS_CONFIG, labels_of, listed_versions
from tasks.store.transaction import CANARY, STABLE, untold
from tests.integration.model_server.conftest import RunningServer, ServerStarter
from tests.store_driver import SIGNER, Store

pytestmark = pytest.mark.timeout(3600)

STEPS = [101, pytest.param(1, marks=pytest.mark.long)]  # from one call that is killed to the next
points: dict[int, Counter[str]] = {101: Counter(), 1: Counter()}


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest) -> int:
    """Return how many calls lie between two that are killed."""
    return int(request.param)


class Driver:
    """The process that forks, and dies in, each change."""

    def __init__(self) -> None:
        script = Path(__file__).parents[1] / "store_driver.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, store: Store, kill_at: int, operation: str, *args: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        command = {"store": store.to_json(), "kill_at": kill_at, "operation": operation, "args": args}
        print(json.dumps(command), file=self.process.stdin, flush=True)
        answer = dict(json.loads(self.process.stdout.readline()))
        assert "error" not in answer, answer
        assert (answer["signal"] == 9) == ("killed_before" in answer)
        return answer

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=600)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """Start one driver."""
    started = Driver()
    yield started
    started.close()


class Production:
    """An embedded server that watches a live directory, and a client that never stops asking it."""

    def __init__(self, server: RunningServer, store: Store, url: str) -> None:
        self.server, self.url = server, url
        self.store = dataclasses.replace(store, url=url)
        # under `latest` nothing needs to wait for the server; a label does
        self.quick = dataclasses.replace(store, url=url if store.layout == "labels" else "")
        self.answers = 0
        self.wrong: list[Any] = []
        self._done = threading.Event()
        self._asking = threading.Thread(target=self._ask)
        self._asking.start()

    def _ask(self) -> None:
        while not self._done.wait(0.02):
            try:
                status, answer = self.server.predict("m", {"instances": [[1.0]]})
            except OSError as exc:
                status, answer = 0, str(exc)
            if status != 200 or answer["predictions"][0][0] not in (2.5, 3.5, 4.5):
                self.wrong.append((status, answer))
            self.answers += 1

    def settle(self) -> None:
        """Wait until the server has loaded the version that serves: no client of a real one changes it faster."""
        champion = champion_version(self.store.live, self.store.layout)
        self.server.wait_for(lambda: self.server.states("m").get(str(champion)) == "AVAILABLE", 600)

    def check(self) -> None:
        """It lives, has answered every request, and has failed to load nothing."""
        assert self.server.process.poll() is None, self.server.log
        assert "failed" not in self.server.log.lower(), self.server.log
        assert self.wrong == []

    def close(self) -> None:
        self._done.set()
        self._asking.join()


@pytest.fixture(scope="module")
def latest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Serve the highest version of a directory in which two have been live."""
    yield from _production(tmp_path_factory.mktemp("latest"), "latest")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Serve what models.config says, where one version is stable and has a predecessor."""
    yield from _production(tmp_path_factory.mktemp("labels"), "labels")


def _production(root: Path, layout: Any) -> Iterator[Production]:
    store = Store(root / "live" / "m", root / "candidates", root / "aliases.json", layout)
    store.promote(store.export())
    flags = ["--model_name=m", f"--model_base_path={store.live}", "--file_system_poll_wait_seconds=1"]
    if layout == "labels":
        flags = [f"--model_config_file={store.live.parent / MODELS_CONFIG}", "--model_config_file_poll_wait_seconds=1"]
        flags.append("--allow_version_labels_for_unavailable_models=true")  # or none starts on a file with labels
    starting = ServerStarter()
    try:
        server = starting.start(*flags, "--max_num_load_retries=0")
        running = Production(server, store, f"http://127.0.0.1:{server.rest_port}")
        try:
            running.store.promote(store.export())
            if layout == "labels":
                running.store.make_stable()
            running.settle()
            yield running
            running.settle()
            running.check()
            assert running.answers > 10
        finally:
            running.close()
    finally:
        starting.stop_all()


def seen(store: Store) -> dict[int, str]:
    """Return number to digest of what a server sees, each complete and validated under that number."""
    found = {}
    for version, path in versions(store.live).items():
        found[version] = hash_files(path).digest
        validated = {e.digest for e in read(store.live) if e.version == version and e.state in ("validated", *SERVED)}
        if validated:
            assert found[version] in validated
        else:  # a rollback that was killed behind its rename: bytes that have served under another number
            assert found[version] in {e.digest for e in read(store.live) if e.state in SERVED}
    return found


def check_in_order(store: Store) -> None:
    """Nothing is under way, left behind, lost or doubled, and directory, history, labels and registry agree."""
    assert pending(store.live) is None
    assert chain_problems(store.live, SIGNER.publics) == []
    assert untold(store.live) == {}
    left = [p for top in (store.live, store.candidates) for p in top.rglob("*") if p.name.startswith((STAGING, PRUNED))]
    assert [path for path in left if path.name != f"{STAGING}highest"] == []  # which the next number replaces
    entries, live = read(store.live), seen(store)
    champion = champion_version(store.live, store.layout)
    assert champion is not None
    assert state_of(entries, champion) == "live"
    assert store.aliases["champion"] == live[champion]
    digests: dict[int, set[str]] = {}
    for entry in entries:
        if entry.state in SERVED:
            digests.setdefault(entry.version, set()).add(entry.digest)
    assert all(len(found) == 1 for found in digests.values())  # no number was ever used for two
    assert {version: digests[version] for version in live} == {version: {digest} for version, digest in live.items()}
    for version in digests.keys() - live.keys():
        assert state_of(entries, version) == "pruned" or any(store.live.glob(f".withdrawn-{version}-*"))
    serving = [version for version in digests if state_of(entries, version) == "live"]
    assert serving == [champion]
    if store.layout == "labels":
        check_experiment(store)
        assert labels_of(store.live)[STABLE] == champion
        assert {*labels_of(store.live).values()} <= {*listed_versions(store.live)} <= live.keys()
        canary = labels_of(store.live).get(CANARY)
        assert canary is None or store.aliases["canary"] == live[canary]


def check_experiment(store: Store) -> None:
    """Record, labels, history and registry agree about whether an experiment runs, and with which versions."""
    known, labels = running(store.live), labels_of(store.live)
    assert (known is not None) == ("experiment" in store.aliases)
    noted = {entry.version: entry.state for entry in read(store.live) if entry.state in NOTES}
    if known is None:
        assert labels.keys() <= {STABLE, CANARY}
        assert "in experiment" not in noted.values()
        return
    entries = read(store.live)
    assert [version for version, state in noted.items() if state == "in experiment"] == [
        arm.version for arm in known.arms
    ]
    for arm in known.arms:
        rolled_back = state_of(entries, arm.version) == "rolled back"
        assert labels[arm.label] == (champion_version(store.live, "labels") if rolled_back else arm.version)


def used_numbers(store: Store) -> set[int]:
    return {entry.version for entry in read(store.live)} | versions(store.live).keys()


def summary(store: Store) -> Any:
    """Return what a change changes: versions, the states of those that were live, labels, aliases."""
    entries = read(store.live)
    states = {version: state_of(entries, version) for version in used_numbers(store) if served_digest(entries, version)}
    return (
        seen(store), states, labels_of(store.live), listed_versions(store.live), store.aliases, running(store.live)
    )  # fmt: skip


def publish(production: Production) -> list[Any]:
    """Make another version live, undisturbed: what was killed before stands in nobody's way."""
    store, numbers = dataclasses.replace(production.quick, keep=3), used_numbers(production.store)
    if store.layout == "labels" and running(store.live):
        assert store.end() == "live"
    version = store.export()
    assert version > max(numbers)
    assert store.promote(version) == "live"
    if store.layout == "labels":
        assert store.make_stable() == "live"
    assert champion_version(store.live, store.layout) == version
    return []


def publish_and_export(production: Production) -> list[Any]:
    """Have a candidate beside what is live; return its number."""
    publish(production)
    return [production.store.export()]


def publish_several(production: Production) -> list[Any]:
    """Have more live versions than are to be kept."""
    publish(production)
    for _ in range(2):
        production.quick.promote(production.store.export())
    return []


def publish_and_canary(production: Production) -> list[Any]:
    """Have a canary beside the stable version."""
    publish(production)
    production.store.promote(production.store.export())
    return []


def publish_and_two_canaries(production: Production) -> list[Any]:
    """Have a version that was the canary and that no server has loaded; return it with the stable one."""
    publish_and_canary(production)
    former = labels_of(production.store.live)[CANARY]
    production.store.promote(production.store.export())
    return [former, labels_of(production.store.live)[STABLE]]


def publish_and_experiment(production: Production) -> list[Any]:
    """Have the stable version and the canary in an experiment."""
    publish_and_canary(production)
    assert production.store.experiment() == "live"
    return []


@dataclasses.dataclass(frozen=True)
class Change:
    """One change that is killed at every call: how the ground for it is laid, and how else the store is set."""

    operation: str
    arrange: Callable[[Production], list[Any]]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def kill_at_every_call(
    step: int, driver: Driver, production: Production, change: Change, name: str, first_kill: int = 0
) -> None:
    """Kill a change before each `step`-th of its calls; then look as a server, the doctor and the next run do.

    Args:
        first_kill: if given, kill a promotion before this call of its, and then the doctor before each of hers.
    """
    store = dataclasses.replace(production.store, **change.settings)
    for kill_at in itertools.count(1 + len(name) % step, step):
        args = change.arrange(production)
        production.settle()
        before, numbers = summary(store), used_numbers(store)
        if first_kill:
            driver(store, first_kill, "promote", *args)
        answer = driver(store, kill_at, change.operation, *([] if first_kill else args))
        seen(store)
        store.repair()
        check_in_order(store)
        production.check()
        after = summary(store)
        for version in after[0].keys() - before[0].keys():
            assert version > max(before[0]), "numbers go up"
            assert version in args or version not in numbers, "and are never used again"
        if "killed_before" not in answer:
            return
        points[step][name] += 1
        if kill_at == 1 and not first_kill:
            assert after == before


LATEST = {
    "promote": Change("promote", publish_and_export, {"keep": 3, "url": ""}),
    "promote, withdrawn": Change("promote", publish_and_export, {"refuses": True}),
    "rollback": Change("rollback", publish, {"keep": 3, "url": ""}),
    "rollback, withdrawn": Change("rollback", publish, {"refuses": True}),
    "prune": Change("prune", publish_several, {"keep": 1}),
    "export": Change("export", publish),
}
LABELS = {
    "canary": Change("promote", publish_and_export, {"keep": 3}),
    "canary, withdrawn": Change("promote", publish_and_export, {"refuses": True}),
    "label": Change("make_stable", publish_and_canary, {"keep": 3}),
    "label, refused": Change("make_stable", publish_and_canary, {"refuses": True}),
    "label back": Change("rollback", publish, {"keep": 3}),
    "experiment": Change("experiment", publish_and_two_canaries),
    "experiment, refused": Change("experiment", publish_and_two_canaries, {"refuses": True}),
    "experiment, labels refused": Change("experiment", publish_and_canary, {"refuses_labels": True}),
    "experiment, stopped": Change("end", publish_and_experiment, {"keep": 3}),
    "experiment, won": Change("choose", publish_and_experiment, {"keep": 3}),
    "experiment, winner refused": Change("choose", publish_and_experiment, {"refuses": True}),
    "experiment, label back": Change("rollback", publish_and_experiment, {"keep": 3}),
}

SUITE = ("promote", "rollback", "canary", "label", "experiment", "experiment, won")


def changes(names: Iterable[str]) -> list[Any]:
    """Return the names, those that the suite leaves to the slower proofs with their mark."""
    return [name if name in SUITE else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", changes(LATEST))
def test_killed_where_the_highest_serves(step: int, driver: Driver, latest: Production, name: str) -> None:
    """Wherever a change of a directory is killed, it ends or disappears, and the server that watches never stumbles."""
    kill_at_every_call(step, driver, latest, LATEST[name], name)


@pytest.mark.parametrize("name", changes(LABELS))
def test_killed_where_labels_say_what_serves(step: int, driver: Driver, labels: Production, name: str) -> None:
    """The same of a canary, of its withdrawal, and of a label that moves, stays or moves back."""
    kill_at_every_call(step, driver, labels, LABELS[name], name)


@pytest.mark.parametrize(
    ("step", "first_kill"), [(101, 24), *(pytest.param(1, n, marks=pytest.mark.long) for n in range(8, 48, 4))]
)
def test_a_killed_doctor(step: int, driver: Driver, latest: Production, first_kill: int) -> None:
    """A doctor that is killed while she mends a killed promotion leaves nothing that the next one cannot mend."""
    doctor = Change("repair", publish_and_export, {"keep": 3, "url": ""})
    kill_at_every_call(step, driver, latest, doctor, f"doctor after {first_kill}", first_kill)


def test_killed_between_two_file_systems(step: int, driver: Driver, latest: Production) -> None:
    """Where no link reaches, a copy that is killed is as little to be seen, and the next run copies anew."""
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == latest.store.live.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=elsewhere) as directory:
        candidates = Path(directory) / "candidates"

        def arrange(production: Production) -> list[Any]:
            publish(production)
            return [dataclasses.replace(production.store, candidates=candidates).export()]

        settings = {"candidates": candidates, "keep": 3, "url": ""}
        kill_at_every_call(step, driver, latest, Change("promote", arrange, settings), "copy")


def test_every_call_was_a_point(step: int) -> None:
    """Where every call is killed there are at least 200 points: the calls of no change have been overlooked."""
    found = points[step]
    if len(found) < (len(LATEST) + len(LABELS) if step == 1 else len(SUITE)):
        pytest.skip("the other tests of this module were not run")
    sys.stdout.write(f"\n{found.total()} points: {dict(found)}\n")
    assert found.total() >= (200 if step == 1 else len(SUITE))
