"""What a champion knows is left out of the comparison, and where that cannot be told nobody claims a comparison."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from configs.sections.gates import Bound, Gates
from tasks.datasets.rows import Rows, save_arrays, save_rows
from tasks.datasets.seen import (
    GROUPS,
    RECORD,
    Record,
    known_test_rows,
    new_rows,
    read_record,
    request_fingerprints,
    save_record,
    shared_rows,
    write_record,
)
from tasks.errors import DataError
from tasks.gates.quality import AnsweredRows, judge_quality
from tasks.records import (
    Candidate,
    Champion,
    GraphFacts,
    Signature,
    Splits,
    TensorSpec,
    TrackedRun,
    TrainedModel,
    ValidationReport,
)
from tasks.store.rehearsals import Rehearsed, save_rehearsal
from tasks.store.seen import with_record

FEATURE = Signature((TensorSpec("x", "float32", (None,)),), (TensorSpec("y", "float32", (None, 1)),))
GRAPH = GraphFacts((), (), 1, 1, 1, 1)
PARTS = {"train": np.arange(0.0, 60), "validation": np.arange(60.0, 80), "test": np.arange(80.0, 100)}


def made(
    directory: Path, parts: dict[str, Any] = PARTS, group: str = "", digest: str = "d", record: bool = True
) -> tuple[Splits, Candidate]:
    """Return the splits of a run and its candidate, with the rows of `parts`, one customer for each ten of them."""
    for name, x in parts.items():
        save_rows(directory / "data" / f"{name}.npz", Rows({"x": x}, {"y": x}))
    groups = directory / "data" / "groups.npz" if group else None
    if groups is not None:
        save_arrays(groups, {name: (x // 10).astype(np.uint64) for name, x in parts.items()})
    files = [directory / "data" / f"{name}.npz" for name in ("train", "validation", "test")]
    splits = Splits(*files, {name: len(x) for name, x in parts.items()}, "d" * 64, "m:f", ("x",), groups)
    config = Config.model_validate({
        "name": "m", "data": {"load": "m:f", "group": [group] if group else []}, "model": {"build": "m:f"},
    })  # fmt: skip
    if record:
        save_record(config, splits, lambda rows: {"x": rows["x"].astype(np.float32)}, directory / "1", directory)
    save_arrays(directory / "requests.npz", {"x": parts["test"].astype(np.float32)})
    requests = directory / "requests.npz"
    return splits, Candidate("m", 1, directory / "1", digest, FEATURE, 1, requests, requests, splits.test)


def seen_of(candidate: Candidate, champion: Path | None) -> list[float] | str:
    """Return the x of the test rows that a champion knows, or why that cannot be told."""
    found, reason = known_test_rows(candidate, champion)
    assert (found is None) == bool(reason)
    return reason if found is None else np.load(candidate.requests)["x"][found].tolist()


def test_the_champions_rows_are_found(tmp_path: Path) -> None:
    """Test rows that it was trained or validated on are known, those that it was tested on are not."""
    made(tmp_path / "old")
    other = {"train": np.arange(0.0, 50), "validation": PARTS["validation"], "test": np.array([99, 70, 5, 200, 59.0])}
    _, candidate = made(tmp_path / "new", other)
    assert seen_of(candidate, tmp_path / "old" / "1" / RECORD) == [70, 5, 59]
    assert seen_of(candidate, candidate.version_dir / RECORD) == [70, 5]  # rows of its own, too: the loader's doing
    assert new_rows(candidate.version_dir / RECORD, tmp_path / "old" / "1" / RECORD) == 1  # 200 alone
    assert shared_rows(candidate.version_dir / RECORD) == 2
    assert shared_rows(tmp_path / "old" / "1" / RECORD) == 0


def test_other_rows_of_a_customer_are_known_too(tmp_path: Path) -> None:
    """With `data.group` a test row counts as seen if the champion knows its customer."""
    made(tmp_path / "old", group="who")
    test = np.array([80.0, 55.5, 91, 79.5, 101])
    moved = {"train": np.arange(0.0, 50), "validation": np.arange(60.0, 70), "test": test}
    _, candidate = made(tmp_path / "new", moved, group="who")
    assert (tmp_path / "new" / GROUPS).is_file()
    assert seen_of(candidate, tmp_path / "old" / "1" / RECORD) == [55.5, 79.5]


@pytest.mark.parametrize("before", ["", "region"])
def test_a_champion_that_was_split_otherwise(tmp_path: Path, before: str) -> None:
    """Where its rows are not known by the customers of today, nothing is claimed."""
    made(tmp_path / "old", group=before)
    _, candidate = made(tmp_path / "new", group="who")
    assert "has no record of who" in str(seen_of(candidate, tmp_path / "old" / "1" / RECORD))


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing, damaged or foreign record is a reason, not an error and not an empty record."""
    _, candidate = made(tmp_path / "new")
    (tmp_path / "damaged").write_bytes(b"nonsense")
    save_arrays(tmp_path / "foreign", {"rows/train": np.zeros(1, np.uint64)})
    assert "exported by an older release" in str(seen_of(candidate, None))
    for name, words in (("damaged", "must be readable"), ("foreign", "is missing"), ("absent", "absent")):
        assert words in str(seen_of(candidate, tmp_path / name))
        assert new_rows(candidate.version_dir / RECORD, tmp_path / name) is None
    assert new_rows(candidate.version_dir / RECORD, None) is None


