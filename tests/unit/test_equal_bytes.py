"""Two runs can make the same bytes: each candidate keeps its own rehearsal, and what is live is not put live again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from configs.loading import load_config
from configs.schema import Config
from tasks.errors import StoreError
from tasks.outcomes import PromotionState
from tasks.production.changes import go_back, put_live
from tasks.records import Champion, GateResult, GraphFacts, TrackedRun, ValidationReport
from tasks.report.standing import why_a_person
from tasks.store.champion import find_champion
from tasks.store.history import append, read, same_bytes, taken_back
from tasks.store.layout import versions
from tasks.store.leftovers import clear
from tasks.store.rehearsals import Rehearsed, recall, record_of, rehearsal_file, save_rehearsal
from tasks.store.retention import prune
from tasks.store.runs import create_run_dir
from tasks.store.serving_config import labels_of
from tasks.words import of_candidate
from tests.store_driver import Store
from tests.unit.test_run_directories import ended
from tests.unit.test_store_rollback_target import rehearsal

NOBODY = "http://127.0.0.1:9"  # no server listens on the port of `discard`


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration whose MLflow is not there."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    return load_config(path, [f"tracking.uri=sqlite:///{tmp_path}/cfg.yaml/absent.db"])


@pytest.fixture
def store(config: Config) -> Store:
    return Store(config.live_dir, config.candidates_dir, config.work_dir / "aliases.json")


def twin(store: Store, version: int) -> int:
    """Have another run export the bytes of a candidate again; return the new number."""
    number = max([*versions(store.candidates), *versions(store.live)]) + 1
    shutil.copytree(store.candidates / str(version), store.candidates / str(number))
    append(store.live, number, "exported", store.digest(version))
    append(store.live, number, "validated", store.digest(version))
    return number


def by_run(run_id: str) -> TrackedRun:
    return TrackedRun(run_id, "0", "m", 0, "")


def champion_of(store: Store) -> Champion | None:
    return find_champion(store.live, store.layout)


def test_another_run_with_the_live_bytes_changes_nothing(config: Config, store: Store) -> None:
    """The outcome is `unchanged` and names both numbers; no version, line of history or change for MLflow is added."""
    first = rehearsal(store, store.export()).report.candidate
    assert put_live(config, first, by_run("one"), None, "").state is PromotionState.PROMOTED
    second = rehearsal(store, twin(store, 1)).report.candidate
    before = read(store.live)
    promotion = put_live(config, second, by_run("two"), champion_of(store), "")
    assert promotion.state is PromotionState.UNCHANGED
    assert promotion.reason == "candidate 2 has the bytes of version 1, which is live; nothing was changed"
    assert of_candidate(2, promotion.reason) == promotion.reason
    assert of_candidate(2, "version 2 is live") == "candidate 2: version 2 is live"
    assert (promotion.live_dir, promotion.change) == (store.live / "1", None)
    assert read(store.live) == before
    assert [*versions(store.live)] == [1]


def test_the_same_run_again_is_a_second_try(config: Config, store: Store) -> None:
    """A run that made the live version is promoted at each try, as after a registry that could not be told."""
    candidate = rehearsal(store, store.export()).report.candidate
    states = [put_live(config, candidate, by_run("one"), None, "").state for _ in range(2)]
    assert states == [PromotionState.PROMOTED] * 2


def test_production_that_does_not_serve_the_live_bytes_is_a_failure(config: Config, store: Store) -> None:
    """Production is asked for the version that has the bytes; where it does not answer the run ends with code 1."""
    assert put_live(config, rehearsal(store, store.export()).report.candidate, by_run("one"), None, "")
    candidate, champion = rehearsal(store, twin(store, 1)).report.candidate, champion_of(store)
    promote = config.promote.model_copy(update={"live_url": NOBODY, "live_timeout_s": 0.1})
    promotion = put_live(config.model_copy(update={"promote": promote}), candidate, by_run("two"), champion, "")
    assert (promotion.state, promotion.state.exit_code) == (PromotionState.NOT_SERVED, 1)
    assert promotion.reason.startswith("candidate 2 has the bytes of version 1, which is live, but production does not")
    assert promotion.reason.endswith("; nothing was changed")
    assert [*versions(store.live)] == [1]


def test_another_run_with_the_bytes_of_the_canary(config: Config, store: Store) -> None:
    """A canary is not replaced by a version with its bytes; a candidate with others becomes the canary."""
    config = config.model_copy(update={"promote": config.promote.model_copy(update={"layout": "labels"})})
    store = dataclasses.replace(store, layout="labels")
    for run in ("one", "two"):
        candidate = rehearsal(store, store.export()).report.candidate
        put_live(config, candidate, by_run(run), champion_of(store), "")
    assert labels_of(store.live) == {"stable": 1, "canary": 2}
    again = rehearsal(store, 2).report.candidate
    assert put_live(config, again, by_run("two"), champion_of(store), "").state is PromotionState.CANARY
    promotion = put_live(
        config, rehearsal(store, twin(store, 2)).report.candidate, by_run("three"), champion_of(store), ""
    )
    assert promotion.state is PromotionState.UNCHANGED
    assert "candidate 3 has the bytes of version 2, which is the canary" in promotion.reason
    assert labels_of(store.live) == {"stable": 1, "canary": 2}


def test_nobody_is_asked_about_the_live_bytes(config: Config, store: Store) -> None:
    """In review mode a candidate with the champion's bytes waits for nobody, and one with others does."""
    store.promote(store.export())
    champion = champion_of(store)
    review = config.model_copy(update={"promote": config.promote.model_copy(update={"mode": "review"})})
    for number, expected in ((twin(store, 1), ""), (store.export(), "promote.mode is set to review")):
        candidate = rehearsal(store, number).report.candidate
        gates = (GateResult("size", passed=True, summary=""),)
        report = ValidationReport(candidate, GraphFacts((), (), 1, 1, 1, 1), None, gates, champion)
        assert why_a_person(review, report) == expected


