"""The way back is open whatever is broken: the champion, its bytes, what was kept of a rehearsal, MLflow."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from configs.loading import load_config
from configs.schema import Config
from tasks.errors import StoreError
from tasks.production.changes import examine, go_back, move_label, put_live
from tasks.records import (
    Candidate,
    Change,
    GateResult,
    GraphFacts,
    Signature,
    Splits,
    TensorSpec,
    TrackedRun,
    TrainedModel,
    ValidationReport,
)
from tasks.savedmodel.manifest import hash_files
from tasks.store.history import read, state_of
from tasks.store.layout import versions
from tasks.store.rehearsals import KEPT, Rehearsed, recall, save_rehearsal
from tasks.store.transaction import carry_out, untold
from tests.store_driver import Store

NOWHERE = Path("/nowhere")
RUN = TrackedRun("", "", "m", 0, "")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration whose MLflow is not there."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    return load_config(path, [f"tracking.uri=sqlite:///{tmp_path}/cfg.yaml/absent.db"])


@pytest.fixture
def store(config: Config) -> Store:
    """Return the store of that configuration, in which versions 1 and 2 have been live."""
    store = Store(config.live_dir, config.candidates_dir, config.work_dir / "aliases.json")
    for _ in range(2):
        store.promote(store.export())
    return store


def rehearsal(store: Store, version: int) -> Rehearsed:
    """Return what is kept of a candidate, as far as a rollback needs it."""
    candidate = Candidate(
        "m", version, store.candidates / str(version), store.digest(version), Signature((), ()), 1,
        NOWHERE, NOWHERE, NOWHERE,
    )  # fmt: skip
    none: Mapping[str, int] = {}
    report = ValidationReport(candidate, GraphFacts((), (), 1, 1, 2, 1), None, (GateResult("contract", True, ""),))
    return Rehearsed(
        Splits(NOWHERE, NOWHERE, NOWHERE, none, "", "a:b", ()), TrainedModel(NOWHERE, {}, 1, 1), report, RUN
    )


def bytes_of(store: Store, version: int) -> str:
    return hash_files(versions(store.live)[version]).digest


def detach(path: Path, content: bytes) -> None:
    """Change a live file and not its hard link, as on another file system."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("champion", ["not a SavedModel", "a file", "edited", "unknown"])
def test_a_broken_champion_is_no_obstacle(config: Config, store: Store, champion: str) -> None:
    """From a champion that no server could load one command leads back to what served, under the next number."""
    if champion == "edited":
        detach(store.live / "2" / "saved_model.pb", b"\xff")
    elif champion == "a file":
        (store.live / "7").touch()
    else:
        (store.live / "7").mkdir()
        (store.live / "7" / "saved_model.pb").write_bytes(b"\xff" if champion == "unknown" else b"")
    promotion = go_back(config, None, "ann")
    number = 3 if champion == "edited" else 8
    assert promotion.state == "promoted"
    assert promotion.live_dir == store.live / str(number)
    assert bytes_of(store, number) == store.digest(1 if champion == "edited" else 2)
    assert [change.version for change in untold(store.live).values()] == [number]


def test_the_live_copy_is_damaged_and_the_candidate_is_not(config: Config, store: Store) -> None:
    """Where the predecessor's directory was damaged, or is gone, the candidate's bytes are taken."""
    save_rehearsal(store.candidates, rehearsal(store, 1))
    detach(store.live / "1" / "fingerprint.pb", b"bit rot")
    assert go_back(config, None, "").state == "promoted"
    assert bytes_of(store, 3) == store.digest(1)


def test_the_predecessor_was_pruned(config: Config, store: Store) -> None:
    """A predecessor of which only the candidate is left is published from there; without that, the line says so."""
    save_rehearsal(store.candidates, rehearsal(store, 1))
    (store.live / "1").rename(store.live.parent / "gone")
    assert go_back(config, 1, "").state == "promoted"
    assert bytes_of(store, 3) == store.digest(1)
    with pytest.raises(StoreError, match=r"files of version 2 must still be there.*choose another version"):
        (store.live / "2").rename(store.live.parent / "gone, too")
        go_back(config, 2, "")


