"""What is removed below work_dir, and what an approval, a rollback or a living run keeps there."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.datasets.rows import load_arrays, save_arrays
from tasks.errors import DataError, StoreError
from tasks.owner import has_ended, hold, process_start
from tasks.store import runs
from tasks.store.history import append, read
from tasks.store.layout import remove_abandoned, versions
from tasks.store.leftovers import clear, find_leftovers
from tasks.store.rehearsals import rehearsal_file
from tasks.store.runs import OWNER, SILENCE_S, Owner, create_run_dir, note_digest, owner_of
from tasks.store.shared_rows import share
from tasks.training.backup import TRAININGS
from tests.store_driver import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return the directories of a model that has no run yet."""
    return at(tmp_path)


def at(root: Path, name: str = "m") -> Store:
    return Store(root / "live" / name, root / "work" / "candidates" / name, root / "aliases.json")


def change(run_dir: Path, **fields: Any) -> None:
    """Change what a run directory says about its owner."""
    (run_dir / OWNER).write_text(json.dumps({**json.loads((run_dir / OWNER).read_text()), **fields}))


def ended(run_dir: str | Path) -> Path:
    """Let the process of a run have ended: another one has its number."""
    change(Path(run_dir), started="0")
    return Path(run_dir)


def of_before(run_dir: str | Path) -> Path:
    """Let an earlier release have created a run directory."""
    (Path(run_dir) / OWNER).unlink()
    return Path(run_dir)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def removed(store: Store) -> list[str]:
    """Remove the leftovers, as announced; return what is left in runs/, candidates/ and rows/ no more."""
    work = store.candidates.parents[1]

    def there() -> set[str]:
        found = [*(work / "runs").glob("*"), *(work / "candidates" / "m").glob("*")]
        return {str(path.relative_to(work)) for path in found if path.is_dir()}

    before = there()
    announced = find_leftovers(store.config, only_look=True)
    assert there() == before
    assert find_leftovers(store.config) == announced
    return sorted(before - there())


# owners ---------------------------------------------------------------------------------------------------------


DAY = SILENCE_S + 1
OWNERS = {
    "alive": ({}, 0, False),
    "alive, and silent for a day": ({}, DAY, False),
    "ended": ({"started": "0"}, 0, True),
    "no such process": ({"pid": 2**40}, 0, True),
    "no process at all": ({"pid": -1}, 0, False),
    "another host": ({"host": "elsewhere", "started": "0"}, 0, False),
    "another host, silent": ({"host": "elsewhere"}, DAY, True),
    "before a restart of this host": ({"boot": "another", "started": "0"}, 0, False),
    "before a restart of this host, silent": ({"boot": "another"}, DAY, True),
    "another host whose clock is ahead": ({"host": "elsewhere"}, -DAY, False),
    "another model": ({"model": "other", "started": "0"}, DAY, False),
    "the same model of another production": ({"models_root": "../elsewhere", "started": "0"}, DAY, False),
}


@pytest.mark.parametrize(("fields", "silent_s", "goes"), OWNERS.values(), ids=OWNERS.keys())
def test_only_ended_runs_of_the_model_go(
    store: Store, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], silent_s: float, goes: bool
) -> None:
    """A run directory goes if its process has certainly ended, or if another host has been silent for a day."""
    monkeypatch.setattr(runs, "HELD", 0)  # nothing of another host is held here
    run_dir = create_run_dir(store.config)
    change(run_dir, **fields)
    then = run_dir.stat().st_mtime - silent_s
    os.utime(run_dir / OWNER, (then, then))
    assert removed(store) == ([f"runs/{run_dir.name}"] if goes else [])