def test_a_record_holds_no_row_twice_and_no_value(tmp_path: Path) -> None:
    """It is eight bytes a different row, rising, and says nothing without the key."""
    rows = {"train": request_fingerprints({"x": np.array([3.0, 1, 3])}, "m")} | dict.fromkeys(
        ("validation", "test"), np.zeros(0, np.uint64)
    )
    write_record(tmp_path / "r.npz", Record(rows))
    back = read_record(tmp_path / "r.npz")
    assert (back.groups, back.columns) == ({}, ())
    assert back.rows["train"].dtype == np.uint64
    assert len(back.rows["train"]) == 2
    assert (np.diff(back.rows["train"].astype(object)) > 0).all()
    assert not np.isin(back.rows["train"], request_fingerprints({"x": np.array([3.0, 1])}, "another model")).any()


def before(directory: Path, candidates: Path, **changes: Any) -> Champion:
    """Return a champion of a run before versions kept a record, whose rehearsal was kept as it was then."""
    candidates.mkdir()
    splits, candidate = made(directory, digest="old digest", record=False)
    report = ValidationReport(candidate, GRAPH, None, ())
    trained = TrainedModel(directory / "m.keras", {"loss": (1.0,)}, 1, 1)
    kept = Rehearsed(splits, trained, report, TrackedRun("r", "e", "m", 1, ""))
    save_rehearsal(candidates, kept)
    path = next((candidates / ".rehearsals").iterdir())
    text = asdict(kept)
    for added in ("groups", "shares"):
        del text["splits"][added]
    for added in ("new_rows", "shared_rows"):
        del text["report"][added]
    path.write_text(json.dumps(text, default=str))
    return Champion(1, directory / "1", "old digest", GRAPH, **changes)


def test_an_old_champion_is_upgraded_from_its_run(tmp_path: Path) -> None:
    """Its record is made from the rows that its run saved, where they are still here."""
    champion = before(tmp_path / "old", tmp_path / "candidates")
    _, candidate = made(tmp_path / "new", {**PARTS, "test": np.array([99, 70, 5, 200.0])})
    found = with_record(champion, tmp_path / "candidates", {}, tmp_path / "run" / "champion_seen.npz")
    assert seen_of(candidate, found.seen) == [70, 5]
    assert replace(found, seen=None) == champion
    known = replace(champion, seen=tmp_path / "own")
    assert with_record(known, tmp_path / "candidates", {}, tmp_path / "unused") is known


@pytest.mark.parametrize("gone", ["data/train.npz", "data/validation.npz", "data/test.npz", "requests.npz"])
def test_an_old_champion_whose_rows_are_gone(tmp_path: Path, gone: str) -> None:
    """Without any one of its files nothing is known of it, and the run goes on."""
    champion = before(tmp_path / "old", tmp_path / "candidates")
    (tmp_path / "old" / gone).unlink()
    assert with_record(champion, tmp_path / "candidates", {}, tmp_path / "r.npz").seen is None


def test_an_old_champion_that_was_asked_otherwise(tmp_path: Path) -> None:
    """Rows that do not give the requests of then, as with inputs swapped since, prove nothing."""
    champion = before(tmp_path / "old", tmp_path / "candidates")
    save_arrays(tmp_path / "old" / "requests.npz", {"x": PARTS["test"].astype(np.float32)[::-1]})
    assert with_record(champion, tmp_path / "candidates", {}, tmp_path / "r.npz").seen is None
    assert with_record(champion, tmp_path / "elsewhere", {}, tmp_path / "r.npz").seen is None


# the judgement --------------------------------------------------------------------------------------------------


