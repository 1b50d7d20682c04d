"""Live versions in a real S3 server: two machines, a sync beside a server, broken connections, damaged objects."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.loading import load_config
from tasks.errors import (
    LockTimeout,
    ManifestMismatch,
    StoreConflict,
    StoreError,
    StoreRefused,
    StoreUnreachable,
    VersionExists,
)
from tasks.objects.base import STATE
from tasks.objects.bucket import Bucket
from tasks.objects.follow import Follower, Target, only_sync
from tasks.objects.live import LIVE, Live, Stored, read_live, upload_path
from tasks.objects.mirror import Mirror
from tasks.objects.store import look_at_store
from tasks.objects.transfer import fetch, send
from tasks.objects.upkeep import behind, damaged, sweep
from tasks.records import Change
from tasks.savedmodel.manifest import verify_manifest, write_manifest
from tasks.store.champion import champion_version, find_champion
from tasks.store.history import read, state_of
from tasks.store.journal import begin
from tasks.store.layout import STAGING, versions
from tasks.store.lock import model_lock
from tasks.store.publish import bring_in
from tasks.store.serving_config import labels_of, listed_versions
from tasks.store.transaction import carry_out, untold
from tests.fault_proxy import FaultProxy
from tests.integration.model_server.conftest import ServerStarter
from tests.s3_server import S3Server
from tests.store_driver import Store, bucket_at

# botocore calls datetime.utcnow() on the way
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


OPEN: list[Bucket] = []  # a client that is forgotten would be told as a socket that nobody closed, by a later test


def machine(path: Path, address: str, layout: str = "latest", **more: object) -> Store:
    """Return the directories of one machine that promotes model `m`."""
    store = Store(path / "live" / "m", path / "w" / "candidates" / "m", path / "aliases.json", objects=address)
    return dataclasses.replace(store, layout=layout, **more)  # type: ignore[arg-type]


def live_of(address: str) -> Live:
    """Return what the store says is live."""
    return read_live(_content(bucket_at(address), f"m/{LIVE}"), "m", "here")


def follower(address: str, root: Path, keep: int = 2) -> Follower:
    return Follower(bucket_at(address), Target(root, keep))


def served(root: Path, address: str) -> list[int]:
    """Return what a server sees in a directory, after comparing every byte with what the store says or said."""
    named = live_of(address).versions
    for number, path in versions(root / "m").items():
        verify_manifest(path, named[number].digest if number in named else _declared(path))
    return [*versions(root / "m")]


def _content(bucket: Bucket, key: str) -> bytes:
    found = bucket.read(key)
    assert found is not None
    assert found.content is not None
    return found.content


def _declared(path: Path) -> str:
    return str(json.loads((path / "assets.extra" / "manifest.json").read_text())["digest"])


@pytest.fixture
def starter() -> Iterator[ServerStarter]:
    """Start servers that end with the test."""
    starting = ServerStarter()
    yield starting
    starting.stop_all()


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stand between clients and the object store from now on."""
    between = FaultProxy(s3.url.removeprefix("http://"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", between.address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else each fault costs seconds of pauses
    yield between
    between.close()


def test_published_followed_and_taken_back(address: str, tmp_path: Path, starter: ServerStarter) -> None:
    """A server beside a sync serves the bytes that were judged, and after a rollback those from before, undisturbed."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    follow, server = follower(address, root), None
    answers = {}
    for change in (lambda: store.promote(store.export()), lambda: store.promote(store.export()), store.rollback):
        assert change() == "live"
        store.export()  # so that the next one has other weights
        assert follow.look()
        if server is None:
            flags = ("--model_name=m", f"--model_base_path={root / 'm'}", "--file_system_poll_wait_seconds=1")
            server = starter.start(*flags)
        champion = champion_version(root / "m", "latest")
        server.wait_for(lambda s=server, n=champion: s.states("m").get(str(n)) == "AVAILABLE")
        answers[champion] = server.predict("m", {"instances": [[1.0]]})[1]["predictions"]
    first, second, last = answers
    assert answers[first] == answers[last] != answers[second]
    live = live_of(address)
    assert live.versions[last] == dataclasses.replace(live.versions[first], directory=str(last))  # the same objects
    assert served(root, address) == [second, last]
    assert live.change is None
    assert state_of(read(store.live), second) == "rolled back"


def test_a_second_machine_sees_what_the_first_one_did(address: str, tmp_path: Path) -> None:
    """Another machine with an empty directory knows champion, bytes and history, and goes on from there."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    for _ in range(2):
        one.promote(one.export())
    assert two.rollback() == "live"
    assert champion_version(two.live, "latest") == 3
    one.repair()
    found = find_champion(one.live)
    assert found is not None
    assert (found.version, found.digest) == (3, one.digest(1))
    assert (one.live / ".history.jsonl").read_bytes() == (two.live / ".history.jsonl").read_bytes()


def test_of_two_promoters_one_wins(address: str, tmp_path: Path) -> None:
    """Who wants to write what is live after another has done so gets an error, and leaves neither change nor object."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    one.promote(one.export())
    two.repair()
    number = two.export() + 1
    assert two.export() == number
    with model_lock(two.live, 60):
        two.mirror.refresh()
        one.promote(one.export())
        before = {found.key for found in bucket_at(address).objects("")}
        change = Change("publish", number, str(number), two.digest(number), str(two.candidates / str(number)))
        begin(two.live, change)
        bring_in(two.live, change)
        with pytest.raises(StoreConflict, match="changed by another process"):
            two.mirror.show()
    assert {found.key for found in bucket_at(address).objects("")} == before
    assert live_of(address).champion == 2
    two.repair()  # which forgets the change, and has what the winner published
    assert champion_version(two.live, "latest") == 2
    assert state_of(read(two.live), number) == "validated"


def test_a_change_that_its_machine_left_is_ended_by_another(address: str, tmp_path: Path) -> None:
    """A change whose machine died after it was shown is verified and ended elsewhere; its machine then agrees."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    one.promote(one.export())
    number = one.export()
    with model_lock(one.live, 60):  # all but the end of a promotion
        one.mirror.refresh()
        change = Change(
            "publish", number, str(number), one.digest(number), str(one.candidates / str(number)), previous=1
        )
        begin(one.live, change)
        bring_in(one.live, change)
        one.mirror.show()
    assert live_of(address).change == change
    refusing = dataclasses.replace(two, refuses=True)
    refusing.repair()
    live = live_of(address)
    assert (live.change, live.champion) == (None, 1)
    assert state_of(read(two.live), number) == "rolled back"
    one.repair()
    assert champion_version(one.live, "latest") == 1


def test_a_change_of_a_living_machine_is_waited_for(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A change that goes on is not taken over: a second machine waits until it is closed."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address, patience_s=3600.0)
    one.promote(one.export())
    number = one.export()
    with model_lock(one.live, 60):
        one.mirror.refresh()
        change = Change("publish", number, str(number), one.digest(number), str(one.candidates / str(number)))
        begin(one.live, change)
        bring_in(one.live, change)
        one.mirror.show()
    waiting = threading.Thread(target=two.repair)
    waiting.start()
    one.repair()
    waiting.join(timeout=600)
    assert not waiting.is_alive()
    assert champion_version(two.live, "latest") == number
    assert "was left by" not in caplog.text


def test_labels_follow(address: str, tmp_path: Path) -> None:
    """With labels, models.config beside the server lists a version once its files are there, and moves labels after."""
    store, root = machine(tmp_path, address, "labels"), tmp_path / "models"
    follow = follower(address, root)
    store.promote(store.export())
    store.promote(store.export())
    assert follow.look()
    assert labels_of(root / "m") == {"stable": 1, "canary": 2}
    store.make_stable()
    assert follow.look()
    assert labels_of(root / "m") == {"stable": 2, "canary": 2}
    assert {2} <= {*listed_versions(root / "m")} <= {*versions(root / "m")}
    store.rollback()
    assert follow.look()
    assert labels_of(root / "m")["stable"] == 1
    elsewhere = machine(tmp_path / "2", address, "labels")
    elsewhere.repair()
    assert labels_of(elsewhere.live) == labels_of(store.live)


def test_a_change_that_waited_does_not_move_an_alias_back(address: str, tmp_path: Path) -> None:
    """The registry keeps naming what is live when a machine tells it late of an earlier change."""
    registry = tmp_path / "aliases.json"
    one = machine(tmp_path / "1", address, registry=registry)
    two = machine(tmp_path / "2", address, registry=registry)
    for refuses in (False, True):  # its change goes live, or is withdrawn
        with model_lock(one.live, 60):  # all of a change but the registry
            one._catch_up()
            number, found = (
                one.export(),
                dataclasses.replace(one.production, verify=lambda _change, no=refuses: "no" * no),
            )
            previous = one._previous()
            source = str(one.candidates / str(number))
            carry_out(found, Change("publish", number, str(number), one.digest(number), source, **previous))
        assert len(untold(one.live)) == 1
        two.repair()
        while two.export() <= number:
            pass
        number = max(versions(two.candidates))
        assert two.promote(number) == "live"
        one.repair()
        assert untold(one.live) == {}
        assert one.aliases == {"champion": live_of(address).versions[number].digest}


def test_a_refused_version_is_taken_out_of_the_store(address: str, tmp_path: Path) -> None:
    """A version that production refuses leaves the store, and the sync takes it away after the one before is there."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    follow = follower(address, root, keep=1)
    store.promote(store.export())
    assert dataclasses.replace(store, refuses=True).promote(store.export()) == "rolled back"
    assert follow.look()
    assert served(root, address) == [1]
    assert live_of(address).change is None


def test_retention_here_and_there(address: str, tmp_path: Path) -> None:
    """promote.keep limits what the store names, --keep what a server has; unnamed objects go when they are old."""
    store, root = machine(tmp_path, address, keep=2), tmp_path / "models"
    follow = follower(address, root, keep=1)
    for _ in range(4):
        store.promote(store.export())
        assert follow.look()
    assert sorted(live_of(address).versions) == [3, 4]
    assert served(root, address) == [4]
    with model_lock(store.live, 60):
        store.mirror.refresh()
        assert sweep(store.mirror) == []  # nothing is a day old
        removed = sweep(store.mirror, older_s=0)
    assert len([found for found in removed if "/versions/" in found.text]) == 2
    live = live_of(address)
    kept = {found.key for found in bucket_at(address).objects("")}
    assert {"/".join(key.split("/")[1:4]) for key in kept if "/versions/" in key} == {
        stored.path for stored in live.versions.values()
    }
    assert len([key for key in kept if "/history/" in key]) == 1
    assert follower(address, tmp_path / "new").look()


def test_who_uploads_while_another_sweeps_must_begin_again(address: str, tmp_path: Path) -> None:
    """Nobody can name what a sweep removed: after a sweep, a write that began before it fails."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    one.promote(one.export())
    number = one.export()
    with model_lock(one.live, 60):
        one.mirror.refresh()
        bucket = bucket_at(address)
        left = f"m/{upload_path('a' * 64)}/file"
        bucket.create(left, b"left by somebody")
        with model_lock(two.live, 60):
            two.mirror.refresh()
            assert any("sha256-aaa" in found.text for found in sweep(two.mirror, older_s=0))
        change = Change("publish", number, str(number), one.digest(number), str(one.candidates / str(number)))
        begin(one.live, change)
        bring_in(one.live, change)
        with pytest.raises(StoreConflict):
            one.mirror.show()
    assert bucket.read(left) is None


def test_a_damaged_object_is_refused_and_what_is_served_stays(address: str, tmp_path: Path) -> None:
    """An object with other bytes than its digest says reaches no server, no champion and no other machine."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    follow = follower(address, root)
    store.promote(store.export())
    assert follow.look()
    store.promote(store.export())
    bucket, stored = bucket_at(address), live_of(address).versions[2]
    for name in ("variables/variables.index", "assets.extra/manifest.json", "saved_model.pb"):
        key = f"m/{stored.path}/{name}"
        found = bucket.read(key)
        assert found is not None
        assert found.content is not None
        bucket.write(key, found.content[:-1] + bytes([found.content[-1] ^ 1]), found.etag)
        assert not follow.look()
        assert isinstance(follow.problems["m"], ManifestMismatch)
        assert served(root, address) == [1]
        with pytest.raises(ManifestMismatch):
            machine(tmp_path / name, address).repair()
        with model_lock(store.live, 60):
            [found_damage] = damaged(store.mirror, only_look=True)
        assert "version 2 is damaged in the store" in found_damage.text
        again = bucket.read(key)
        assert again is not None
        bucket.write(key, found.content, again.etag)
        shutil.rmtree(next((root / "m").glob(f"{STAGING}*")))  # whose complete files would be kept
    bucket.remove([f"m/{stored.path}/saved_model.pb"])
    assert not follow.look()
    assert "saved_model.pb' is missing" in str(follow.problems["m"])
    assert served(root, address) == [1]
    with model_lock(store.live, 60):
        [mended] = damaged(store.mirror)
        assert "it is uploaded again" in mended.text
        assert damaged(store.mirror) == []
    assert follow.look()
    assert served(root, address) == [1, 2]


def test_what_only_a_rollback_needs_stands_in_the_way_of_nothing(address: str, tmp_path: Path) -> None:
    """A damaged earlier version is told, and neither keeps a new version away nor a refused one in production."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    for _ in range(3):
        store.promote(store.export())
    follow = follower(address, root)
    assert follow.look()
    live = live_of(address)
    for number in (1, 2):
        bucket_at(address).remove([f"m/{live.versions[number].path}/saved_model.pb"])
    shutil.rmtree(root / "m" / "2")
    follow = follower(address, root)
    assert not follow.look()
    assert [*versions(root / "m")] == [3]
    assert (follow.serves, follow.followed["m"].champion) == (True, 3)  # so that a new server starts
    store.promote(store.export())
    assert follow.look()
    assert [*versions(root / "m")] == [3, 4]
    with model_lock(store.live, 60):  # as a verification that failed does
        store.mirror.refresh()
        store.live.joinpath("4").rename(store.live / ".withdrawn-4-0")
        store.mirror.show()
    assert not follow.look()
    assert [*versions(root / "m")] == [3]


def test_a_pointer_that_says_nothing_changes_nothing(address: str, tmp_path: Path) -> None:
    """Whatever live.json holds, a server keeps what it has, and no change of production begins."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    follow = follower(address, root)
    store.promote(store.export())
    assert follow.look()
    bucket = bucket_at(address)
    found = bucket.read(f"m/{LIVE}")
    assert found is not None
    plain, etag = json.loads(found.content or b""), found.etag
    outside = {**plain, "versions": {"1": {**plain["versions"]["1"], "path": "../../other"}}}
    changed = [json.dumps(one).encode() for one in ({**plain, "name": "other"}, outside)]
    for garbage in (b"", b"null", b"\xff\xfe", b'{"format": 2}', b"[" * 100_000, *changed):
        etag = bucket.write(f"m/{LIVE}", garbage, etag)
        assert not follow.look()
        assert "must say what is live of 'm'" in str(follow.problems["m"])
        assert [*versions(root / "m")] == [1]
        with pytest.raises(StoreError, match="must say what is live"):
            store.rollback()


def test_a_store_that_was_lost_or_put_back(address: str, tmp_path: Path) -> None:
    """A live.json that is gone, or older than before, stops a sync; a restored one is followed by who promotes."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    follow = follower(address, root)
    store.promote(store.export())
    bucket = bucket_at(address)
    old = bucket.read(f"m/{LIVE}")
    assert old is not None
    assert old.content is not None
    store.promote(store.export())
    assert follow.look()
    bucket.remove([f"m/{LIVE}"])
    for one in (follow, follower(address, root)):
        assert not one.look()
        if one is follow:
            assert "is gone; what is served stays" in str(one.problems["m"])
    with pytest.raises(StoreError, match="but it is gone"):
        store.rollback()
    bucket.write(f"m/{LIVE}", old.content, "")
    assert not follow.look()
    assert "went back from generation" in str(follow.problems["m"])
    assert served(root, address) == [1, 2]
    store.repair()
    assert champion_version(store.live, "latest") == 1


def test_a_mirror_that_was_damaged_or_lost(address: str, tmp_path: Path) -> None:
    """A mirror without its versions, with other bytes, a foreign version or nothing at all is made anew."""
    store = machine(tmp_path, address)
    for _ in range(2):
        store.promote(store.export())
    store.live.joinpath("2").rename(tmp_path / "aside")
    (store.live / "1" / "saved_model.pb").chmod(0o644)
    (store.live / "1" / "saved_model.pb").write_bytes(b"other")
    (store.live / "99").mkdir()
    store.repair()
    assert {n: verify_manifest(path, store.digest(n)).digest for n, path in versions(store.live).items()} == {
        n: store.digest(n) for n in (1, 2)
    }
    assert sorted(live_of(address).versions) == [1, 2]
    (store.live / STATE).write_text("{")
    with pytest.raises(StoreError, match="remove it, and the mirror is made again"):
        store.repair()
    (store.live / STATE).unlink()
    store.repair()
    assert store.rollback() == "live"


def test_a_copied_mirror_does_not_write_over_the_store(address: str, tmp_path: Path) -> None:
    """A machine that was made from a copy of another one's disk sees what happened since the copy."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    one.promote(one.export())
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    one.promote(one.export())
    assert two.rollback() == "live"
    assert live_of(address).champion == 3
    assert live_of(address).versions[3].digest == one.digest(1)


def test_two_syncs_exclude_each_other(address: str, tmp_path: Path) -> None:
    """A directory is filled by one sync at a time."""
    with only_sync(tmp_path), pytest.raises(LockTimeout, match="only one sync can fill"), only_sync(tmp_path):
        pass


def test_a_directory_with_versions_of_its_own_is_not_followed(address: str, tmp_path: Path) -> None:
    """A sync never takes over a directory that a store or another sync fills, because it would remove versions."""
    store = machine(tmp_path, address)
    store.promote(store.export())
    follow = follower(address, store.live.parent)
    assert not follow.look()
    assert "must be empty at first" in str(follow.problems["m"])
    root = tmp_path / "models"
    assert follower(address, root).look()
    other = machine(tmp_path / "other", f"{address}-2")
    other.promote(other.export())
    follow = follower(f"{address}-2", root)
    assert not follow.look()
    assert "use another --to" in str(follow.problems["m"])
    assert served(root, address) == [1]


def test_a_number_never_gets_other_files(address: str, tmp_path: Path) -> None:
    """A server would not load a number again, so a store that gives it other files is refused."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    follow = follower(address, root)
    assert follow.look()
    fresh = machine(tmp_path / "fresh", f"{address}-2")
    fresh.promote(fresh.export())
    mark = root / "m" / ".synced.json"
    mark.write_text(json.dumps({"from": f"{address}-2", "generation": 0}))
    follow = follower(f"{address}-2", root)
    assert not follow.look()
    assert isinstance(follow.problems["m"], VersionExists)


def test_a_damaged_file_beside_the_server_is_fetched_again(address: str, tmp_path: Path) -> None:
    """A sync that starts compares every byte of what it finds."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    assert follower(address, root).look()
    (root / "m" / "1" / "saved_model.pb").write_bytes(b"rotten")
    assert follower(address, root).look()
    assert served(root, address) == [1]


LATER = [pytest.param(fault, marks=pytest.mark.long) for fault in ("cut", "503")]


@pytest.mark.parametrize("fault", ["reset", *LATER])
def test_a_sync_whose_connection_breaks_at_each_object(
    address: str, tmp_path: Path, proxy: FaultProxy, fault: str
) -> None:
    """Wherever the connection breaks for good, a server sees whole versions only; the next look fetches the rest."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    assert follower(address, root).look()
    store.promote(store.export())
    asked = len(proxy.asked)
    assert follower(address, tmp_path / "whole").look()
    requests = len(proxy.asked) - asked
    looks = 0
    for good in range(requests):
        follow = follower(address, root)
        left = iter([""] * good)
        proxy.rule = lambda _method, _path, left=left: next(left, fault)
        complete = follow.look()
        proxy.rule = lambda _method, _path: ""
        assert {*served(root, address)} <= {1, 2}
        looks += 1
        if complete:
            break
        assert isinstance(follow.problems.get("m", follow.problems.get("")), StoreUnreachable)
    assert looks > 3
    assert follower(address, root).look()
    assert served(root, address) == [1, 2]
    assert [*(root / "m").glob(f"{STAGING}*")] == []


@pytest.mark.parametrize("fault", ["reset", *LATER])
def test_a_promotion_whose_connection_breaks_at_each_request(
    address: str, tmp_path: Path, proxy: FaultProxy, fault: str
) -> None:
    """Wherever the connection breaks for good, the old or the new version is live, and the next command ends it."""
    store = machine(tmp_path, address)
    store.promote(store.export())
    broken = 0
    for good in range(0, 60, 4):
        number, before = store.export(), champion_version(store.live, "latest")
        left = iter([""] * good)
        proxy.rule = lambda _method, _path, left=left: next(left, fault)
        try:
            state = store.promote(number)
        except StoreError:
            state = ""
            broken += 1
        proxy.rule = lambda _method, _path: ""
        assert live_of(address).champion in (before, number)
        assert follower(address, tmp_path / "served").look()
        store.repair()
        live = live_of(address)
        assert live.change is None
        assert live.champion == champion_version(store.live, "latest")
        assert state_of(read(store.live), live.champion or 0) == "live"
        if state and not proxy.faults[-1:]:
            break
        proxy.faults.clear()
        if live.champion == before:
            assert store.promote(number) == "live"
    assert broken >= 3


def test_an_answer_that_is_lost_is_no_conflict(address: str, tmp_path: Path, proxy: FaultProxy) -> None:
    """Who does not hear that live.json was written finds that out, instead of taking it for another's change."""
    store = machine(tmp_path, address)
    store.promote(store.export())
    lost = []

    def rule(method: str, path: str) -> str:
        if method == "PUT" and path.endswith(LIVE) and not lost:
            lost.append(path)
            return "cut"
        return ""

    proxy.rule = rule
    assert store.promote(store.export()) == "live"
    assert lost


def test_a_store_that_ignores_conditions_is_refused(address: str, tmp_path: Path, proxy: FaultProxy) -> None:
    """A store that accepts a write whose condition does not hold is not used at all, and that is said before a run."""
    proxy.rule = lambda method, _path: '200 ETag: "00"' if method == "PUT" else ""
    store = machine(tmp_path, address)
    with pytest.raises(StoreRefused, match="the store ignores the conditions of a write"):
        store.promote(store.export())
    file = tmp_path / "cfg.yaml"
    file.write_text(f"name: m\nmodels_root: {address}\n")
    from tasks.objects.store import _bucket

    _bucket.cache_clear()
    with pytest.raises(ConfigError, match="models_root: .* ignores the conditions"):
        look_at_store(load_config(file))
    OPEN.append(_bucket(address))
    _bucket.cache_clear()


def test_a_slow_store_is_waited_for(address: str, tmp_path: Path, proxy: FaultProxy) -> None:
    """While an answer does not come, nothing half-fetched is seen; when it comes, the version appears."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    proxy.rule = lambda _method, path: "late" if path.endswith("saved_model.pb") else ""
    follow, done = follower(address, root), []
    looking = threading.Thread(target=lambda: done.append(follow.look()))
    looking.start()
    assert proxy.misbehaved.wait(600)
    assert [*versions(root / "m")] == []
    assert done == []
    proxy.seen_enough.set()
    looking.join(600)
    assert done == [True]
    assert served(root, address) == [1]


def test_what_is_read_back_is_compared(
    address: str, tmp_path: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that gives back other bytes than it was given makes nothing live."""
    store = machine(tmp_path, address)
    relayed: Callable[..., bytes] = proxy._relayed

    def bent(method: str, path: str, headers: object, body: bytes) -> bytes:
        if method == "PUT" and path.endswith("saved_model.pb"):  # what a broken disk of the store would keep
            return relayed(method, path.replace("saved_model.pb", "elsewhere"), headers, body)
        return relayed(method, path, headers, body)

    monkeypatch.setattr(proxy, "_relayed", bent)
    with pytest.raises(StoreError):
        store.promote(store.export())
    assert bucket_at(address).read(f"m/{LIVE}") is None


@pytest.mark.parametrize("name", ["x?versionId=1", "?versionId=", "a b+%2F*[?]#;~", "ä"])
def test_any_name_of_a_file(address: str, tmp_path: Path, name: str) -> None:
    """A file of a version comes back under its own name, even if that means something in an address."""
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / name).write_bytes(name.encode())
    stored = Stored("1", write_manifest(tmp_path / "v").digest, "versions/x/y")
    send(bucket_at(address), "m", stored, tmp_path / "v")
    fetch(bucket_at(address), "m", stored, tmp_path / "back")
    assert (tmp_path / "back" / name).read_bytes() == name.encode()


def test_no_secret_is_logged(address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, s3: S3Server) -> None:
    """Neither a change nor an error nor a debug line of ours holds the secret key."""
    caplog.set_level(logging.DEBUG, logger="tasks")
    store = machine(tmp_path, address)
    store.promote(store.export())
    with pytest.raises(StoreRefused) as caught:
        Bucket("s3://no-such-bucket/x").directories()
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in caplog.text
    assert secret not in str(caught.value)
    assert secret not in (store.live / STATE).read_text()
    assert secret.encode() not in b"".join(
        (found.content or b"")
        for one in bucket_at(address).objects("m/history")
        if (found := bucket_at(address).read(one.key))
    )


def test_mirrors_are_apart(address: str, tmp_path: Path) -> None:
    """Each address has a mirror of its own below work_dir, which no other address shares."""
    file = tmp_path / "cfg.yaml"
    roots = set()
    for root in (address, f"{address}/a", f"{address}-a", f"{address}/a/b"):
        file.write_text(f"name: m\nmodels_root: {root}\n")
        config = load_config(file)
        assert isinstance(Mirror(bucket_at(root), config.live_dir, "latest").where, str)
        assert config.live_dir.is_relative_to(config.work_dir)
        roots.add(config.live_root)
    assert len(roots) == 4


def test_a_promotion_that_was_overtaken_is_judged_again(address: str, tmp_path: Path, s3: S3Server) -> None:
    """Who is overtaken between reading and writing live.json gets the outcome after which a run judges again."""
    from tasks.objects.store import _bucket
    from tasks.outcomes import PromotionState
    from tasks.production.changes import go_back, put_live
    from tasks.records import Candidate, Signature, TrackedRun

    two = machine(tmp_path / "2", address)
    two.promote(two.export())
    file = tmp_path / "cfg.yaml"
    file.write_text(f"name: m\nmodels_root: {address}\ntracking: {{uri: 'http://127.0.0.1:9'}}\n")
    config = load_config(file)
    one = Store(config.live_dir, config.candidates_dir, tmp_path / "aliases.json", objects=address)
    one.repair()
    number = one.export()
    proxy, overtaking = FaultProxy(s3.url.removeprefix("http://")), []

    def rule(method: str, path: str) -> str:
        if method == "PUT" and path.endswith(LIVE) and not overtaking:
            overtaking.append(path)
            two.promote(two.export())
        return ""

    candidate = Candidate(
        "m", number, one.candidates / str(number), one.digest(number), Signature((), ()), 1, file, file, file
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.address)
            _bucket.cache_clear()
            proxy.rule, champion = rule, find_champion(one.live)
            promotion = put_live(config, candidate, TrackedRun("r", "0", "m", 1, ""), champion, "")
            assert promotion.state is PromotionState.STALE
            assert promotion.reason == "it was compared with version 1, but version 2 is live now"
            assert overtaking
            assert live_of(address).champion == 2
            overtaking.clear()
            with pytest.raises(StoreConflict, match="changed by another process"):
                go_back(config, None, "ann")
            assert overtaking
            assert live_of(address).champion == 3
    finally:
        proxy.close()
        OPEN.append(_bucket(address))
        _bucket.cache_clear()
    one.repair()
    assert champion_version(one.live, "latest") == live_of(address).champion


def test_what_was_removed_beside_the_server_comes_back(address: str, tmp_path: Path) -> None:
    """A sync that runs sees that a version, the labels or the whole directory was removed, and fills it again."""
    store, root = machine(tmp_path, address, "labels"), tmp_path / "models"
    store.promote(store.export())
    follow = follower(address, root)
    assert follow.look()
    for removed in (root / "m" / "1", root / "m", root / "models.config"):
        shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
        assert follow.look()
        assert served(root, address) == [1]
        assert labels_of(root / "m") == {"stable": 1}
    bucket_at(address).remove([f"m/{LIVE}"])
    assert not follow.look()
    assert "remove '" in str(follow.problems["m"])
    shutil.rmtree(root / "m")  # a model that is given up here and there
    assert follow.look()
    assert follow.followed == {}


def test_a_doctor_that_only_looks_looks_at_what_is_live_now(address: str, tmp_path: Path) -> None:
    """A machine that is behind neither takes pruned versions for damaged ones nor live ones for leftovers."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address, keep=1)
    one.promote(one.export())
    two.repair()
    for _ in range(2):
        two.promote(two.export())
    with model_lock(two.live, 60):
        assert sweep(two.mirror, older_s=0)
    for late in (one, machine(tmp_path / "3", address)):
        assert behind(late.mirror)
        assert damaged(late.mirror, only_look=True) == []
        assert sweep(late.mirror, only_look=True, older_s=0) == []
    stored = live_of(address).versions[3]
    bucket_at(address).remove([f"m/{stored.path}/saved_model.pb"])
    for each in (one, machine(tmp_path / "3", address)):
        assert [found.done for found in damaged(each.mirror, only_look=True)] == ["reported"]
    [found] = damaged(two.mirror, only_look=True)
    assert "it would be uploaded again" in found.text


def test_a_new_machine_does_not_begin_anew_beside_what_was_live(address: str, tmp_path: Path) -> None:
    """Without live.json, a machine that never saw it changes nothing, unless everything was removed from the store."""
    one, bucket = machine(tmp_path / "1", address), bucket_at(address)
    one.promote(one.export())
    bucket.remove([f"m/{LIVE}"])
    new = machine(tmp_path / "new", address)
    with pytest.raises(
        StoreError, match="because the store has versions or candidates and their history, but it is gone"
    ):
        new.promote(new.export())
    assert bucket.read(f"m/{LIVE}") is None
    bucket.remove([found.key for found in bucket.objects("")])
    assert new.promote(1) == "live"


@pytest.mark.parametrize("fault", ["html", "404", "405", "501"])
def test_what_is_no_object_store_is_neither_empty_nor_down(
    address: str, tmp_path: Path, proxy: FaultProxy, fault: str
) -> None:
    """Another service behind AWS_ENDPOINT_URL is refused, and is not taken for a store in which nothing is live."""
    proxy.rule = lambda _method, _path: fault
    words = "not an object store" if fault in ("html", "404") else f"it got {fault}"
    for follow in (follower(address, tmp_path), Follower(bucket_at(address), Target(tmp_path), ["m"])):
        assert not follow.look()
        [problem] = follow.problems.values()
        assert isinstance(problem, StoreRefused)
        assert words in str(problem)


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ENDPOINT_URL", "s3.example:9000"), ("AWS_PROFILE", "nobody"), ("AWS_DEFAULT_REGION", "no region")],
)
def test_settings_of_aws_that_are_wrong(address: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A setting that cannot be used is named, and is no store that does not answer."""
    monkeypatch.setenv(name, value)
    with pytest.raises((StoreRefused, ConfigError), match=f"settings of AWS .*{value}"):
        Bucket(address).directories()


@pytest.mark.parametrize(("layout", "other"), [("labels", "latest"), ("latest", "labels")])
def test_another_layout_changes_nothing(address: str, tmp_path: Path, layout: str, other: str) -> None:
    """A machine whose configuration has another layout, such as the default, takes no label away from anybody."""
    store = machine(tmp_path / "1", address, layout)
    store.promote(store.export())
    store.promote(store.export())
    before = live_of(address)
    wrong = machine(tmp_path / "2", address, other)
    for act in (wrong.repair, wrong.prune, wrong.rollback, lambda: wrong.promote(wrong.export())):
        with pytest.raises(ConfigError, match=f"promote.layout must be {layout} .* got {other}"):
            act()
    assert live_of(address) == before
    file = tmp_path / "cfg.yaml"
    file.write_text(
        f"name: m\nwork_dir: {tmp_path}/w\nmodels_root: {address}\npromote: {{layout: {other}, live_url: 'http://a:1'}}\n"
    )
    with pytest.raises(ConfigError, match="promote.layout must be"):
        look_at_store(load_config(file))


@pytest.mark.parametrize("refused", ["GET list-type", "GET .probe-", "DELETE .probe-"])
def test_credentials_that_lack_something_are_refused_before_a_run(
    address: str, tmp_path: Path, proxy: FaultProxy, refused: str
) -> None:
    """Whatever an archive needs after a training, to list, to get and to delete, is tried before it."""
    method, part = refused.split()
    proxy.rule = lambda asked, path: "403" if asked == method and part in path else ""
    file = tmp_path / "cfg.yaml"
    file.write_text(f"name: m\nmodels_root: {address}\n")
    from tasks.objects.store import _bucket

    _bucket.cache_clear()
    with pytest.raises(ConfigError, match="models_root: .* cannot be used"):
        look_at_store(load_config(file))
    OPEN.append(_bucket(address))
    _bucket.cache_clear()