def test_a_number_that_another_users_process_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not be signalled is told by its start, as every other, unless that is hidden."""

    def refuse(*_args: Any) -> None:
        raise PermissionError

    own = process_start(os.getpid())
    monkeypatch.setattr(os, "kill", refuse)
    assert [has_ended(os.getpid(), started) for started in ("0", own)] == [True, False]
    assert not has_ended(2**22 + 1, "0")  # hidden, as far as can be seen


def test_a_paused_container_keeps_its_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that a process of this host holds stays, however long its container, or the host, has slept."""
    monkeypatch.setattr(runs, "HELD", 2)  # the newest; the others have ended, or touch their files
    run_dirs = [create_run_dir(store.config) for _ in range(3)]
    for run_dir in run_dirs:
        change(run_dir, host="another container")
        os.utime(run_dir / OWNER, (0, 0))
    assert removed(store) == [f"runs/{run_dirs[0].name}"]
    assert removed(store) == []


def test_a_full_disk_does_not_tell_the_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the file system's time, nothing of another host goes, whatever this host's clock says."""
    monkeypatch.setattr(runs, "HELD", 0)
    change(create_run_dir(store.config), host="elsewhere")
    left = ended(create_run_dir(store.config))

    def full(**_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(runs.time, "time", lambda: 2.0**40)
    assert removed(store) == [f"runs/{left.name}"]


def test_what_is_not_a_run_directory_stays(store: Store) -> None:
    """Files, links and directories that somebody put beside the run directories are neither removed nor reported."""
    run_dir = create_run_dir(store.config)
    directory = run_dir.parent
    kept = ended(run_dir).rename(directory.parent / "moved elsewhere")
    run_dir.symlink_to(kept)
    (directory / "notes.txt").touch()
    (directory / "my experiment").mkdir()
    for name in ("20260101T000000-abcdef.txt", ".new-ideas", ".pruned-trees"):
        (directory / name).mkdir()
        os.utime(directory / name, (0, 0))
    before = names(directory)
    assert find_leftovers(store.config) == []
    assert names(directory) == before
    assert (kept / OWNER).is_file()


def test_a_living_run_touches_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a run that goes on does not get old, whatever becomes of another run's."""
    monkeypatch.setattr(runs, "BEAT_S", 0.01)
    heart = runs.Heart()
    heart.beat(tmp_path / "removed" / OWNER)
    (tmp_path / OWNER).touch()
    os.utime(tmp_path / OWNER, (0, 0))
    heart.beat(tmp_path / OWNER)
    for _ in range(60_000):
        if (tmp_path / OWNER).stat().st_mtime:
            break
        time.sleep(0.01)
    assert (tmp_path / OWNER).stat().st_mtime > 0


# what is needed -------------------------------------------------------------------------------------------------


def test_what_a_judged_candidate_needs_stays(store: Store) -> None:
    """While its candidate or a live version with its files is there, a run directory stays; then it goes."""
    waiting, live = (ended(store.run(state)) for state in ("awaiting review", "live"))
    shutil.copytree(store.candidates / "2", store.live / "7")  # published under a higher number, as by a rollback
    append(store.live, 7, "live", store.digest(2))
    shutil.rmtree(store.candidates / "2")
    assert removed(store) == []
    shutil.rmtree(store.live / "7")
    assert removed(store) == [f"runs/{live.name}"]
    shutil.rmtree(store.candidates / "1")
    assert removed(store) == [f"runs/{waiting.name}"]


@pytest.mark.parametrize("lost", ["rehearsal", "note", "manifest"])
def test_each_reference_is_enough(store: Store, lost: str) -> None:
    """A rehearsal that cannot be read, a digest that could not be noted, or a damaged manifest removes nothing."""
    run_dir = ended(store.run("validated"))
    if lost == "rehearsal":
        rehearsal_file(store.candidates, store.digest(1), 1).write_bytes(b"\xff{")
    elif lost == "note":
        change(run_dir, digests=[])
    else:
        (store.candidates / "1" / "assets.extra" / "manifest.json").write_text("")
    assert removed(store) == []


def test_a_candidate_that_is_judged_again_keeps_both(store: Store) -> None:
    """The rehearsal of a candidate that was judged again names the rows of its run, and the answers of the new one."""
    first = ended(store.run("awaiting review"))
    name, digest = f"{first.name}-again-20260101T000000123456", store.digest(1)
    again = ended(create_run_dir(store.config, name, digests=(digest,)))
    assert removed(store) == []
    shutil.rmtree(store.candidates / "1")
    assert removed(store) == [f"runs/{first.name}", f"runs/{again.name}"]


