"""Version directories: numbers, claims, publishing."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from tasks import waiting
from tasks.errors import LockTimeout, ManifestMismatch, StoreError, VersionExists
from tasks.records import Change
from tasks.savedmodel.manifest import MANIFEST, hash_files, verify_manifest, write_manifest
from tasks.store.history import append
from tasks.store.layout import claim_version, next_number, next_version, remove_abandoned, version_number, versions
from tasks.store.lock import model_lock
from tasks.store.publish import bring_in, put_aside, remove, take_away


@dataclasses.dataclass(frozen=True)
class Made:
    """A candidate on disk."""

    version: int
    version_dir: Path
    digest: str


def make_candidate(root: Path, width: int = 0) -> Made:
    """Write a small version directory as an export would."""
    with claim_version(root / "candidates" / "m", root / "live" / "m", width) as claim:
        (claim.staging / "variables").mkdir()
        (claim.staging / "saved_model.pb").write_bytes(b"graph")
        (claim.staging / "variables" / "data").write_bytes(os.urandom(100))
        manifest = write_manifest(claim.staging)
        version_dir = claim.publish()
    return Made(int(version_dir.name), version_dir, manifest.digest)


def publish(candidate: Made, root: Path) -> Path:
    """Bring a candidate in under its own number."""
    live = root / "m"
    live.mkdir(parents=True, exist_ok=True)
    source = str(candidate.version_dir)
    return bring_in(live, Change("publish", candidate.version, candidate.version_dir.name, candidate.digest, source))


def tree(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1", 1),
        ("00000123", 123),
        ("0", 0),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("1a", None),
        (".staging-3", None),
        ("", None),
        ("-1", -1),
        ("+7", 7),
        ("+", None),
        ("1.0", None),
        ("١", None),
        (" 1", None),
        ("1\n", None),
    ],
)
def test_version_number(name: str, number: int | None) -> None:
    """A child is a version exactly if its whole name is a number that fits 64 bits."""
    assert version_number(name) == number


def test_same_number_twice_is_refused(tmp_path: Path) -> None:
    """`1` beside `00001` is refused, for nobody can say which one a server takes."""
    (tmp_path / "1").mkdir()
    (tmp_path / "00001").touch()
    with pytest.raises(VersionExists, match="00001.*and.*'1'"):
        versions(tmp_path)


@given(used=st.lists(st.integers(0, 10**6), max_size=8), live=st.lists(st.integers(0, 10**6), max_size=8))
def test_next_version_is_above_all(tmp_path_factory: pytest.TempPathFactory, used: list[int], live: list[int]) -> None:
    """The next number is above every candidate and every live version."""
    root = tmp_path_factory.mktemp("v")
    for directory, numbers in (("c", used), ("l", live)):
        for number in numbers:
            (root / directory / str(number)).mkdir(parents=True, exist_ok=True)
    assert next_version(root / "c", root / "l") == max([0, *used, *live]) + 1


def test_numbers_are_never_used_again(tmp_path: Path) -> None:
    """A number stays used when its directory is gone."""
    first = make_candidate(tmp_path)
    first.version_dir.rename(tmp_path / "elsewhere")
    assert make_candidate(tmp_path).version == first.version + 1


def test_width_pads_and_numbers_go_on(tmp_path: Path) -> None:
    """`version_width` pads the name, and a change of width goes on counting."""
    assert make_candidate(tmp_path, width=8).version_dir.name == "00000001"
    assert make_candidate(tmp_path).version_dir.name == "2"


def test_a_broken_export_leaves_nothing(tmp_path: Path) -> None:
    """What is not published is removed, and its number is not used."""
    with pytest.raises(RuntimeError), claim_version(tmp_path / "c", tmp_path / "l", 0) as claim:
        (claim.staging / "half").touch()
        raise RuntimeError
    assert list((tmp_path / "c").iterdir()) == []


def test_an_export_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    """What an export is filling stays; what a process that is gone was filling goes; a file is nobody's export."""
    candidates = tmp_path / "c"
    (candidates / ".staging-of-a-killed-run").mkdir(parents=True)
    (candidates / ".staging-highest").touch()
    with claim_version(candidates, tmp_path / "l", 0) as claim:
        assert remove_abandoned(candidates, only_look=True) == [candidates / ".staging-of-a-killed-run"]
        assert (candidates / ".staging-of-a-killed-run").is_dir()
        assert remove_abandoned(candidates, only_look=False) == [candidates / ".staging-of-a-killed-run"]
        assert claim.staging.is_dir()
    assert [path.name for path in candidates.iterdir()] == [".staging-highest"]


def test_who_gets_the_lock_changes_the_directory(tmp_path: Path) -> None:
    """On NFS, a host lists a directory that it has changed anew, so it sees the version that another one published."""
    with model_lock(tmp_path, 1):
        pass
    os.utime(tmp_path, (1, 1))
    with model_lock(tmp_path, 1):
        assert tmp_path.stat().st_mtime > 1
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock-holder.json"]


