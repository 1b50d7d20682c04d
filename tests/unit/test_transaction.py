"""Changing what serves: what is written down, what is taken back, what the doctor makes of what is left."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import ManifestMismatch, StoreError, TrackingError, VersionExists
from tasks.records import Change
from tasks.savedmodel.manifest import hash_files
from tasks.store.champion import champion_version, predecessor
from tasks.store.history import append, read, state_of
from tasks.store.journal import JOURNAL, begin, pending
from tasks.store.layout import versions
from tasks.store.publish import bring_in, put_aside, take_away
from tasks.store.repair import catch_up, mend, repair
from tasks.store.serving_config import MODELS_CONFIG, labels_of, listed_versions, write_config
from tasks.store.transaction import FORMER_OUTBOX, OUTBOX, Production, annotate, carry_out, finish, tell, untold
from tests.store_driver import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a model of which nothing is live, whose name has a dot."""
    return Store(tmp_path / "live" / "m.v1", tmp_path / "candidates", tmp_path / "aliases.json")


@pytest.fixture
def labelled(store: Store) -> Store:
    """Return a model whose version 2 is stable and has a predecessor."""
    store = dataclasses.replace(store, layout="labels")
    for _ in range(2):
        store.promote(store.export())
    store.make_stable()
    return store


def states(store: Store) -> dict[int, str]:
    entries = read(store.live)
    return {entry.version: state_of(entries, entry.version) for entry in entries}


def change_to(store: Store, version: int, previous: int | None = None) -> Change:
    source = str(store.candidates / str(version))
    return Change("publish", version, str(version), store.digest(version), source, previous=previous)


def found(store: Store) -> list[tuple[str, str]]:
    findings = [*repair(store.production, store.candidates), *catch_up(store.production)]
    return [(finding.done, finding.text) for finding in findings]