def test_the_same_bytes_under_another_number(config: Config, store: Store) -> None:
    """Bytes whose first directory is gone are taken from the version that a rollback gave them."""
    store.rollback()
    for _ in range(2):
        store.promote(store.export())
    (store.live / "1").rename(store.live.parent / "gone")
    assert go_back(config, 1, "").state == "promoted"
    assert bytes_of(store, 6) == bytes_of(store, 3)


def test_what_was_kept_of_a_rehearsal_is_damaged(config: Config, store: Store) -> None:
    """A rehearsal that cannot be read does not close the way back."""
    (store.candidates / KEPT).mkdir()
    (store.candidates / KEPT / f"{store.digest(1)}-1.json").write_text("{")
    assert go_back(config, None, "").state == "promoted"


def test_nothing_to_go_back_to(config: Config, store: Store) -> None:
    """Back to itself, to a number that never served, and back once more than there is: one line each."""
    for to, words in ((2, "must be another version"), (9, "that was in production, got 9")):
        with pytest.raises(StoreError, match=words):
            go_back(config, to, "")
    go_back(config, None, "")
    with pytest.raises(StoreError, match="set --to N to a version that was rolled back itself: 2"):
        go_back(config, None, "")
    assert go_back(config, 2, "").state == "promoted"  # by its number even that


def test_a_stray_number_stops_promotions_until_it_is_gone(config: Config, store: Store) -> None:
    """A stray file named 7, or `1` beside `00001`, is one line that names it; without it the next run goes on."""
    candidate = rehearsal(store, store.export()).report.candidate
    for stray, words in (("7", "7' is a file, and it is live"), ("00001", "must be unique")):
        (store.live / stray).touch()
        with pytest.raises(StoreError, match=words) as caught:
            put_live(config, candidate, RUN, None, "")
        assert "\n" not in str(caught.value)
        assert [finding.done for finding in examine(config, only_look=True)] == ["reported"]
        (store.live / stray).unlink()
    assert put_live(config, candidate, RUN, None, "").state == "stale"  # it was judged beside none, and 2 serves


def test_a_superseded_candidate_is_published_anew(config: Config, store: Store) -> None:
    """Bytes that were live before get a new, higher number: under their old one they would not serve."""
    from tasks.store.champion import find_champion

    candidate, champion = rehearsal(store, 1).report.candidate, find_champion(store.live)
    assert put_live(config, candidate, RUN, champion, "").reason == "version 3 is live"  # though MLflow is not there
    assert bytes_of(store, 3) == store.digest(1)
    assert state_of(read(store.live), 3) == "live"


def test_a_label_does_not_move_to_changed_bytes(config: Config, store: Store) -> None:
    """A canary whose live bytes were changed does not become stable, although its candidate is as it was."""
    promote = config.promote.model_copy(update={"layout": "labels", "live_url": "http://127.0.0.1:9"})
    labels = config.model_copy(update={"name": "l", "promote": promote})
    store = dataclasses.replace(store, live=labels.live_dir, candidates=labels.candidates_dir, layout="labels")
    for _ in range(2):
        store.promote(store.export())
    save_rehearsal(store.candidates, rehearsal(store, 2))
    detach(store.live / "2" / "fingerprint.pb", b"bit rot")
    with pytest.raises(StoreError, match="pruned or changed"):
        move_label(labels, "")


def test_a_prune_that_fails_hides_no_promotion(config: Config, store: Store) -> None:
    """Old versions that cannot be removed are a warning, and the change stands."""
    keeping = config.model_copy(update={"promote": config.promote.model_copy(update={"keep": 1})})
    store.promote(store.export())
    source = str(store.candidates / "2")
    change = Change("publish", 4, "4", store.digest(2), source, previous=3)
    carry_out(store.production, change)
    (store.live.parent / "models.config").mkdir()  # cannot be read as a file, and pruning asks it
    assert go_back(keeping, None, "").state == "promoted"