def test_bytes_that_a_person_took_back_are_known(config: Config, store: Store) -> None:
    """After a rollback the line that took the bytes back is found, until a person makes them live again."""
    for _ in range(2):
        store.promote(store.export())
    bad = store.digest(2)
    assert taken_back(read(store.live), bad) is None
    assert go_back(config, None, "ann").state is PromotionState.PROMOTED
    line = taken_back(read(store.live), bad)
    assert line is not None
    assert line.actor == "ann"
    again = twin(store, 2)
    words = same_bytes(read(store.live), again, bad)
    assert words == (
        "version 2, which was rolled back by ann (rollback from version 2 to the bytes of version 1), has the same "
        "bytes"
    )
    candidate = rehearsal(store, again).report.candidate
    assert put_live(config, candidate, by_run("r"), champion_of(store), "bob").state is PromotionState.PROMOTED
    assert taken_back(read(store.live), bad) is None


def test_damaged_live_files_are_not_said_to_have_the_same_bytes(store: Store) -> None:
    """What the history says of the live version is no statement about files that were changed since then."""
    store.promote(store.export())
    again = twin(store, 1)
    for file in ("saved_model.pb", ""):
        champion = champion_of(store)
        assert champion is not None
        words = same_bytes(read(store.live), again, store.digest(1), champion.digest)
        has = "has the same bytes" if file else "had the same bytes until its files were changed"
        assert words == f"version 1, which is live, {has}"
        if file:
            (store.live / "1" / file).unlink()
            (store.live / "1" / file).write_bytes(b"damaged")


def test_a_rollback_to_the_bytes_that_are_live_is_refused(config: Config, store: Store) -> None:
    """It would change nothing; where the live files are damaged it replaces them, and the bytes count as good."""
    for _ in range(2):
        store.promote(store.export())
    assert go_back(config, None, "ann").state is PromotionState.PROMOTED
    before = read(store.live)
    with pytest.raises(StoreError, match="because version 3 of 'm', which is live, has those of version 1"):
        go_back(config, 1, "ann")
    assert read(store.live) == before
    file = store.live / "3" / "saved_model.pb"
    file.unlink()
    file.write_bytes(b"damaged")
    assert go_back(config, 1, "ann").reason.startswith("version 4 is live")
    assert taken_back(read(store.live), store.digest(1)) is None
    store.promote(store.export())
    promotion = go_back(config, None, "ann")
    assert promotion.change is not None
    assert promotion.change.digest == store.digest(1)


def test_bytes_that_a_person_made_live_again_are_a_way_back(config: Config, store: Store) -> None:
    """A rollback returns to the champion of before, although its bytes had been taken back before their approval."""
    for _ in range(2):
        store.promote(store.export())
    go_back(config, None, "ann")
    bad = store.digest(2)
    approved = rehearsal(store, twin(store, 2)).report.candidate
    put_live(config, approved, by_run("again"), champion_of(store), "bob")
    store.promote(store.export())
    promotion = go_back(config, None, "ann")
    assert promotion.change is not None
    assert promotion.change.digest == bad


def test_what_production_refused_may_be_tried_again(store: Store) -> None:
    """Bytes that production did not serve as judged were never live: the next run with them asks nobody."""
    store.promote(store.export())
    refusing = dataclasses.replace(store, refuses=True)
    assert refusing.promote(refusing.export()) == "rolled back"
    assert taken_back(read(store.live), store.digest(2)) is None


def test_each_of_two_equal_candidates_keeps_its_own_rehearsal(store: Store) -> None:
    """By its number each candidate is found, by the digest the last one; a file of an earlier release is read, too."""
    digest = store.digest(store.export())
    second = twin(store, 1)
    kept = [dataclasses.replace(rehearsal(store, number), run=by_run(f"run {number}")) for number in (1, second)]
    for one in reversed(kept):
        save_rehearsal(store.candidates, one)
    assert [recall(store.candidates, digest, number) for number in (1, 2, 3)] == [*kept, None]
    assert recall(store.candidates, digest) == kept[1]
    rehearsal_file(store.candidates, digest, 1).rename(store.candidates / ".rehearsals" / f"{digest}.json")
    assert [recall(store.candidates, digest, number) for number in (1, 2, 3)] == [*kept, None]
    assert record_of(store.candidates, digest, 1).name == f"{digest}.json"