class Unreachable:
    """A registry that does not answer, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, change: Change) -> None:
        self.asked += 1
        raise TrackingError("MLflow does not answer")


def with_registry(store: Store, record: Callable[[Change], None]) -> Production:
    return dataclasses.replace(store.production, record=record)


def test_a_promotion_supersedes(store: Store) -> None:
    """The new version is live, the one before superseded, the alias moved, and nothing is left open."""
    for _ in range(2):
        assert store.promote(store.export()) == "live"
    assert states(store) == {1: "superseded", 2: "live"}
    assert [*versions(store.live)] == [1, 2]
    assert store.aliases == {"champion": store.digest(2)}
    assert pending(store.live) is None
    assert untold(store.live) == {}


def test_the_only_version_is_withdrawn(store: Store) -> None:
    """Where production does not answer as validated, nothing is live, the bytes are kept and the number is used up."""
    refusing = dataclasses.replace(store, refuses=True)
    assert refusing.promote(refusing.export()) == "rolled back"
    assert versions(store.live) == {}
    [kept] = store.live.glob(".withdrawn-1-*")
    assert hash_files(kept).digest == store.digest(1)
    assert states(store) == {1: "rolled back"}
    assert champion_version(store.live, "latest") is None
    assert store.promote(store.export()) == "live"
    assert states(store) == {1: "rolled back", 2: "live"}


def test_a_withdrawn_rollback_can_be_tried_again(store: Store) -> None:
    """A rollback that production was too slow for leaves the same way back, under a new number."""
    for _ in range(2):
        store.promote(store.export())
    assert dataclasses.replace(store, refuses=True).rollback() == "rolled back"
    assert [*versions(store.live)] == [1, 2]
    assert predecessor(store.live, 2) == 1
    assert store.rollback() == "live"
    assert hash_files(versions(store.live)[4]).digest == store.digest(1)
    assert states(store) == {1: "superseded", 2: "rolled back", 3: "rolled back", 4: "live"}


def test_a_rollback_of_a_rollback_goes_further_back(store: Store) -> None:
    """Neither the version that was bad nor the bytes that serve are a way back; in the end there is none."""
    for _ in range(3):
        store.promote(store.export())
    store.rollback()
    assert hash_files(versions(store.live)[4]).digest == store.digest(2)
    store.rollback()
    assert hash_files(versions(store.live)[5]).digest == store.digest(1)
    assert predecessor(store.live, 5) is None
    assert store.aliases["champion"] == store.digest(1)


def test_a_canary_is_no_way_back(labelled: Store) -> None:
    """A rollback goes to what was stable before, not to the canaries beside it, older or newer."""
    labelled.promote(labelled.export())  # 3, a canary for a while
    labelled.promote(labelled.export())
    assert labels_of(labelled.live) == {"stable": 2, "canary": 4}
    assert labelled.make_stable() == "live"
    labelled.promote(labelled.export())
    assert labels_of(labelled.live) == {"stable": 4, "canary": 5}
    assert states(labelled) == {1: "superseded", 2: "superseded", 3: "canary", 4: "live", 5: "canary"}
    assert predecessor(labelled.live, 4) == 2
    assert listed_versions(labelled.live) == [2, 4, 5]
    labelled.rollback()
    assert labels_of(labelled.live) == {"stable": 2, "canary": 5}
    assert states(labelled)[4] == "rolled back"


def test_a_canary_is_withdrawn(labelled: Store) -> None:
    """A canary that does not answer as validated is neither listed nor labelled, and the stable version stays."""
    refusing = dataclasses.replace(labelled, refuses=True)
    assert refusing.promote(refusing.export()) == "rolled back"
    assert labels_of(labelled.live)["stable"] == 2
    assert 3 not in {*labels_of(labelled.live).values(), *listed_versions(labelled.live), *versions(labelled.live)}
    assert states(labelled) == {1: "superseded", 2: "live", 3: "rolled back"}


def test_a_label_that_is_refused_stays(labelled: Store) -> None:
    """A label whose production never answers stays where it was, and so does models.config."""
    labelled.promote(labelled.export())
    before = (labelled.live.parent / MODELS_CONFIG).read_text()
    assert dataclasses.replace(labelled, refuses=True).make_stable() == "rolled back"
    assert (labelled.live.parent / MODELS_CONFIG).read_text() == before
    assert states(labelled) == {1: "superseded", 2: "live", 3: "canary"}
    assert pending(labelled.live) is None


def test_a_label_moves_to_what_production_did_not_load(labelled: Store) -> None:
    """Before production is asked about a version it is told to load it; if it refuses, it is told so no longer."""
    for _ in range(2):
        labelled.promote(labelled.export())
        labelled.make_stable()
    assert listed_versions(labelled.live) == [3, 4]
    asked = []

    def verify(change: Change) -> str:
        asked.append(listed_versions(labelled.live))
        return "" if change.version in asked[-1] else "not loaded"

    change = Change("label", 1, "1", labelled.digest(1), previous=4, rolls_back=4, label="stable")
    refused = dataclasses.replace(labelled.production, verify=lambda change: verify(change) or "slow")
    assert carry_out(refused, change).state == "rolled back"
    assert listed_versions(labelled.live) == [3, 4]
    assert carry_out(dataclasses.replace(labelled.production, verify=verify), change).state == "live"
    assert asked == [[1, 3, 4], [1, 3, 4]]
    assert labels_of(labelled.live)["stable"] == 1


def test_a_label_without_its_version_goes(labelled: Store) -> None:
    """A label whose version somebody removed leaves models.config with the next change; else production refuses it."""
    labelled.promote(labelled.export())
    put_aside(labelled.live / "3")
    labelled.promote(labelled.export())
    assert labels_of(labelled.live) == {"stable": 2, "canary": 4}
    assert listed_versions(labelled.live) == [1, 2, 4]


def test_models_config_cannot_be_locked(labelled: Store) -> None:
    """What keeps models.config from being written is one clear line, and the next run finishes the change."""
    lock = labelled.live.parent / f".{MODELS_CONFIG}.lock"
    lock.unlink()
    lock.mkdir()
    version = labelled.export()
    with pytest.raises(StoreError, match="must be writable, got .*models.config.lock") as caught:
        labelled.promote(version)
    assert "\n" not in str(caught.value)
    assert labels_of(labelled.live)["stable"] == 2
    lock.rmdir()
    assert ("finished", "the publish of version 3: live") in found(labelled)
    assert labels_of(labelled.live) == {"stable": 2, "canary": 3}


def test_models_share_a_config(labelled: Store) -> None:
    """Changes of one model leave the entries of the others in models.config as they are."""
    other = dataclasses.replace(
        labelled, live=labelled.live.with_name("other"), candidates=labelled.candidates.with_name("c")
    )
    other.promote(other.export())
    labelled.rollback()
    assert (labels_of(labelled.live)["stable"], labels_of(other.live)) == (1, {"stable": 1})


@pytest.mark.parametrize("layout", ["latest", "labels"])
def test_what_has_answered_is_not_asked_again(store: Store, layout: str) -> None:
    """A crash behind the moved label or the line `live` is finished, even if production is down by then."""
    store = dataclasses.replace(store, layout=layout)
    for _ in range(2):
        store.promote(store.export())
    version = store.export()
    change = dataclasses.replace(change_to(store, version, previous=2), label="canary" if layout == "labels" else "")
    begin(store.live, change)
    bring_in(store.live, change)
    if layout == "labels":
        write_config(store.live, [1, 2, 3], {"stable": 1, "canary": 3})
    else:
        append(store.live, 3, "live", change.digest)
    found(dataclasses.replace(store, refuses=True))
    assert 3 in versions(store.live)
    assert states(store)[3] == ("canary" if layout == "labels" else "live")
    assert pending(store.live) is None


INTERRUPTED = """
import sys
from pathlib import Path
from tests.store_driver import Store
store = Store(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
renamed = []
def audit(event, args):
    if event == "os.rename" and str(args[1]).endswith("/1"):
        renamed.append(True)
    elif event == "open" and renamed:
        raise KeyboardInterrupt
sys.addaudithook(audit)
store.promote(1)
"""


def test_an_interrupt_just_behind_the_rename(store: Store) -> None:
    """Whoever presses Ctrl-C when the version has just become visible leaves a change that the next run finishes."""
    store.export()
    where = [str(path) for path in (store.live, store.candidates, store.registry)]
    command = [sys.executable, "-c", INTERRUPTED, *where]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert [*versions(store.live)] == [1]
    assert pending(store.live) is not None
    assert ("finished", "the publish of version 1: live") in found(store)
    assert states(store) == {1: "live"}
    assert store.aliases == {"champion": store.digest(1)}


def test_nothing_is_open_after_a_refused_publish(store: Store) -> None:
    """Changed bytes, a taken number and a lower number are errors that leave no change open and nothing half-live."""
    for _ in range(3):
        store.export()
    (store.candidates / "1" / "fingerprint.pb").write_bytes(b"flipped")
    with pytest.raises(ManifestMismatch):
        store.promote(1)
    assert store.promote(3) == "live"
    with pytest.raises(StoreError, match="must be the highest"):
        store.promote(2)
    (store.live / "7").touch()
    with pytest.raises(VersionExists, match="contains others"):
        carry_out(store.production, dataclasses.replace(change_to(store, 2), version=7, directory="7"))
    (store.live / "7").unlink()
    assert pending(store.live) is None
    assert sorted(path.name for path in store.live.iterdir() if path.name[0] != ".") == ["3"]
    assert store.promote(store.export()) == "live"


def test_metrics_are_added_to_what_the_registry_does_not_know(store: Store) -> None:
    """They wait with the newest change of the same bytes; once that was told, there is nothing to add them to."""
    changes = [change_to(store, store.export()) for _ in range(2)]
    away = with_registry(store, Unreachable())
    for change in changes:
        carry_out(away, change)
    assert annotate(store.live, changes[0], "no errors")
    assert [change.metrics for change in untold(store.live).values()] == ["no errors", ""]
    told: list[str] = []
    tell(with_registry(store, lambda change: told.append(change.metrics)))
    assert told == ["no errors", ""]
    assert not annotate(store.live, changes[0], "no errors")
    assert untold(store.live) == {}


def test_the_registry_is_told_later_and_in_order(store: Store) -> None:
    """What MLflow could not be told waits in order, even if the clock is set back, and is told once it answers."""
    for _ in range(3):
        store.export()
    down = with_registry(store, Unreachable())
    store.live.mkdir(exist_ok=True)
    for version in (1, 2):
        carry_out(down, change_to(store, version))
    first, second = sorted((store.live / OUTBOX).iterdir())
    second.rename(second.with_name(f"{9 * 10**18}.json"))  # told by a clock that is far ahead
    carry_out(down, change_to(store, 3))
    with pytest.raises(TrackingError):
        tell(down)
    assert [change.version for change in untold(store.live).values()] == [1, 2, 3]
    told: list[int] = []
    tell(with_registry(store, lambda change: told.append(change.version)))
    assert told == [1, 2, 3]
    assert untold(store.live) == {}
    assert first.name < second.name


def test_what_waits_in_the_outbox_of_an_earlier_release(store: Store) -> None:
    """It is told from where it lies, before what came after it, and garbage there is put aside as well."""
    store.export()
    store.export()
    down = with_registry(store, Unreachable())
    carry_out(down, change_to(store, 1))
    (store.live / OUTBOX).rename(store.live / FORMER_OUTBOX)
    (store.live / FORMER_OUTBOX / ".staging-1.json").touch()
    (store.live / FORMER_OUTBOX / "notes.json").touch()
    carry_out(down, change_to(store, 2))
    assert [change.version for change in untold(store.live).values()] == [1, 2]
    told: list[int] = []
    again = with_registry(store, lambda change: told.append(change.version))
    repair(again, store.candidates)
    list(catch_up(again))
    assert told == [1, 2]
    assert untold(store.live) == {}
    assert [path.name for path in (store.live / FORMER_OUTBOX).iterdir()] == ["notes.unreadable"]


def test_what_a_change_needs_does_not_wait_for_the_registry(store: Store) -> None:
    """What the next change mends first, it mends without MLflow: a rollback must not wait for it. The doctor does."""
    store.export()
    registry = Unreachable()
    down = with_registry(store, registry)
    carry_out(down, change_to(store, 1))
    assert mend(down, store.candidates) == []
    assert registry.asked == 0
    assert repair(down, store.candidates) == []
    [finding] = catch_up(down)
    assert finding.done == "reported"
    assert "1 changes could not be sent to MLflow yet" in finding.text
    assert registry.asked == 1


def test_the_outbox_cannot_be_made(store: Store) -> None:
    """A file in the outbox's place stops no version; the doctor names it, and without it the next run finishes."""
    store.export()
    store.live.mkdir(exist_ok=True)
    (store.live / OUTBOX).touch()
    assert store.promote(1) == "live"
    assert pending(store.live) is not None
    [finding] = repair(store.production, store.candidates)
    assert finding.done == "reported"
    assert "publish of version 1: live, but this could not be recorded" in finding.text
    assert f"{OUTBOX}' must be a directory" in finding.text
    assert "\n" not in finding.text
    (store.live / OUTBOX).unlink()
    assert store.promote(store.export()) == "live"
    assert states(store) == {1: "superseded", 2: "live"}
    assert store.aliases == {"champion": store.digest(2)}


@pytest.mark.parametrize("content", ["", "{", "5", "[]", "null", '{"operation": "x"}', '{"version": "x"}', "\xff"])
@pytest.mark.parametrize("name", ["1.json", "99999999999999999999999.json", "1a.json", "notes.json"])
def test_garbage_in_the_outbox(store: Store, name: str, content: str) -> None:
    """What is no change in the outbox stops neither a promotion nor a rollback; it is put aside and named."""
    store.promote(store.export())
    (store.live / OUTBOX / name).write_text(content, encoding="latin-1")
    assert store.promote(store.export()) == "live"
    assert store.aliases == {"champion": store.digest(2)}
    kept = (store.live / OUTBOX / name).with_suffix(".unreadable")
    assert kept.read_text(encoding="latin-1") == content
    assert store.rollback() == "live"
    assert untold(store.live) == {}


@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_a_history_that_was_cut_or_overwritten(store: Store, cut: int) -> None:
    """Lines that are no entries are passed over, and the next change is written behind them."""
    store.promote(store.export())
    history = store.live / ".history.jsonl"
    history.write_bytes(history.read_bytes() + b'\x00\xff{"version": 9'[:cut] + b"[1]\n5\nnull\n")
    assert store.promote(store.export()) == "live"
    assert states(store) == {1: "superseded", 2: "live"}


def test_a_change_cannot_begin_over_an_open_one(store: Store) -> None:
    """While a change is written down as open, no other begins, and the message says who finishes it."""
    store.export()
    store.live.mkdir(exist_ok=True)
    begin(store.live, change_to(store, 1))
    with pytest.raises(StoreError, match=r"unfinished change; run python -m flows\.doctor"):
        carry_out(store.production, change_to(store, 1))


def test_the_doctor_on_a_journal_that_nobody_wrote(store: Store) -> None:
    """A journal that holds no change is named, and everything else is still looked at."""
    store.promote(store.export())
    (store.live / JOURNAL).write_text("{}")
    (store.live / ".staging-x").mkdir()
    assert [done for done, _ in found(store)] == ["removed", "reported"]


def test_bytes_that_changed_behind_the_rename_are_withdrawn(store: Store) -> None:
    """A publish that a crash cut short, and whose bytes were then edited, was never verified and does not stay live."""
    store.promote(store.export())
    change = change_to(store, store.export(), previous=1)
    begin(store.live, change)
    bring_in(store.live, change)
    (store.candidates / "2" / "fingerprint.pb").write_bytes(b"edited in place, and so is its hard link")
    findings = found(store)
    assert findings[0][0] == "finished"
    assert "publish of version 2: rolled back (it was never verified in production, and" in findings[0][1]
    assert [*versions(store.live)] == [1]
    assert states(store)[2] == "rolled back"
    assert store.promote(store.export()) == "live"


def test_somebody_elses_directory_under_the_number(store: Store) -> None:
    """A publish that did not come to its rename disappears, and other bytes that stand there now are only reported."""
    store.promote(store.export())
    change = change_to(store, store.export(), previous=1)
    begin(store.live, change)
    (store.live / "2").mkdir()
    (store.live / "2" / "saved_model.pb").write_bytes(b"by hand")
    (removed, gone), (reported, words) = found(store)
    assert (removed, reported) == ("removed", "reported")
    assert "had not changed production yet" in gone
    assert "2' was not promoted by this project" in words
    assert (store.live / "2" / "saved_model.pb").read_bytes() == b"by hand"
    assert store.promote(store.export()) == "live"


def test_a_withdrawal_that_could_not_be_written_down(store: Store) -> None:
    """A version that was taken away on a full disk counts as rolled back, and its number is used up."""
    store.promote(store.export())
    change = change_to(store, store.export(), previous=1)
    begin(store.live, change)
    bring_in(store.live, change)
    take_away(store.live, 2)
    assert found(store)[0] == ("finished", "the publish of version 2: rolled back (it was taken out of production)")
    assert states(store)[2] == "rolled back"
    assert pending(store.live) is None


def test_a_prune_that_was_killed_is_in_the_history(store: Store) -> None:
    """A version that had lost its number when its prune was killed is removed and noted."""
    for _ in range(3):
        store.promote(store.export())
    put_aside(store.live / "1")
    [(done, text)] = found(store)
    assert done == "removed"
    assert ".pruned-1-" in text
    assert states(store)[1] == "pruned"
    assert sorted(path.name for path in store.live.iterdir() if not path.name.startswith(".")) == ["2", "3"]


def test_the_doctor_removes_what_a_killed_note_left(store: Store) -> None:
    """Half a note to MLflow, half a journal and half a version are removed, from wherever they are."""
    store.promote(store.export())
    left = [store.live / ".staging-journal.json", store.live / OUTBOX / ".staging-1.json", store.live / ".staging-x/y"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [done for done, _ in found(store)] == ["removed"] * 3
    assert not any(path.exists() for path in left)


def test_the_doctor_who_only_looks_changes_nothing(labelled: Store) -> None:
    """Looking finds an open change, leftovers and an untold change, and leaves every file as it is."""
    change = change_to(labelled, labelled.export(), previous=2)
    begin(labelled.live, change)
    bring_in(labelled.live, change)
    put_aside(labelled.live / "1")
    (labelled.candidates / ".staging-killed").mkdir()
    (labelled.live / OUTBOX / "1.json").write_text(json.dumps(dataclasses.asdict(change)))

    def everything() -> dict[Path, bytes]:
        return {p: p.read_bytes() if p.is_file() else b"" for p in labelled.live.parents[1].rglob("*")}

    before = everything()
    findings = repair(labelled.production, labelled.candidates, only_look=True)
    findings += catch_up(labelled.production, only_look=True)
    assert everything() == before
    assert [finding.done for finding in findings] == ["removed", "removed", "finished", "reported", "finished"]


def test_the_doctor_names_what_a_person_must_decide(labelled: Store) -> None:
    """Bytes edited through their hard link, a stray file, a foreign version and a dangling label are each one line."""
    labelled.promote(labelled.export())
    with (labelled.candidates / "2" / "saved_model.pb").open("ab") as stream:
        stream.write(b"\0")  # the same inode as the live file
    (labelled.live / "7").touch()
    (labelled.live / "8").mkdir()
    take_away(labelled.live, 3)
    words = [text for done, text in found(labelled) if done == "reported"]
    for expected in ("2' was changed after its promotion", "7' is a file", "8' was not promoted", "label 'canary'"):
        assert len([line for line in words if expected in line]) == 1, words
    (labelled.live / "00001").mkdir()
    assert any("must be unique" in text for _, text in found(labelled))


def test_the_doctor_misses_a_version_that_was_taken_away(store: Store) -> None:
    """A directory that somebody removed is said, with what serves now, until another version went live."""
    for _ in range(2):
        store.promote(store.export())
    assert found(store) == []
    take_away(store.live, 2)
    [(done, words)] = found(store)
    assert done == "reported"
    assert words.startswith("version 2 is live in the history, but is not in ")
    assert ": version 1 serves; put it back with `rollback --to 2`" in words
    store.promote(store.export())
    assert "version 2" not in " ".join(text for _, text in found(store))


def test_two_changes_finish_twice(store: Store) -> None:
    """Every step behind the rename can be taken again: no line, no note and no version is there twice."""
    store.promote(store.export())
    change = change_to(store, store.export(), previous=1)
    begin(store.live, change)
    bring_in(store.live, change)
    for _ in range(2):
        begin(store.live, change) if pending(store.live) is None else None
        finish(store.production, change)
    assert [(entry.version, entry.state) for entry in read(store.live)][-2:] == [(2, "live"), (1, "superseded")]
    assert len(untold(store.live)) == 1


@pytest.mark.parametrize("kind", ["symlink", "relative"])
def test_another_way_to_the_same_directory(store: Store, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A models_root that is a link, or a path relative to where the command runs, serves as any other."""
    root = store.live.parents[1]
    if kind == "symlink":
        (root / "really").mkdir()
        (root / "live").symlink_to(root / "really")
    else:
        monkeypatch.chdir(root)
        store = dataclasses.replace(store, live=Path("live/m.v1"))
    for _ in range(3):
        store.promote(store.export())
    assert store.rollback() == "live"
    assert [*versions(root / ("really" if kind == "symlink" else "live") / "m.v1")] == [1, 2, 3, 4]
    assert found(store) == []