def test_an_export_on_another_host_is_not_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS, the lock of a directory stays on its host, and an exclusive lock needs a file that can be written."""
    lock = fcntl.flock

    def flock_of_nfs(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    with claim_version(tmp_path / "c", tmp_path / "l", 0) as claim:
        assert remove_abandoned(tmp_path / "c", only_look=False) == []
        assert claim.publish().name == "1"
    (tmp_path / "c" / ".staging-killed").mkdir()
    (tmp_path / "c" / ".staging-killed.lock").touch()
    (tmp_path / "c" / ".staging-before-its-directory.lock").touch()
    assert remove_abandoned(tmp_path / "c", only_look=False) == [tmp_path / "c" / ".staging-killed"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [".highest", ".lock", "1"]


def test_a_doctor_between_the_file_and_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export whose file is removed before it is locked begins again, even where NFS keeps it under another name."""
    lock, taken = fcntl.flock, list[Path]()

    def late(descriptor: int, operation: int) -> None:
        if not taken:
            [name] = (tmp_path / "c").glob(".staging-*.lock")
            taken.append(name.rename(tmp_path / "c" / ".nfs0001"))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with claim_version(tmp_path / "c", tmp_path / "l", 0) as claim:
        assert taken
        assert remove_abandoned(tmp_path / "c", only_look=False) == []
        assert claim.staging.is_dir()


def test_exports_and_a_doctor_at_once(tmp_path: Path) -> None:
    """While a doctor looks for abandoned stagings without a pause, no export loses its own or fails its rename."""
    candidates, done = tmp_path / "c", threading.Event()

    def look() -> None:
        while not done.is_set():
            remove_abandoned(candidates, only_look=False)

    doctor = threading.Thread(target=look)
    doctor.start()
    try:
        for number in range(1, 301):
            with claim_version(candidates, tmp_path / "l", 0) as claim:
                (claim.staging / "saved_model.pb").write_bytes(b"graph")
                assert claim.publish().name == str(number)
    finally:
        done.set()
        doctor.join()
    assert [*versions(candidates)] == [*range(1, 301)]


def test_a_number_that_came_to_nothing_is_used_up(tmp_path: Path) -> None:
    """A number that was given and not used is not given again, nor one that history knows and no directory has."""
    with next_number(tmp_path / "c", tmp_path / "l") as first:
        pass
    with next_number(tmp_path / "c", tmp_path / "l") as second:
        assert second == first + 1
    append(tmp_path / "l", 40, "rejected", "d")
    assert next_version(tmp_path / "c", tmp_path / "l") == 41


def test_publish_gives_the_same_bytes_without_copying(tmp_path: Path) -> None:
    """The live version is the candidate: same tree, same inodes, same digest, nothing else left behind."""
    candidate = make_candidate(tmp_path)
    live = publish(candidate, tmp_path / "live")
    assert tree(live) == tree(candidate.version_dir)
    assert (live / "saved_model.pb").stat().st_ino == (candidate.version_dir / "saved_model.pb").stat().st_ino
    assert verify_manifest(live, candidate.digest)
    assert [p.name for p in live.parent.iterdir()] == ["1"]


@pytest.mark.parametrize("damage", ["flip", "add", "remove", "link", "manifest", "no manifest"])
def test_changed_bytes_never_go_live(tmp_path: Path, damage: str) -> None:
    """One byte, file or link that differs from what was judged, or from its manifest, and nothing is published."""
    candidate = make_candidate(tmp_path)
    data = candidate.version_dir / "variables" / "data"
    if damage == "flip":
        data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    elif damage == "add":
        (candidate.version_dir / "extra").touch()
    elif damage == "manifest":
        text = (candidate.version_dir / MANIFEST).read_bytes()
        (candidate.version_dir / MANIFEST).write_bytes(text[:-2] + bytes([text[-2] ^ 1]) + text[-1:])
    elif damage == "no manifest":
        (candidate.version_dir / MANIFEST).unlink()
    elif damage == "link":
        (candidate.version_dir / "way-out").symlink_to("/etc/hostname")
    else:
        data.unlink()
    with pytest.raises(ManifestMismatch):
        publish(candidate, tmp_path / "live")
    assert [*(tmp_path / "live" / "m").iterdir()] == []


def test_a_candidate_that_is_gone(tmp_path: Path) -> None:
    """A candidate that somebody removed, or a link to a directory in it, is refused, and nothing is published."""
    gone, linked = make_candidate(tmp_path), make_candidate(tmp_path)
    gone.version_dir.rename(tmp_path / "gone")
    with pytest.raises(StoreError, match="must be filled from .*No such file") as caught:
        publish(gone, tmp_path / "live")
    assert "\n" not in str(caught.value)
    (linked.version_dir / "way-out").symlink_to("/etc")
    with pytest.raises(ManifestMismatch, match="regular files only"):
        publish(linked, tmp_path / "live")
    assert [*(tmp_path / "live" / "m").iterdir()] == []