def test_a_candidate_that_was_never_judged_goes(store: Store) -> None:
    """The candidate of an ended run goes with its directory; one that was judged, or may be judged, stays."""
    killed, living, judged = store.run(), store.run(), store.run("rejected")
    noted_only = store.run("validated")
    # killed before it was stored: impossible, but harmless
    rehearsal_file(store.candidates, store.digest(4), 4).unlink()
    for run_dir in (killed, judged, noted_only):
        ended(run_dir)
    assert removed(store) == ["candidates/m/1", f"runs/{Path(killed).name}"]
    ended(living)
    assert removed(store) == ["candidates/m/2", f"runs/{Path(living).name}"]
    assert [entry.version for entry in read(store.live) if entry.state == "exported"] == [1, 2, 3, 4]
    store.run()
    assert [*versions(store.candidates)] == [3, 4, 5]  # numbers are not used again


def test_a_leftover_that_a_run_is_given_stays(store: Store, tmp_path: Path) -> None:
    """A model or rows that a run of any model reads are not removed below it, and go when it has ended."""
    left, rows, pruned = ended(store.run()), ended(store.run()), of_before(store.run("rejected"))
    shutil.rmtree(store.candidates / "3")
    reading = (
        create_run_dir(store.config, uses=(f"{store.candidates}/../m/1", str(store.candidates / "1" / "deeper"))),
        create_run_dir(at(tmp_path, "other").config, uses=(f"{rows}/data/train.npz", str(pruned))),
    )
    clear(dataclasses.replace(store, keep=1).config)
    assert [*versions(store.candidates)] == [1]
    assert names(left.parent) == sorted(path.name for path in (left, rows, pruned, *reading))
    for run_dir in reading:
        ended(run_dir)
    assert len(removed(store)) == 5  # and the other model's run directory is for the other model to remove


def test_a_directory_above_a_leftover(store: Store) -> None:
    """A run that is given a directory finds its model anywhere below it."""
    ended(store.run())
    reading = create_run_dir(store.config, uses=(str(store.candidates),))
    assert removed(store) == []
    ended(reading)
    assert len(removed(store)) == 3


def test_what_this_history_does_not_know_stays(store: Store, tmp_path: Path) -> None:
    """Two productions of one name share candidates: neither removes what the other's history says is needed."""
    other = dataclasses.replace(store, live=tmp_path / "other" / "m")
    ended(other.run("awaiting review"))
    for _ in range(3):
        ended(store.run("rejected"))
    clear(dataclasses.replace(store, keep=2).config)
    assert [*versions(store.candidates)] == [1, 3, 4]  # the newest two of its own
    (store.candidates / "3" / "assets.extra" / "manifest.json").write_text("")
    clear(dataclasses.replace(store, keep=1).config)
    assert [*versions(store.candidates)] == [1, 4]
    assert len(names(tmp_path / "work" / "runs")) == 2


@pytest.mark.parametrize("away", ["live", "work/candidates"])
def test_a_disk_that_is_not_mounted(store: Store, tmp_path: Path, away: str) -> None:
    """While the history or the candidates are away, nothing that was judged goes, even after further runs."""
    ended(store.run("awaiting review"))
    live = ended(store.run("live"))
    (store.candidates / "2").rename(store.live / "2")
    left = ended(store.run())
    needed = set(names(left.parent)) - {left.name}
    (tmp_path / away).rename(tmp_path / "elsewhere")
    clear(dataclasses.replace(store, keep=1).config)
    assert needed <= set(names(live.parent))
    if away == "live":
        for _ in range(2):
            ended(store.run("rejected"))
        clear(dataclasses.replace(store, keep=1).config)
        assert needed <= set(names(live.parent))
        assert [*versions(store.candidates)] == [1, 5]
        shutil.rmtree(tmp_path / away)
    (tmp_path / "elsewhere").rename(tmp_path / away)
    clear(dataclasses.replace(store, keep=1).config)
    assert needed <= set(names(live.parent))


