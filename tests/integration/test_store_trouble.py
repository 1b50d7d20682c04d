"""Disks that are full, read-only or elsewhere, and no MLflow: a clear error, nothing half-live, then it heals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.loading import load_config
from configs.schema import Config
from flows.commands import ENVIRONMENT
from flows.rollback import main as rollback
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.errors import DataError, ManifestMismatch, StoreError, TrackingError
from tasks.production.changes import examine, go_back, put_live
from tasks.production.turn import inform
from tasks.records import Candidate, Change, Signature, TrackedRun
from tasks.savedmodel.manifest import hash_files
from tasks.store import runs
from tasks.store.champion import find_champion
from tasks.store.history import read, state_of
from tasks.store.journal import pending
from tasks.store.layout import versions
from tasks.store.leftovers import begin_run, clear, find_leftovers
from tasks.store.runs import OWNER, create_run_dir, note_digest, owner_of
from tasks.store.shared_rows import share
from tasks.store.transaction import Production, carry_out, untold
from tests.store_driver import Store

DISK_KB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system of its own."""
    point = tmp_path / "disk"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(point)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def store(disk: Path, tmp_path: Path) -> Store:
    """Return a store whose live directory is on that file system, and whose version 1 is live."""
    store = Store(disk / "models" / "m", tmp_path / "candidates", tmp_path / "aliases.json")
    store.promote(store.export())
    return store


@contextlib.contextmanager
def full(disk: Path, left_kb: int) -> Iterator[None]:
    """Fill a file system but for some kB."""
    filler = disk / "filler"
    with filler.open("wb") as stream:
        room = shutil.disk_usage(disk).free - left_kb * 1024
        if room > 0:
            os.posix_fallocate(stream.fileno(), 0, room)
    try:
        yield
    finally:
        filler.unlink()


def check_nothing_half_live(store: Store) -> None:
    """What a server sees is whole, and was validated under its number."""
    for version, path in versions(store.live).items():
        assert hash_files(path).digest == store.digest(version)