@pytest.mark.parametrize("pad", [None, 0, 0.5, True, "", "padding"])
def test_what_is_kept_of_an_output(store: Store, pad: int | float | str | bool | None) -> None:
    """How an output is cast and filled up is kept with its type; what was kept before there were such things reads."""
    spec = TensorSpec("y", "float32", (None, None), "float16", pad)
    kept = rehearsal(store, 1)
    candidate = dataclasses.replace(kept.report.candidate, signature=Signature((), (spec,)))
    report = dataclasses.replace(kept.report, candidate=candidate)
    save_rehearsal(store.candidates, dataclasses.replace(kept, report=report))
    found = outputs_of(store)[0]
    assert (found.computed, found.pad, type(found.pad)) == ("float16", pad, type(pad))
    file = store.candidates / KEPT / f"{store.digest(1)}-1.json"
    content = json.loads(file.read_text())
    for old in content["report"]["candidate"]["signature"]["outputs"]:
        del old["computed"], old["pad"]
    file.write_text(json.dumps(content))
    assert outputs_of(store) == (spec,)
    assert (outputs_of(store)[0].computed, outputs_of(store)[0].pad) == ("", None)


def test_what_an_earlier_release_called_run_id(store: Store) -> None:
    """A rehearsal that was written with MLflow's run as `run_id` is read back, and written with the name of today."""
    run = TrackedRun("0a1b", "0", "m", 3, "")
    kept = dataclasses.replace(rehearsal(store, 1), run=run)
    save_rehearsal(store.candidates, kept)
    file = store.candidates / KEPT / f"{store.digest(1)}-1.json"
    content = json.loads(file.read_text())
    content["run"]["run_id"] = content["run"].pop("mlflow_run_id")
    file.write_text(json.dumps(content))
    found = recall(store.candidates, store.digest(1))
    assert found is not None
    assert found.run == run
    save_rehearsal(store.candidates, found)
    assert set(json.loads(file.read_text())["run"]) == {field.name for field in dataclasses.fields(TrackedRun)}


def test_a_work_dir_that_was_moved(config: Config, store: Store, tmp_path: Path) -> None:
    """A rehearsal names its files where they are now, so that an approval and a live verification find them."""
    run_dir = config.work_dir / "runs" / "20260101T000000-abcdef"
    kept = rehearsal(store, 1)
    candidate = dataclasses.replace(kept.report.candidate, requests=run_dir / "requests.npz")
    kept = dataclasses.replace(kept, report=dataclasses.replace(kept.report, candidate=candidate))
    save_rehearsal(store.candidates, kept)
    assert recall(store.candidates, store.digest(1)) == kept
    elsewhere = config.model_copy(update={"work_dir": tmp_path / "else" / "where"})
    shutil.copytree(config.work_dir, elsewhere.work_dir)
    found = recall(elsewhere.candidates_dir, store.digest(1))
    assert found is not None
    assert found.report.candidate.version_dir == elsewhere.candidates_dir / "1"
    assert found.report.candidate.requests == elsewhere.work_dir / "runs" / run_dir.name / "requests.npz"
    assert found.splits == kept.splits  # what is elsewhere stays there


@pytest.mark.parametrize("text", ["[]", "3", '{"run": 3}', '{"run": {"run_id": 3}}', "null", "{"])
def test_what_is_no_rehearsal(store: Store, text: str) -> None:
    """A file that holds something else is one line that names it, whatever it holds."""
    save_rehearsal(store.candidates, rehearsal(store, 1))
    (store.candidates / KEPT / f"{store.digest(1)}-1.json").write_text(text)
    with pytest.raises(StoreError, match=r"must contain a rehearsal, got .*run the rehearsal again"):
        recall(store.candidates, store.digest(1))


def outputs_of(store: Store) -> tuple[TensorSpec, ...]:
    found = recall(store.candidates, store.digest(1))
    assert found is not None
    return found.report.candidate.signature.outputs