def test_a_candidate_that_was_moved_elsewhere(store: Store, tmp_path: Path) -> None:
    """Of a candidate that somebody has replaced by a link, the link goes, and the files stay where they are."""
    ended(store.run())
    (store.candidates / "1").rename(tmp_path / "elsewhere")
    (store.candidates / "1").symlink_to(tmp_path / "elsewhere")
    assert len(removed(store)) == 2
    assert (tmp_path / "elsewhere" / "who").is_file()
    assert [name for name in names(store.candidates) if name.startswith(".pruned-")] == []


def test_a_rehearsal_that_was_stored_before_the_kill(store: Store) -> None:
    """A candidate whose run was killed between its rehearsal and its line in the history was judged."""
    ended(store.run())
    rehearsal_file(store.candidates, store.digest(1), 1).parent.mkdir()
    rehearsal_file(store.candidates, store.digest(1), 1).write_text("{}")
    assert removed(store) == []


def test_another_models_candidate_of_the_same_name_stays(store: Store) -> None:
    """Two productions of one name share candidates; neither removes what runs of the other have exported."""
    run_dir = Path(store.run())
    change(run_dir, models_root="../elsewhere", started="0")
    assert removed(store) == []


# earlier releases -----------------------------------------------------------------------------------------------


def test_directories_of_earlier_releases(store: Store, tmp_path: Path) -> None:
    """Without an owner, a directory goes if only pruned candidates of the model name it; an unknown one is reported."""
    needed, pruned, shared = (of_before(store.run("validated")) for _ in range(3))
    again = pruned.with_name(f"{pruned.name}-again-20260101T000000")
    again.mkdir()
    (again / "requests.npz").touch()
    pruned_record = rehearsal_file(store.candidates, store.digest(2), 2)
    pruned_record.write_text(json.dumps({"splits": str(pruned), "requests": str(again)}))
    unknown, others = of_before(store.run()), of_before(at(tmp_path, "other").run("validated"))
    for version in (2, 3):
        shutil.rmtree(store.candidates / str(version))
    theirs = rehearsal_file(tmp_path / "work" / "candidates" / "other", "0" * 64, 1)
    theirs.write_text(json.dumps({"requests": f"/where/it/was/runs/{shared.name}/requests.npz"}))
    [finding] = [finding for finding in find_leftovers(store.config, only_look=True) if finding.done == "reported"]
    assert str(unknown) in finding.text
    assert "remove it unless its run is going on" in finding.text
    assert removed(store) == [f"runs/{pruned.name}", f"runs/{again.name}"]
    assert names(unknown.parent) == sorted(path.name for path in (needed, shared, unknown, others))
    assert load_arrays(needed / "data" / "train.npz")["x/a"].shape == (1000,)


def test_a_damaged_owner_is_no_owner(store: Store) -> None:
    """A file that does not name an owner makes a directory unknown, whatever is in it."""
    run_dir = create_run_dir(store.config)
    for content in ("", "[]", '{"model": "m"}', "\x00", '{"pid": "x"}'):
        (run_dir / OWNER).write_text(content)
        assert owner_of(run_dir) is None
        assert [finding.done for finding in find_leftovers(store.config)] == ["reported"]
    note_digest(run_dir, "0" * 64)
    (run_dir / OWNER).unlink()
    os.mkfifo(run_dir / OWNER)  # which nobody writes to
    assert owner_of(run_dir) is None
    assert [finding.done for finding in find_leftovers(store.config)] == ["reported"]


def test_an_empty_directory_of_a_full_disk(store: Store) -> None:
    """A directory that could be created, and nothing in it, is one finding, and goes after a day."""
    hollow = of_before(create_run_dir(store.config))
    (hollow / "data").mkdir()
    assert removed(store) == []
    os.utime(hollow, (0, 0))
    assert len(find_leftovers(store.config, only_look=True)) == 1
    assert removed(store) == [f"runs/{hollow.name}"]


# the next run ---------------------------------------------------------------------------------------------------