def test_a_run_beside_a_disk_that_is_full_or_read_only(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be noted, shared or removed there fails no run, and what could be needed stays."""
    monkeypatch.setattr(runs, "HELD", 0)  # else the disk is in use until this process ends
    store = Store(tmp_path / "live" / "m", disk / "work" / "candidates" / "m", tmp_path / "aliases.json", keep=1)
    needed, left = Path(store.run("awaiting review")), Path(store.run())
    for run_dir in (needed, left):
        owner = run_dir / OWNER
        owner.write_text(json.dumps({**json.loads(owner.read_text()), "started": "0"}))  # its process has ended
    rows = needed / "data" / "train.npz"
    with full(disk, 0):
        note_digest(needed, "0" * 64)
        share(store.config, rows)
        with pytest.raises(DataError, match="No space left"):
            save_arrays(create_run_dir(store.config) / "data" / "train.npz", {"x": np.zeros(9999)})
        assert len(load_arrays(rows)["x/a"]) == 1000
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    clear(store.config)
    assert {finding.done for finding in find_leftovers(store.config)} == {"reported"}
    assert left.is_dir()
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with full(disk, 0):
        assert not owner_of(create_run_dir(store.config))
        mine = begin_run(store.config)  # which makes the room that it needs
        assert not left.exists()
        assert owner_of(mine)
        [hollow] = {*left.parent.iterdir()} - {needed, mine}  # it was created on the full disk
        os.utime(hollow, (0, 0))
        [finding] = find_leftovers(store.config)
        assert finding.text == f"'{hollow}', which a process left behind"
    assert [needed.is_dir(), left.is_dir(), len(load_arrays(rows)["x/a"])] == [True, False, 1000]


def test_a_copy_is_forced_down_before_it_can_be_seen(store: Store) -> None:
    """Onto another file system every file is copied into staging there and forced down before the one rename."""
    version = store.export()
    command = {"store": store.to_json(), "kill_at": 0, "operation": "promote", "args": [version]}
    driver = [sys.executable, str(Path(__file__).parents[1] / "store_driver.py")]
    done = subprocess.run(driver, input=json.dumps(command), capture_output=True, text=True, check=True)
    events = [(event, Path(path)) for event, path in json.loads(done.stdout)["events"]]
    [rename] = [
        i for i, (event, path) in enumerate(events) if event == "os.rename" and path.name.startswith(".staging-")
        and path.parent == store.live and path.suffix != ".json"
    ]  # fmt: skip
    staging = events[rename][1]
    assert staging.parent == store.live
    files = [path.relative_to(store.live / str(version)) for path in (store.live / str(version)).rglob("*")]
    for path in files:
        done_to = [event for event, seen in events[:rename] if seen == staging / path]
        is_dir = (store.live / str(version) / path).is_dir()
        assert done_to[0] == ("os.mkdir" if is_dir else "open")
        assert done_to[-1] == "os.fsync"
    assert ("os.fsync", staging) in events[:rename]
    assert events[rename + 1] == ("os.fsync", store.live)
    assert {path.stat().st_nlink for path in (store.live / str(version)).rglob("*") if path.is_file()} == {1}
    assert hash_files(store.live / str(version)).digest == store.digest(version)


def test_a_copy_that_differs_does_not_go_live(store: Store) -> None:
    """A candidate whose byte was flipped after its validation is refused on the other file system, too."""
    version = store.export()
    data = next((store.candidates / str(version) / "variables").iterdir())
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(ManifestMismatch, match=f"changed: variables/{data.name}"):
        store.promote(version)
    assert [*versions(store.live)] == [1]
    assert pending(store.live) is None


def test_a_disk_that_is_full_at_any_point(disk: Path, store: Store) -> None:
    """However little room there is, a promotion succeeds or fails in one line that says so, and the next one heals."""
    failed, last = 0, 1
    for left_kb in range(0, 100, 4):
        version = store.export()
        with full(disk, left_kb):
            try:
                store.promote(version)
            except StoreError as exc:
                failed += 1
                assert "\n" not in str(exc)
                assert "No space left" in str(exc)
                check_nothing_half_live(store)
                if versions(store.live).keys() == {1} | {last}:
                    assert state_of(read(store.live), last) == "live"
        with contextlib.suppress(StoreError):
            store.promote(version)  # the same once more
        store.repair()
        check_nothing_half_live(store)
        assert max(versions(store.live)) == version
        assert state_of(read(store.live), version) == "live"
        assert store.aliases["champion"] == store.digest(version)
        last = version
        dataclasses.replace(store, keep=1).prune()
    assert 5 <= failed < 25
    assert not [path for path in store.live.iterdir() if path.name.startswith((".staging", ".pruned"))]


def test_a_withdrawal_on_a_full_disk(disk: Path, store: Store) -> None:
    """What does not answer as validated is taken away, although there is no room to write that down; later it is."""
    version = store.export()
    filling = contextlib.ExitStack()

    def verify(change: Change) -> str:
        filling.enter_context(full(disk, 0))
        return "it answers differently than validated"

    source = str(store.candidates / str(version))
    change = Change("publish", version, str(version), store.digest(version), source, previous=1)
    with filling, pytest.raises(StoreError, match="No space left"):
        carry_out(Production(store.live, "latest", verify, lambda change: None), change)
    assert [*versions(store.live)] == [1]
    store.repair()
    assert state_of(read(store.live), version) == "rolled back"
    assert pending(store.live) is None
    assert store.promote(store.export()) == "live"


def test_a_read_only_directory(disk: Path, store: Store) -> None:
    """A models_root that has become read-only is one line, changes nothing, and the next run goes on."""
    version = store.export()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(StoreError, match="models_root must be writable.*Read-only file system") as caught:
            store.promote(version)
        assert "\n" not in str(caught.value)
        assert [*versions(store.live)] == [1]
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert store.promote(version) == "live"


def test_a_disk_that_becomes_read_only_behind_the_rename(disk: Path, store: Store) -> None:
    """A version that was just made live and cannot be noted is whole; the next run finishes what was begun."""
    version = store.export()

    def verify(change: Change) -> str:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return ""

    change = Change("publish", version, str(version), store.digest(version), str(store.candidates / str(version)))
    try:
        result = carry_out(Production(store.live, "latest", verify, lambda change: None), change)
        assert (result.state, result.live_dir) == ("live", store.live / str(version))
        assert "Read-only file system" in result.unwritten
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    check_nothing_half_live(store)
    assert "publish of version 2: live" in store.repair()
    assert store.aliases["champion"] == store.digest(version)


def test_a_rollback_on_a_disk_that_is_nearly_full(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 4 KB left a rollback serves, so it is exit 0, with a warning that names what could not be written.

    With whatever else is left, the exit code says what serves, and the doctor then finishes what is open.
    """
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # which the command sets itself, and which must not stay
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    places = [f"work_dir={disk}/work", f"models_root={disk}/models", f"tracking.uri=sqlite:///{path}/none.db"]
    config = load_config(path, places)
    store = Store(config.live_dir, config.candidates_dir, tmp_path / "aliases.json")
    for _ in range(2):
        store.promote(store.export())
    command = ["--config", str(path), *(word for place in places for word in ("--set", place))]
    codes = {}
    for left_kb in (4, 0, 8, 12, 16):
        before = max(versions(store.live))
        with full(disk, left_kb):
            codes[left_kb] = rollback([*command, "--to", str(before - 1)])
            serving = max(versions(store.live))
            shown = capsys.readouterr()
        assert (codes[left_kb] == 0) is (serving == before + 1), shown
        check_nothing_half_live(store)
        if left_kb == 4:
            warned = f"version {serving} is live, but this could not be recorded: '{store.live}/"
            assert warned in shown.out, shown
            assert "No space left on device; the next change or the doctor will do it" in shown.out
        assert all(line.startswith(("warning: ", "error: ")) for line in shown.err.splitlines()), shown
        examine(config, only_look=False)
        assert pending(store.live) is None
        assert state_of(read(store.live), max(versions(store.live))) == "live"
    assert codes[4] == codes[16] == 0


@pytest.fixture
def mlflow_down(tmp_path: Path) -> Callable[[bool], Config]:
    """Return a function that configures a model whose MLflow is down, or up."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")

    def configured(down: bool) -> Config:
        where = path / "mlflow.db" if down else tmp_path / "mlflow.db"
        return load_config(path, [f"tracking.uri=sqlite:///{where}"])

    return configured


def test_mlflow_is_down_at_each_step(mlflow_down: Callable[[bool], Config], caplog: pytest.LogCaptureFixture) -> None:
    """Promotions, second tries and a rollback without MLflow change production; all of it arrives later, in order."""
    from mlflow import MlflowClient

    down, up = mlflow_down(True), mlflow_down(False)
    store = Store(down.live_dir, down.candidates_dir, down.work_dir / "unused.json")
    candidates = [_candidate(store) for _ in range(2)]
    unknown: Any = TrackedRun("", "", "m", 0, "")
    for against, candidate in zip((None, 1), candidates, strict=True):
        champion = find_champion(store.live) if against else None
        for _ in range(2):  # the second try finds its version live, and MLflow still down
            caplog.clear()
            assert put_live(down, candidate, unknown, champion, "").state == "promoted"
            assert f"version {candidate.version} is live, but MLflow could not be updated; " in caplog.text
    assert go_back(down, None, "ann").state == "promoted"
    with pytest.raises(TrackingError):
        inform(down)
    assert [change.version for change in untold(store.live).values()] == [1, 2, 3]
    [finding] = examine(down, only_look=False)
    assert "3 changes could not be sent to MLflow yet" in finding.text
    client = MlflowClient(up.tracking.uri, up.tracking.uri)
    client.create_registered_model("m")
    for candidate in candidates:
        run = client.create_run("0").info.run_id
        client.create_model_version("m", "nowhere", run_id=run, tags={"digest": candidate.digest})
    told = [finding.text for finding in examine(up, only_look=False)]
    assert told == [f"the publish of version {number} was sent to MLflow" for number in (1, 2, 3)]
    assert untold(store.live) == {}
    assert client.get_model_version_by_alias("m", "champion").tags["digest"] == candidates[0].digest
    assert client.get_model_version("m", "2").tags["promotion"] == "rolled back"
    assert examine(up, only_look=True) == []


def _candidate(store: Store) -> Candidate:
    number = store.export()
    nowhere = Path("nowhere")
    return Candidate(
        "m", number, store.candidates / str(number), store.digest(number), Signature((), ()), 1,
        nowhere, nowhere, nowhere,
    )  # fmt: skip