def test_a_rejected_twin_is_not_what_is_known_of_the_bytes(store: Store) -> None:
    """What a rollback must repeat are answers that passed, and not those of a later run, whose server moved them."""
    digest = store.digest(store.export())
    passed, rejected = (rehearsal(store, number) for number in (1, twin(store, 1)))
    report = dataclasses.replace(rejected.report, gates=(GateResult("parity", passed=False, summary=""),))
    save_rehearsal(store.candidates, dataclasses.replace(rejected, report=report))
    assert recall(store.candidates, digest) == dataclasses.replace(rejected, report=report)  # nothing else is known
    save_rehearsal(store.candidates, passed)
    assert recall(store.candidates, digest) == passed
    assert recall(store.candidates, digest, 2) == dataclasses.replace(rejected, report=report)


def judged(store: Store, version: int, *, passed: bool = True) -> Rehearsed:
    """Store the rehearsal of a candidate with a run directory that it names; the run has ended."""
    run_dir = create_run_dir(store.config, digests=(store.digest(version),))
    (run_dir / "requests.npz").touch()
    found = rehearsal(store, version)
    candidate = dataclasses.replace(found.report.candidate, requests=run_dir / "requests.npz")
    gates = (GateResult("parity", passed, ""),)
    found = dataclasses.replace(found, report=dataclasses.replace(found.report, candidate=candidate, gates=gates))
    save_rehearsal(store.candidates, found)
    ended(run_dir)
    return found


def test_answers_of_a_rejected_twin_are_not_compared_with_production(store: Store) -> None:
    """A later candidate that a gate rejected, as on a server that answers wrongly, leaves the answers that passed."""
    good = judged(store, store.export())
    store.promote(1)
    judged(store, twin(store, 1), passed=False)
    assert recall(store.candidates, store.digest(1)) == good
    shutil.rmtree(store.candidates / "1")  # as promote.keep does: the live version and candidate 2 have these bytes
    clear(store.config)
    assert good.report.candidate.requests.is_file()
    last = judged(store, twin(store, 2))
    assert recall(store.candidates, store.digest(2)) == last
    rehearsal_file(store.candidates, store.digest(2), 3).write_text('{"report":')
    assert recall(store.candidates, store.digest(2)) == good


def test_nightly_runs_with_the_same_bytes_do_not_fill_the_disk(config: Config, store: Store) -> None:
    """Of ten equal candidates `promote.keep: 2` leaves the live version's, and the newest two with their runs."""
    store = dataclasses.replace(store, keep=2)
    old = "2026-01-01T00:00:00.000+00:00"
    first = judged(store, store.export())
    store.promote(1)
    for _ in range(9):
        judged(store, twin(store, 1))
    text = (store.live / ".history.jsonl").read_text()
    days = {entry.time for entry in read(store.live)}
    for time in days:
        text = text.replace(time, old)  # else their runs may be going on
    (store.live / ".history.jsonl").write_text(text)
    removed = prune(store.live, store.candidates, "latest", 2)
    assert [int(path.name) for path in removed] == [*range(2, 9)]
    clear(config)
    needed = [recall(store.candidates, store.digest(1), number) for number in (1, 9, 10)]
    names = {found.report.candidate.requests.parent.name for found in needed if found}
    assert first.report.candidate.requests.parent.name in names
    assert {path.name for path in (config.work_dir / "runs").iterdir()} == names
    assert [*versions(store.candidates)] == [1, 9, 10]


def test_a_candidate_in_use_stays_beside_a_newer_one_with_its_bytes(store: Store) -> None:
    """While a candidate is judged again it stays, although later runs made the same bytes."""
    store.promote(store.export())
    for _ in range(4):
        twin(store, 1)
    entries = (store.live / ".history.jsonl").read_text()
    for time in {entry.time for entry in read(store.live)}:
        entries = entries.replace(time, "2026-01-01T00:00:00.000+00:00")
    (store.live / ".history.jsonl").write_text(entries)
    assert prune(store.live, store.candidates, "latest", 1, in_use=[store.digest(1)]) == []
    assert len(prune(store.live, store.candidates, "latest", 1)) == 3


def test_an_approved_candidate_whose_bytes_are_live_waits_no_more(store: Store) -> None:
    """A candidate that was approved after its bytes went live under another number is not kept for ever."""
    store.promote(store.export())
    for _ in range(3):
        append(store.live, twin(store, 1), "approved", store.digest(1))
    text = (store.live / ".history.jsonl").read_text()
    for time in {entry.time for entry in read(store.live)}:
        text = text.replace(time, "2026-01-01T00:00:00.000+00:00")
    (store.live / ".history.jsonl").write_text(text)
    assert prune(store.live, store.candidates, "latest", 1) == []
    append(store.live, 2, "unchanged", store.digest(1))
    assert prune(store.live, store.candidates, "latest", 1) == [store.candidates / "2"]