def test_the_next_run_removes_and_says_so_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The next run removes leftovers and prunes candidates of a model that is always rejected, in one line."""
    caplog.set_level(logging.INFO, "tasks")
    for _ in range(4):
        ended(store.run("rejected"))
    ended(store.run())
    clear(dataclasses.replace(store, keep=2).config)
    [line] = [record.message for record in caplog.records]
    assert line == f"removed 6 directories that earlier runs left in '{store.candidates.parents[1]}'"
    assert [*versions(store.candidates)] == [3, 4]  # 5 was not judged; 1 and 2 are more than are kept
    assert len(names(store.candidates.parents[1] / "runs")) == 2
    caplog.clear()
    clear(store.config)
    assert not caplog.records


def test_a_run_that_lasts_for_days_keeps_its_candidate(store: Store) -> None:
    """A candidate whose run may be going on is not pruned, however long ago it was exported."""
    living, elsewhere = Path(store.run()), Path(store.run())
    change(elsewhere, models_root="/models")  # which is the same directory in a container
    for _ in range(3):
        ended(store.run("rejected"))
    history = store.live / ".history.jsonl"
    for entry in read(store.live)[:2]:
        history.write_text(history.read_text().replace(entry.time, "2020-01-01T00:00:00+00:00"))
    clear(dataclasses.replace(store, keep=1).config)
    assert [*versions(store.candidates)] == [1, 2, 5]
    for run_dir in (living, elsewhere):
        ended(run_dir)
    clear(dataclasses.replace(store, keep=1).config)
    assert [*versions(store.candidates)] == [5]


@pytest.mark.parametrize("broken", ["work", "work/runs", "work/rows", "work/candidates", "live/m/.history.jsonl"])
def test_nothing_that_cannot_be_removed_fails_a_run(store: Store, tmp_path: Path, broken: str) -> None:
    """A file where a directory must be, and the reverse, is left to the stage that needs it, and to the doctor."""
    path = tmp_path / broken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if path.suffix else path.touch()
    clear(dataclasses.replace(store, keep=1).config)
    run_dir = create_run_dir(store.config)
    assert run_dir.parent == tmp_path / "work" / "runs"
    note_digest(run_dir, "0" * 64)
    found = find_leftovers(store.config)
    assert {finding.done for finding in found} <= {"reported"}
    assert bool(found) == (broken == "live/m/.history.jsonl")
    if broken in ("work", "work/runs"):
        with pytest.raises(DataError, match="work_dir must be writable"):
            save_arrays(run_dir / "data" / "train.npz", {})


def test_a_work_dir_behind_a_link(store: Store, tmp_path: Path) -> None:
    """The runs of a model are the same through a link to work_dir, and after both directories have been moved."""
    (tmp_path / "work").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "work")
    linked = dataclasses.replace(store, candidates=tmp_path / "link" / "candidates" / "m")
    ended(linked.run("validated"))
    leftover = ended(linked.run())
    assert removed(store) == ["candidates/m/2", f"runs/{leftover.name}"]
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("work", "live"):
        (tmp_path / name).rename(moved / name)
    left = ended(at(moved).run())
    assert removed(at(moved)) == ["candidates/m/3", f"runs/{left.name}"]


def test_another_process_is_faster(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that remove the same directory at the same time both succeed."""
    run_dir = ended(create_run_dir(store.config))
    rename = Path.rename

    def beaten(path: Path, target: Path) -> Path:
        shutil.rmtree(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", beaten)
    assert [finding.done for finding in find_leftovers(store.config)] == ["removed"]
    assert names(run_dir.parent) == []


def test_what_cannot_be_removed_is_not_said_to_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is hidden, but whose files another user's mode keeps, is reported until it can be finished."""
    run_dir = ended(create_run_dir(store.config))
    (store.candidates / ".staging-of-a-killed-export").mkdir(parents=True)

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as refused:
        refused.setattr(shutil, "rmtree", refuse)
        for _ in range(2):
            [finding] = find_leftovers(store.config)
            assert finding.done == "reported"
            assert run_dir.name in finding.text
        with pytest.raises(StoreError, match="must be removable"):
            remove_abandoned(store.candidates, only_look=False)
    assert [finding.done for finding in find_leftovers(store.config)] == ["removed"]
    assert names(run_dir.parent) == []
    assert len(remove_abandoned(store.candidates, only_look=False)) == 1


def test_a_run_begins_beside_the_doctor(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that gets its name while the doctor looks is no reason to leave the others."""
    left = ended(create_run_dir(store.config))
    new = left.with_name(f".new-{left.name}")
    glob = Path.glob

    def listed(path: Path, pattern: str) -> list[Path]:
        return [*glob(path, pattern), *([new] if path == new.parent else [])]

    monkeypatch.setattr(Path, "glob", listed)
    assert removed(store) == [f"runs/{left.name}"]


def test_two_runs_at_once(store: Store) -> None:
    """Runs that begin, share rows, end and clear at the same time keep what is needed and remove the rest."""

    def going(state: str) -> list[Path]:
        found = []
        for _ in range(6):
            found.append(ended(store.run(state)))
            clear(store.config)
        return found

    with ThreadPoolExecutor(2) as pool:
        needed, others = (pool.submit(going, state) for state in ("awaiting review", ""))
    clear(store.config)
    directory = others.result()[0].parent
    assert names(directory) == sorted(path.name for path in needed.result())
    assert len(versions(store.candidates)) == 6
    assert all(len(load_arrays(path / "data" / "train.npz")["x/a"]) == 1000 for path in needed.result())
    assert len(names(store.candidates.parents[1] / "rows")) <= 1  # none if it went while another run linked to it


# kills ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def driver() -> Iterator[Callable[..., dict[str, Any]]]:
    """Start a process that dies before the k-th file-system call of an operation."""
    script = Path(__file__).parents[1] / "store_driver.py"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(script)], text=True, **pipes) as process:  # type: ignore[call-overload]

        def run(store: Store, kill_at: int, operation: str, *args: Any) -> dict[str, Any]:
            command = {"store": store.to_json(), "kill_at": kill_at, "operation": operation, "args": args}
            print(json.dumps(command), file=process.stdin, flush=True)
            answer = dict(json.loads(process.stdout.readline()))
            assert "error" not in answer, answer
            return answer

        yield run
        process.stdin.close()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_every_call(store: Store, driver: Callable[..., dict[str, Any]], step: int) -> None:
    """Wherever a run or its clean-up is killed, the next one leaves what is needed, and nothing else."""
    needed = ended(store.run("awaiting review"))
    work = store.candidates.parents[1]
    points = 0

    def check() -> None:
        clear(store.config)
        left = [name for name in names(needed.parent) if not name.startswith(".new-")]  # these stay for a day
        assert left == [needed.name]
        assert [*versions(store.candidates)] == [1]
        beside = {name for name in names(store.candidates) if name.startswith((".pruned-", ".staging-"))}
        assert beside <= {".staging-highest"}  # which the next number replaces
        assert len(names(work / "rows")) == 1
        assert load_arrays(needed / "data" / "train.npz")["x/a"].shape == (1000,)

    for operation in ("run", "clear"):
        for kill_at in itertools.count(1, step):
            if operation == "clear":
                driver(store, 0, "run")
            killed = driver(store, kill_at, operation)
            check()
            if "killed_before" not in killed:
                break
            points += 1
    assert points > 40 / step
    for path in needed.parent.glob(".new-*"):
        os.utime(path, (0, 0))
    clear(store.config)
    assert names(needed.parent) == [needed.name]


# rows -----------------------------------------------------------------------------------------------------------


def rows_of(store: Store, name: str, arrays: dict[str, Any]) -> Path:
    path = store.candidates.parents[1] / "runs" / name / "train.npz"
    save_arrays(path, arrays)
    share(store.config, path)
    return path


def test_equal_rows_are_stored_once(store: Store) -> None:
    """Equal rows of any kind are one file for all runs; it goes with the last of them."""
    rows = {"x/text": np.array(["ä", "b"], object), "x/n": np.arange(2), "x/bytes": np.array([b"a", b""], object)}
    one, two = (rows_of(store, name, rows) for name in ("one", "two"))
    other = rows_of(store, "three", {**rows, "x/n": np.arange(2) + 1})
    pool = store.candidates.parents[1] / "rows"
    assert one.samefile(two)
    assert not one.samefile(other)
    assert len(names(pool)) == 2
    shutil.rmtree(one.parent)
    find_leftovers(store.config)
    assert len(names(pool)) == 2
    shutil.rmtree(two.parent)
    (pool / ".linking-of-a-killed-run").touch()
    (pool / "mine.npz").touch()
    find_leftovers(store.config)
    assert len(names(pool)) == 2


def test_rows_that_are_written_again_change_no_other_run(store: Store) -> None:
    """A stage that is repeated with other rows gets a new file, and the other run keeps its own."""
    one, two = (rows_of(store, name, {"x": np.arange(3)}) for name in ("one", "two"))
    save_arrays(one, {"x": np.arange(4)})
    assert [len(load_arrays(path)["x"]) for path in (one, two)] == [4, 3]


@pytest.mark.parametrize("how", ["flipped", "cut short", "empty", "a link elsewhere", "a link to them", "a directory"])
def test_damaged_rows_are_noticed_and_not_shared(store: Store, tmp_path: Path, how: str) -> None:
    """A run never links to a file with other bytes; who reads a damaged one is told."""
    first = rows_of(store, "one", {"x": np.arange(1000)})
    [entry] = (store.candidates.parents[1] / "rows").iterdir()
    content = first.read_bytes()
    if how == "flipped":
        first.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
    elif how in ("cut short", "empty"):
        first.write_bytes(content[: len(content) // 2 if how == "cut short" else 0])
    else:
        entry.unlink()
        elsewhere = tmp_path / "elsewhere.npz"
        if how == "a link to them":
            elsewhere.write_bytes(content)
        entry.mkdir() if how == "a directory" else entry.symlink_to(elsewhere)
    second = rows_of(store, "two", {"x": np.arange(1000)})
    assert not second.is_symlink()
    assert second.read_bytes() == content
    if how in ("flipped", "cut short", "empty"):
        with pytest.raises(DataError, match="saved arrays must be readable"):
            load_arrays(first)
        assert second.samefile(entry)
        assert rows_of(store, "three", {"x": np.arange(1000)}).samefile(entry)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSPC, errno.EROFS, errno.EOPNOTSUPP])
def test_rows_where_no_link_is_possible(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Without hard links, room or permission each run has a copy of its own."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    one, two = (rows_of(store, name, {"x": np.arange(3)}) for name in ("one", "two"))
    assert not one.samefile(two)
    assert one.read_bytes() == two.read_bytes()
    assert names(one.parent) == ["train.npz"]


def test_an_owner_knows_its_process(store: Store) -> None:
    """The owner's file names this process, and the digests that were noted, in order."""
    run_dir = create_run_dir(store.config)
    note_digest(run_dir, "a")
    note_digest(run_dir, "b")
    owner = owner_of(run_dir)
    assert isinstance(owner, Owner)
    assert (owner.model, owner.models_root, owner.pid, owner.digests) == ("m", "../live", os.getpid(), ("a", "b"))


def test_an_old_backup_of_a_training_goes(store: Store) -> None:
    """The backup of a training that was not repeated for a week is removed, unless its training goes on now."""
    trainings = store.candidates.parents[1] / TRAININGS
    old, new, held, another = (trainings / name for name in ("m/old", "m/new", "m/held", "other/old"))
    for path in (old, new, held, another):
        (path / "epoch-00000001").mkdir(parents=True)
        os.utime(path, (1, 1)) if path != new else None
    descriptor = hold(held)
    try:
        [finding] = find_leftovers(store.config)
    finally:
        os.close(descriptor)
    assert (finding.done, str(old) in finding.text) == ("removed", True)
    assert {path for path in (old, new, held, another) if path.exists()} == {new, held, another}