def compared(n_rows: int = 200, seen: Any = None, unknown: str = "", **gates: Any) -> Any:
    """Judge a challenger that is right in 8 of 10 rows beside a champion that is always right where it has seen."""
    target = np.arange(n_rows) % 2
    wrong, at_random = np.arange(n_rows) % 5 == 0, np.arange(n_rows) % 5 == 1
    served, champion = np.where(wrong, 1 - target, target), np.where(at_random, 1 - target, target)
    known = np.zeros(n_rows, bool) if seen is None else seen
    champion = np.where(known, target, champion)
    features = {"side": np.where(np.arange(n_rows) < n_rows // 2, "left", "right")}
    answers = [array.astype(float)[:, None] for array in (served, champion)]
    found = AnsweredRows(target, *answers, features, seen=seen, unknown=unknown)
    return judge_quality(Gates.model_validate(gates), found)


def first(n_seen: int, n_rows: int = 200) -> np.ndarray:
    return np.arange(n_rows) < n_seen


def test_rows_that_the_champion_has_seen_are_left_out() -> None:
    """The comparison is over the others and says how many were left out; the absolute figure is over all rows."""
    found = compared(seen=first(100), metrics={"accuracy": 0.7})
    assert found.passed, found.summary
    assert not found.needs_person
    assert found.figures["rows_seen"] == found.figures["rows_unseen"] == 100
    assert found.figures["accuracy"] == pytest.approx(0.8)
    assert found.champion == {"accuracy.unseen": pytest.approx(0.8)}
    assert found.figures["accuracy.unseen"] == pytest.approx(0.8)
    assert found.figures["accuracy.gain"] == pytest.approx(0)
    assert "compared with the champion on the 100 test rows that it has not seen" in found.summary
    unfair = compared(seen=None, metrics={"accuracy": 0.7})
    assert unfair.figures["rows_seen"] == 0
    assert "accuracy" in unfair.champion


def test_a_loss_on_unseen_rows_still_rejects() -> None:
    """Leaving rows out is no amnesty: what the other rows prove counts."""
    target = np.arange(200) % 2
    served = np.where(np.arange(200) % 2 == 0, 1 - target, target).astype(float)[:, None]
    rows = AnsweredRows(target, served, target.astype(float)[:, None], seen=first(100))
    found = judge_quality(Gates(), rows)
    assert not found.passed
    assert found.figures["accuracy.gain_high"] < 0


@pytest.mark.parametrize(
    ("settings", "n_seen", "person"),
    [
        ({}, 170, False),
        ({}, 171, True),
        ({}, 200, True),
        ({"min_unseen_rows": 100}, 101, True),
        ({"min_unseen_rows": 10}, 171, False),
        ({"metrics": {"accuracy": 0.7}}, 171, False),
        ({"metrics": {"accuracy": {"max": 1}}}, 200, False),
        ({"metrics": {"accuracy": {"worse_by": 0.5}}}, 171, True),
        ({"metrics": {"accuracy": {"min": 0.7, "better_by": 0.01}}}, 171, True),
        ({"metrics": {"accuracy": 0.7, "auc": {"better_by": 0.01}}}, 200, True),
    ],
)
def test_too_few_rows_are_left(settings: dict[str, Any], n_seen: int, person: bool) -> None:
    """Below gates.min_unseen_rows absolute bounds judge alone; without any, or with a proof due, a person decides."""
    found = compared(seen=first(n_seen), **settings)
    left = 200 - n_seen
    if left >= settings.get("min_unseen_rows", 30):
        assert found.champion
        return
    assert found.passed, found.summary
    assert not found.champion
    assert bool(found.needs_person) == person
    assert f"the champion has seen {n_seen} of 200 test rows" in found.summary
    assert (found.needs_person.count("gates.min_unseen_rows") == 1) == person


def test_an_absolute_bound_still_rejects_alone() -> None:
    """Where nothing is compared a missed bound rejects, and needs no person."""
    assert not compared(seen=first(200), metrics={"accuracy": 0.9}).passed


def test_a_champion_of_unknown_rows_is_not_compared() -> None:
    """The reason is said, no figure of the champion is shown, and slices compare nothing either."""
    found = compared(unknown="nobody knows", slices=["side"])
    assert found.passed
    assert "not compared with the champion: nobody knows" in found.summary
    assert "nobody knows" in found.needs_person
    assert not found.champion
    assert not [name for name in found.figures if "gain" in name or "seen" in name]
    assert all(not part["champion"] for part in found.evidence["slices"])


def test_few_rows_of_which_none_was_seen_are_compared() -> None:
    """The number is about what is left of more rows: a small test split as such is compared as before."""
    assert compared(n_rows=20, seen=np.zeros(20, bool)).champion
    assert not compared(n_rows=20, seen=first(1, 20)).champion


def test_slices_leave_out_the_same_rows() -> None:
    """A slice is compared over its unseen rows, like with like, and not at all where they are too few."""
    found = compared(seen=first(80), slices=["side"], metrics={"accuracy": 0.5})
    left, right = found.evidence["slices"]
    assert (left["rows"], left["unseen_rows"], left["champion"], left["compared"]) == (100, 20, {}, {})
    assert (right["rows"], right["unseen_rows"]) == (100, 100)
    assert right["champion"] == {"accuracy": pytest.approx(0.8)}
    assert left["metrics"] == {"accuracy": pytest.approx(0.8)}
    assert found.passed


def test_quality_without_a_champion_says_nothing_of_one() -> None:
    """No champion: no figure about it, and no person for its sake."""
    target = np.arange(40) % 2
    rows = AnsweredRows(target, target.astype(float)[:, None])
    found = judge_quality(Gates(metrics={"accuracy": Bound(min=0.5)}), rows)
    assert not found.needs_person
    assert not [name for name in found.figures if "seen" in name]


def test_a_record_of_no_file(tmp_path: Path) -> None:
    """Reading a record that is not there is an error that names it."""
    with pytest.raises(DataError, match="absent"):
        read_record(tmp_path / "absent")
