"""A process that is killed before any of its requests or file-system calls leaves nothing that the next one minds.

The suite kills at every 151st call; those with the mark `long` kill at every call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.objects.follow import Follower, Target
from tasks.objects.upkeep import sweep
from tasks.proof.chain import chain_problems
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.champion import champion_version
from tasks.store.experiment import running
from tasks.store.history import read, state_of
from tasks.store.layout import STAGING, versions
from tasks.store.lock import model_lock
from tasks.store.serving_config import labels_of
from tasks.store.transaction import CANARY
from tests.integration.test_object_store import live_of, machine
from tests.integration.test_store_crash import Driver, check_in_order
from tests.s3_server import S3Server
from tests.store_driver import SIGNER, Store, bucket_at

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]
STEPS = [151, pytest.param(1, marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def driver(s3: S3Server) -> Iterator[Driver]:
    """Start a process that forks, and dies in, each change; it finds the object store in its environment."""
    assert s3.process.poll() is None
    started = Driver()
    yield started
    started.close()


def check_store(store: Store, root: Path) -> None:
    """The store names only whole versions, a server gets them, and nothing that it does not name is kept."""
    follower = Follower(bucket_at(store.objects), Target(root))
    assert follower.look(), follower.problems
    live = live_of(store.objects)
    for number, path in versions(root / "m").items():
        verify_manifest(path, live.versions[number].digest)
    assert live.champion in versions(root / "m")
    assert [*(root / "m").glob(f"{STAGING}*")] == []


def check_experiment(store: Store) -> None:
    """An experiment runs in the store and here, with its labels, or neither has anything of it."""
    live = live_of(store.objects)
    assert live.experiment == running(store.live)
    assert {"a", "b"} & {*live.labels} == ({"a", "b"} if live.experiment else set())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("layout", "operation", "refuses"),
    [
        ("latest", "promote", False),
        pytest.param("latest", "promote", True, marks=pytest.mark.long),
        ("latest", "rollback", False),
        pytest.param("latest", "prune", False, marks=pytest.mark.long),
        ("labels", "promote", False),
        pytest.param("labels", "make_stable", False, marks=pytest.mark.long),
        pytest.param("labels", "rollback", False, marks=pytest.mark.long),
        ("labels", "experiment", False),
        pytest.param("labels", "experiment", True, marks=pytest.mark.long),
        pytest.param("labels", "end", False, marks=pytest.mark.long),
        pytest.param("labels", "choose", False, marks=pytest.mark.long),
    ],
)
def test_a_killed_change(
    driver: Driver,
    address: str,
    tmp_path: Path,
    *,
    step: int,
    layout: str,
    operation: str,
    refuses: bool,
) -> None:
    """Wherever a change is killed, old or new is live, and its machine, or another one, ends or removes the change."""
    store = machine(tmp_path, address, layout, keep=3)
    other = dataclasses.replace(store, live=tmp_path / "other" / "m", candidates=tmp_path / "w2" / "candidates" / "m")
    points = 0
    for kill_at in itertools.count(1 + len(operation) % step, step):
        args: list[Any] = []
        if running(store.live):
            store.end()
        for _ in range(2):  # what there is to go back to
            store.promote(store.export())
            if CANARY in labels_of(store.live):
                store.make_stable()
        if operation in ("make_stable", "experiment", "end", "choose"):
            store.promote(store.export())
        if operation in ("end", "choose"):
            store.experiment()
        if operation == "promote":
            args = [store.export()]
        before = live_of(address)
        dying = dataclasses.replace(store, refuses=refuses, keep=1 if operation == "prune" else 3)
        answer = driver(dying, kill_at, operation, *args)
        now = live_of(address)
        assert now.champion is not None
        if "killed_before" in answer:
            points += 1
            assert {n: now.versions[n] for n in before.versions.keys() & now.versions.keys()} == {
                n: before.versions[n] for n in before.versions.keys() & now.versions.keys()
            }
        check_store(store, tmp_path / f"served-{kill_at}")
        elsewhere = kill_at // step % 2 == 1
        if elsewhere:
            other.repair()
        store.repair()
        check_in_order(store)
        check_store(store, tmp_path / f"served-{kill_at}")
        check_experiment(store)
        live = live_of(address)
        assert live.change is None
        assert live.champion == champion_version(store.live, store.layout)
        assert state_of(read(store.live), live.champion or 0) == "live"
        other.repair()
        assert live_of(address).says_the_same(live) or elsewhere
        assert (champion_version(other.live, layout), running(other.live)) == (live.champion, live.experiment)
        assert chain_problems(other.live, SIGNER.publics) == []
        if "killed_before" not in answer:
            break
    assert points >= (20 if step == 1 else 1)
    with model_lock(store.live, 60):
        store.mirror.refresh()
        sweep(store.mirror, older_s=0)
    live = live_of(address)
    named = {stored.path for stored in live.versions.values()}
    found = {one.key.removeprefix("m/") for one in bucket_at(address).objects("")}
    assert {"/".join(key.split("/")[:3]) for key in found if key.startswith("versions/")} == named


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_sync(driver: Driver, address: str, tmp_path: Path, step: int) -> None:
    """Wherever a sync is killed, a server sees whole versions only, and the next sync fetches the rest."""
    store, points = machine(tmp_path, address), 0
    store.promote(store.export())
    for kill_at in itertools.count(3, step):
        root = tmp_path / f"served-{kill_at}"
        store.sync(str(root))
        store.promote(store.export())
        answer = driver(store, kill_at, "sync", str(root))
        live = live_of(address)
        for number, path in versions(root / "m").items():
            verify_manifest(path, live.versions[number].digest)
        assert versions(root / "m")
        store.sync(str(root))
        assert [*versions(root / "m")] == [*live.versions][-2:]
        assert [*(root / "m").glob(f"{STAGING}*")] == []
        if "killed_before" not in answer:
            break
        points += 1
    assert points >= (20 if step == 1 else 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_two_machines_that_die_again_and_again(s3: S3Server, address: str, tmp_path: Path, seed: int) -> None:
    """Two machines promote and roll back at once and are killed anywhere, while a sync follows without an error.

    In the end both agree, one version is live, nothing is under way, and no number ever had two digests.
    """
    assert s3.process.poll() is None
    machines = [machine(tmp_path / str(n), address, keep=3, patience_s=1.0) for n in range(2)]
    machines[0].promote(machines[0].export())
    done = threading.Event()

    def work(number: int) -> None:
        chance, dying, store = random.Random(f"{seed} {number}"), Driver(), machines[number]
        for _ in range(12):
            operation, kill_at = chance.choice(["promote", "rollback", "repair"]), chance.choice([0, 150])
            # the other machine may be faster, which is one clear error
            with contextlib.suppress(AssertionError):
                args = []
                if operation == "promote":
                    dying(store, 0, "repair")
                    args = [dying(store, 0, "export")["result"]]
                dying(store, chance.randint(1, kill_at) if kill_at else 0, operation, *args)
        dying.close()

    def follow() -> None:
        follower = Follower(bucket_at(address), Target(tmp_path / "served"))
        while not done.wait(0.1):
            looks.append(follower.look() or follower.problems)

    looks: list[Any] = []
    following = threading.Thread(target=follow)
    working = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in (following, *working):
        thread.start()
    for thread in working:
        thread.join()
    done.set()
    following.join()
    assert looks == [True] * len(looks)
    for store in (*machines, *machines):
        store.repair()
    live, entries = live_of(address), read(machines[0].live)
    assert live.change is None
    assert {champion_version(store.live, "latest") for store in machines} == {live.champion}
    assert [n for n in {entry.version for entry in entries} if state_of(entries, n) == "live"] == [live.champion]
    digests = {(entry.version, entry.digest) for entry in entries if entry.state == "live"}
    assert len(digests) == len({number for number, _ in digests})
    assert [chain_problems(store.live, SIGNER.publics) for store in machines] == [[], []]
    check_store(machines[0], tmp_path / "served")