def test_rewritten_manifest_does_not_help(tmp_path: Path) -> None:
    """Changing a file and its manifest entry together is still another digest."""
    candidate = make_candidate(tmp_path)
    (candidate.version_dir / "saved_model.pb").write_bytes(b"other")
    write_manifest(candidate.version_dir)
    with pytest.raises(ManifestMismatch, match="manifest was rewritten"):
        publish(candidate, tmp_path / "live")


def test_publishing_twice_is_the_same_as_once(tmp_path: Path) -> None:
    """A second try finds its own bytes and succeeds; other bytes under the number are refused."""
    candidate = make_candidate(tmp_path)
    live = publish(candidate, tmp_path / "live")
    assert publish(candidate, tmp_path / "live") == live
    (live / "saved_model.pb").unlink()
    (live / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(VersionExists, match="contains others"):
        publish(candidate, tmp_path / "live")


def test_an_older_number_does_not_go_live_below_a_newer(tmp_path: Path) -> None:
    """A version below the highest live one would never serve, so it is refused."""
    first, second = make_candidate(tmp_path), make_candidate(tmp_path)
    publish(second, tmp_path / "live")
    with pytest.raises(StoreError, match="must be the highest"):
        publish(first, tmp_path / "live")


def test_what_is_taken_away_is_kept_and_what_is_pruned_is_not(tmp_path: Path) -> None:
    """A withdrawn version is no version any more, and its bytes are there; a pruned one leaves nothing."""
    first, second = make_candidate(tmp_path), make_candidate(tmp_path)
    publish(first, tmp_path / "live")
    live = publish(second, tmp_path / "live").parent
    kept = take_away(live, 2)
    assert kept is not None
    assert hash_files(kept).digest == second.digest
    assert take_away(live, 2) is None
    doomed = put_aside(live / "1")
    assert versions(live) == {}
    remove(doomed)
    assert [*live.iterdir()] == [kept]


HOLD = """
import sys, time
from pathlib import Path
from tasks.store.lock import model_lock
with model_lock(Path(sys.argv[1]), 1):
    print("held", flush=True)
    time.sleep(3000)
"""


def test_held_lock_times_out_and_says_by_whom(tmp_path: Path) -> None:
    """While another process holds the lock, this one fails after its timeout and names it; killed, it lets go."""
    live = tmp_path / "live" / "m"
    command = [sys.executable, "-c", HOLD, str(live)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        begun = time.monotonic()
        with pytest.raises(LockTimeout) as caught, model_lock(live, 0.3):
            pass
        assert 0.3 <= time.monotonic() - begun < 10
        other.kill()
    assert f"held for 0.3 s by process {other.pid} on {socket.gethostname()} since 20" in str(caught.value)
    assert caught.value.retryable
    with model_lock(live, 5):
        assert json.loads((live / ".lock-holder.json").read_text())["pid"] == os.getpid()


def test_a_held_lock_is_waited_for_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for another change says so; once that ends, this one goes on."""
    live, said = tmp_path / "live" / "m", list[str]()
    command = [sys.executable, "-c", HOLD, str(live)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"

        def info(words: str, whom: str, _seconds: float) -> None:
            said.append(words.partition(",")[0] % whom)
            other.kill()

        monkeypatch.setattr(waiting, "SILENCE_S", 0.001)
        monkeypatch.setattr(waiting.log, "info", info)
        with model_lock(live, 600):
            pass
    assert set(said) == {"waiting for another change of 'm' to end"}


def test_models_root_that_is_a_file(tmp_path: Path) -> None:
    """A models_root that cannot be a directory is one clear line."""
    (tmp_path / "live").touch()
    with pytest.raises(StoreError, match="models_root must be writable") as caught, model_lock(tmp_path / "live/m", 0):
        pass
    assert "\n" not in str(caught.value)


def test_digest_depends_on_content_alone(tmp_path: Path) -> None:
    """The same files elsewhere have the same digest, and the manifest does not count itself."""
    for name in ("a", "b"):
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / "variables" / "x").write_bytes(b"1")
        write_manifest(tmp_path / name)
    assert hash_files(tmp_path / "a") == hash_files(tmp_path / "b")
    assert MANIFEST.as_posix() not in [path for path, _, _ in hash_files(tmp_path / "a").files]


def test_the_holder_of_the_lock_may_take_it_again(tmp_path: Path) -> None:
    """A change and what follows it can be done under one lock, which keeps others out all the while."""
    live = tmp_path / "live" / "m"
    with model_lock(live, 1):
        with model_lock(live, 1):
            pass
        with pytest.raises(Timeout):
            FileLock(live / ".lock").acquire(timeout=0)
    FileLock(live / ".lock").acquire(timeout=0).lock.release()
