"""Which versions are kept, and that numbers only go up."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.records import Change
from tasks.savedmodel.manifest import write_manifest
from tasks.store.champion import champion_version, predecessor
from tasks.store.history import HISTORY, append, read, state_of
from tasks.store.layout import versions
from tasks.store.retention import prune
from tasks.store.serving_config import listed_versions, write_config
from tasks.store.transaction import carry_out
from tests.store_driver import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a model of which nothing is live."""
    return make(tmp_path)


def make(root: Path) -> Store:
    return Store(root / "live" / "m", root / "candidates", root / "aliases.json")


def pruned(store: Store, keep: int) -> list[str]:
    removed = prune(store.live, store.candidates, store.layout, keep)
    return [f"{path.parent.name}/{path.name}" for path in removed]


def test_all_but_the_newest_go(store: Store) -> None:
    """The oldest live versions and candidates go and are noted; keeping 0 keeps all."""
    for _ in range(4):
        store.promote(store.export())
    assert pruned(store, 0) == []
    assert pruned(store, 3) == ["m/1", "candidates/1"]
    assert state_of(read(store.live), 1) == "pruned"
    assert [*versions(store.live)] == [2, 3, 4]
    assert pruned(store, 3) == []


def test_the_champion_and_the_way_back_stay(store: Store) -> None:
    """With keep 1 the champion and the version that a rollback goes back to stay, wherever that is."""
    for _ in range(4):
        store.promote(store.export())
    store.rollback()  # 5 has the bytes of 3; 4 was bad; the way back is 2
    assert predecessor(store.live, 5) == 2
    assert pruned(store, 1)[:3] == ["m/1", "m/3", "m/4"]
    assert [*versions(store.live)] == [2, 5]
    assert store.rollback() == "live"


def test_labelled_and_listed_versions_stay(store: Store) -> None:
    """What has a label, or is listed for production by hand, stays."""
    store = dataclasses.replace(store, layout="labels")
    for _ in range(5):
        store.promote(store.export())
        store.make_stable() if len(versions(store.live)) > 1 else None
    store.promote(store.export())
    write_config(store.live, [2, *listed_versions(store.live)], {"stable": 5, "canary": 6})
    pruned(store, 1)
    assert [*versions(store.live)] == [2, 4, 5, 6]


def test_the_last_directory_stays(store: Store) -> None:
    """The last version is never taken away, although no history knows it: without any, the model would be unloaded."""
    (store.live / "3").mkdir(parents=True)
    (store.live / "4").mkdir()
    assert pruned(store, 1) == []
    assert [*versions(store.live)] == [3, 4]


def test_what_this_project_did_not_promote_stays(store: Store) -> None:
    """A directory or a stray file that somebody else put there is not removed by a promotion."""
    for _ in range(3):
        store.promote(store.export())
    (store.live / "0").touch()
    assert "m/0" not in pruned(store, 1)
    assert [*versions(store.live)] == [0, 2, 3]


def test_candidates_that_wait_stay(store: Store) -> None:
    """A candidate that waits for a person, is approved, or is being judged stays; a rejected or an old one goes."""
    for state in ("awaiting review", "approved", "rejected", "exported", "validated"):
        version = store.export()
        append(store.live, version, state, store.digest(version))
    abandoned = store.export()
    history = store.live / HISTORY
    long_ago = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    old = [{**line, "time": long_ago} if line["version"] == abandoned else line for line in lines]
    assert old != lines
    history.write_text("".join(f"{json.dumps(line)}\n" for line in old))
    store.promote(store.export())
    assert pruned(store, 1) == ["candidates/3", f"candidates/{abandoned}"]


def test_an_approval_that_went_live_under_a_higher_number(store: Store) -> None:
    """An approved candidate waits no longer once its bytes are live, under whichever number."""
    version = store.export()
    append(store.live, version, "approved", store.digest(version))
    for _ in range(2):
        store.promote(store.export())
    source = str(store.candidates / "1")
    carry_out(store.production, Change("publish", 4, "4", store.digest(1), source, previous=3, previous_digest=""))
    for _ in range(3):
        store.promote(store.export())
    assert "candidates/1" in pruned(store, 1)


def test_a_number_that_two_work_dirs_used(store: Store) -> None:
    """A candidate that waits stays although another work_dir's version of the same number has been superseded since."""
    version = store.export()
    append(store.live, version, "awaiting review", store.digest(version))
    append(store.live, version, "live", "other bytes")
    append(store.live, version, "superseded", "other bytes")
    for _ in range(2):
        store.promote(store.export())
    assert "candidates/1" not in pruned(store, 1)


def test_old_withdrawn_versions_go(store: Store) -> None:
    """Of what production refused, the newest few are kept to be looked at."""
    store.promote(store.export())
    for _ in range(12):
        refusing = dataclasses.replace(store, refuses=True)
        refusing.promote(refusing.export())
    pruned(store, 2)
    assert sorted(path.name.split("-")[1] for path in store.live.glob(".withdrawn-*")) == ["12", "13"]


STEPS = st.lists(
    st.sampled_from(["promote", "refuse", "rollback", "reject", "wait", "prune 1", "prune 2"]), max_size=14
)


@settings(max_examples=30)
@given(steps=STEPS)
def test_whatever_happens(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Whatever is promoted, refused, rolled back, rejected or pruned, numbers go up and what is needed stays."""
    store = make(tmp_path_factory.mktemp("store"))
    highest, waiting = 0, set()
    seen: dict[int, int] = {}  # number to inode of every directory that was ever live
    for step in steps:
        champion, live = champion_version(store.live, "latest"), versions(store.live).keys()
        before = predecessor(store.live, champion)
        if step == "rollback":
            if before not in live:
                continue
            assert store.rollback() == "live"
            highest += 1
            assert champion_version(store.live, "latest") == highest
        elif step.startswith("prune"):
            pruned(store, int(step[-1]))
            assert ({champion, before} & live) <= versions(store.live).keys()
        else:
            version = store.export()
            assert version > highest
            highest = version
            if step == "wait":
                waiting.add(version)
                append(store.live, version, "awaiting review", store.digest(version))
            elif step == "reject":
                append(store.live, version, "rejected", store.digest(version))
            else:
                dataclasses.replace(store, refuses=step == "refuse").promote(version)
        now = {version: path.stat().st_ino for version, path in versions(store.live).items()}
        assert all(seen.get(version, inode) == inode for version, inode in now.items()), "no number is used for two"
        assert all(version > max(seen, default=0) for version in now.keys() - seen.keys()), "none goes down"
        seen |= now
        assert waiting <= versions(store.candidates).keys()
        assert store.repair() == "[]"


def test_a_sweep_displaces_no_judged_candidate(store: Store) -> None:
    """Candidates without a verdict, such as most of a sweep, are none of those to keep: the judged ones stay."""
    for _ in range(3):
        store.export()
        digest = read(store.live)[-1].digest
        append(store.live, read(store.live)[-1].version, "rejected", digest)
    for number in range(4, 9):
        (store.candidates / str(number)).mkdir()
        (store.candidates / str(number) / "who").write_text(str(number))
        append(store.live, number, "exported", write_manifest(store.candidates / str(number)).digest)
    assert pruned(store, 3) == []
    assert [*versions(store.candidates)] == list(range(1, 9))
    assert pruned(store, 2) == ["candidates/1"]
