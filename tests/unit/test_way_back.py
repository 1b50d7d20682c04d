"""The way back: which version a rollback would return to, whether it is proven, and what the gate says."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.loading import load_config
from configs.schema import Config
from tasks.datasets.rows import save_arrays
from tasks.errors import DataError
from tasks.gates.parity import tolerances
from tasks.gates.way_back import judge_recorded, judge_way_back, recorded_answers
from tasks.production.changes import go_back, move_label, put_live
from tasks.records import Candidate, GateResult, Recorded, Signature, TensorSpec, TrackedRun, ValidationReport, WayBack
from tasks.savedmodel.manifest import hash_files
from tasks.savedmodel.safety import read_graph
from tasks.store.champion import find_champion
from tasks.store.history import read
from tasks.store.way_back import way_back_of
from tasks.upgrade import in_production
from tests.store_driver import Store

Y = TensorSpec("y", "float32", (None, 1))
SIGNATURE = Signature((TensorSpec("x", "float32", (None, 1)),), (Y,))
PROVEN = Recorded(SIGNATURE, Path("requests.npz"), Path("answers.npz"))
USUAL = tolerances(SIGNATURE, None, None)
RUN = TrackedRun("", "", "m", 0, "")


def answers(*numbers: float) -> dict[str, np.ndarray]:
    return {"y": np.array(numbers, np.float32)[:, None]}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration whose MLflow is not there."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    return load_config(path, [f"tracking.uri=sqlite:///{tmp_path}/cfg.yaml/absent.db"])


@pytest.fixture
def store(config: Config) -> Store:
    """Return the store of that configuration, in which versions 1 and 2 have been live, with recorded answers."""
    store = Store(config.live_dir, config.candidates_dir, config.work_dir / "aliases.json")
    for _ in range(2):
        store.promote(store.export())
    return store


def way_back(config: Config, digest: str = "another") -> WayBack:
    champion = find_champion(config.live_dir, config.promote.layout)
    return way_back_of(config.live_dir, config.candidates_dir, champion, digest)


def detach(path: Path, content: bytes) -> None:
    """Change a live file and not its hard link, as on another file system."""
    path.unlink()
    path.write_bytes(content)


# --- the gate


def test_the_first_version_has_no_way_back() -> None:
    """It passes, says so, and asks no person."""
    found = judge_way_back(WayBack())
    assert (found.passed, found.summary, found.needs_person) == (True, "there is none, because no version is live", "")


def test_repeated_answers_are_a_way_back() -> None:
    """Answers within the tolerances of parity pass, with the number of rows."""
    found = judge_way_back(WayBack(3, Path("3"), PROVEN), answers(1, 2), answers(1, 2.00001), USUAL)
    assert found.passed
    assert found.summary.startswith("version 3 can be returned to: all 2 recorded answers are repeated")
    assert found.figures["rows"] == 2
    assert not found.evidence.get("not_proven")


@pytest.mark.parametrize("by", [1e-3, -1e-3, np.nan, np.inf])
def test_moved_answers_are_no_way_back(by: float) -> None:
    """One answer that moved fails the gate, which names the row with both values."""
    found = judge_way_back(WayBack(3, Path("3"), PROVEN), answers(1, 2 + by), answers(1, 2), USUAL)
    assert not found.passed
    assert "version 3, which a rollback would return to, must repeat its recorded answers" in found.summary
    assert "1 of 2 rows differ, worst in row 1: served now" in found.summary
    assert "recorded 2.0" in found.summary
    assert "promote.allow_no_way_back" in found.summary


def test_an_answer_that_was_no_number_is_repeated() -> None:
    """A version that was promoted without parity may have answered NaN, which is then what it must repeat."""
    then = answers(1, np.nan, -np.inf)
    assert judge_recorded(then, then, SIGNATURE, USUAL).passed
    assert not judge_recorded(answers(1, 0, -np.inf), then, SIGNATURE, USUAL).passed
    assert not judge_recorded(answers(1, np.nan, np.inf), then, SIGNATURE, USUAL).passed


def test_other_shapes_are_no_repetition() -> None:
    """An output of another shape is said with both shapes."""
    wide = {"y": np.zeros((2, 3), np.float32)}
    assert "shape (2, 3) served now, (2, 1) recorded" in judge_recorded(wide, answers(1, 2), SIGNATURE, USUAL).summary


def test_recorded_answers_must_be_complete(tmp_path: Path) -> None:
    """Answers to other outputs, and a file that is no archive, are refused with the name of the file."""
    recorded = dataclasses.replace(PROVEN, answers=tmp_path / "served.npz")
    save_arrays(recorded.answers, answers(1, 2))
    assert recorded_answers(recorded).keys() == {"y"}
    save_arrays(recorded.answers, {"z": np.zeros(2)})
    with pytest.raises(DataError, match=r"those to every output, got z in .*served\.npz"):
        recorded_answers(recorded)
    recorded.answers.write_bytes(b"cut")
    with pytest.raises(DataError, match="must be readable"):
        recorded_answers(recorded)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (WayBack(3, None, problem="changed: saved_model.pb"), "cannot be served: changed: saved_model.pb"),
        (WayBack(3, Path("3"), PROVEN, refusal="unknown op", log="the log"), "the server refused it: unknown op"),
    ],
)
def test_what_cannot_be_served_fails_unless_it_is_allowed(way: WayBack, words: str) -> None:
    """It fails and says why; with promote.allow_no_way_back it passes with the same words and without a person."""
    failed, allowed = judge_way_back(way), judge_way_back(dataclasses.replace(way, allowed=True))
    assert not failed.passed
    assert words in failed.summary
    assert allowed.passed
    assert words in allowed.summary
    assert "promote.allow_no_way_back permits a promotion nevertheless" in allowed.summary
    assert allowed.needs_person == ""
    assert words in allowed.evidence["not_proven"]
    assert failed.evidence.get("log", "") == way.log


def test_what_is_not_recorded_is_for_a_person() -> None:
    """Without recorded answers the gate passes and a person decides, unless promote.allow_no_way_back is set."""
    way = WayBack(3, Path("3"), unproven="the recorded answers of version 3 are gone")
    found, allowed = judge_way_back(way), judge_way_back(dataclasses.replace(way, allowed=True))
    assert found.passed
    assert "it is not known whether a rollback works" in found.needs_person
    assert allowed.passed
    assert allowed.needs_person == ""
    assert "permits a promotion nevertheless" in allowed.summary


def test_the_worst_server_speaks_for_the_way_back() -> None:
    """Of the verdicts of several servers the report shows the one that failed, whichever comes first."""
    good, bad = (
        GateResult("way_back", True, "good"),
        GateResult("way_back.2", False, "bad", evidence={"not_proven": "b"}),
    )
    nowhere = Path("/nowhere")
    candidate = Candidate("m", 1, nowhere, "", SIGNATURE, 0, nowhere, nowhere, nowhere)
    graph = read_graph(Path("tests/data/tfs_rest/models/half/1"))
    for gates in (
        (good, bad),
        (dataclasses.replace(bad, name="way_back"), dataclasses.replace(good, name="way_back.2")),
    ):
        report = ValidationReport(candidate, graph, None, gates)
        assert report.way_back is not None
        assert (report.way_back.summary, report.without_way_back) == ("bad", "b")


# --- which version it is


def test_the_way_back_is_the_champion(config: Config, store: Store) -> None:
    """After a promotion, a rollback returns to what serves now; the verdict is about the version that it takes."""
    assert way_back(config).version == 2
    candidate = store.export()
    store.promote(candidate)
    assert go_back(config, None, "").reason == "version 4 is live, rollback from version 3 to the bytes of version 2"


def test_no_version_is_live(config: Config) -> None:
    """An empty live directory has no way back, and there is none to be proven."""
    assert way_back(config) == WayBack()


def test_a_rolled_back_version_is_no_way_back(config: Config, store: Store) -> None:
    """After a rollback it is the version that came of it, whose bytes are those of version 1."""
    go_back(config, None, "")
    found = way_back(config)
    assert (found.version, found.version_dir) == (3, store.live / "3")


def test_bytes_like_the_candidates_are_no_way_back(config: Config, store: Store) -> None:
    """A rollback passes over the bytes that it is to take back; where they are live already, none is needed."""
    assert way_back(config, store.digest(1)).version == 2
    go_back(config, None, "")
    store.promote(store.export())
    assert way_back(config, store.digest(1)).version == 4
    found = way_back(config, store.digest(4))
    assert judge_way_back(found).summary == "there is none, because version 4, which is live, has the same bytes"
    assert judge_way_back(found).passed


def test_a_champion_that_no_promotion_made(config: Config, store: Store) -> None:
    """A version that somebody copied there is not where a rollback goes, and it alone leaves nothing proven."""
    shutil.copytree(store.live / "2", store.live / "7")
    assert way_back(config).version == 2
    (store.live / ".history.jsonl").unlink()
    found = way_back(config)
    assert found.version == 7
    assert "has no version that a rollback could return to" in found.unproven


@pytest.mark.parametrize("damage", ["a bit", "a file", "manifest", "link", "no model", "gone"])
def test_damaged_files_are_a_problem(config: Config, store: Store, damage: str) -> None:
    """Whatever became of the live files of the way back is found before a server sees them, and named."""
    live = store.live / "2"
    if damage == "a bit":
        content = bytearray((live / "saved_model.pb").read_bytes())
        content[-1] ^= 1
        detach(live / "saved_model.pb", bytes(content))
    elif damage == "a file":
        (live / "assets").mkdir(exist_ok=True)
        (live / "assets" / "more.txt").write_text("more")
    elif damage == "manifest":
        (live / "assets.extra" / "manifest.json").unlink()
    elif damage == "link":
        (live / "fingerprint.pb").unlink()
        (live / "fingerprint.pb").symlink_to("/etc/hostname")
    elif damage == "no model":
        detach(live / "saved_model.pb", b"\xff")
    else:
        shutil.rmtree(live)
        shutil.rmtree(store.candidates / "2")
    found = way_back(config)
    assert (found.version, found.version_dir) == (2, None)
    words = {"link": "regular files only", "manifest": "manifest.json", "gone": "pruned or changed"}
    assert words.get(damage, "must contain the files that were validated") in found.problem
    assert not judge_way_back(found).passed


def test_recorded_answers_that_are_gone(config: Config, store: Store) -> None:
    """Without a rehearsal, or with a damaged one, the way back is unproven, and the words say what is gone."""
    assert "has no rehearsal of its files" in way_back(config).unproven
    kept = config.candidates_dir / ".rehearsals"
    kept.mkdir()
    (kept / f"{store.digest(2)}.json").write_text("{")
    assert "must contain a rehearsal" in way_back(config).unproven


# --- production


def put(config: Config, store: Store, version: int, **kwargs: str) -> str:
    """Put a candidate live beside the champion of now, and return the outcome in words."""
    nowhere = Path("/nowhere")
    path = store.candidates / str(version)
    candidate = Candidate("m", version, path, store.digest(version), SIGNATURE, 1, nowhere, nowhere, nowhere)
    champion = find_champion(config.live_dir, config.promote.layout)
    found = put_live(config, candidate, RUN, champion, "", **kwargs)
    return f"{found.state}: {found.reason}"


def test_a_promotion_without_a_way_back_is_in_the_history(config: Config, store: Store) -> None:
    """The reason of the live version says that its way back was not proven, and why."""
    said = put(config, store, store.export(), without="its recorded answers are gone")
    assert said == "promoted: version 3 is live, without a proven way back: its recorded answers are gone"
    [entry] = [entry for entry in read(config.live_dir) if (entry.version, entry.state) == (3, "live")]
    assert entry.reason == "without a proven way back: its recorded answers are gone"


def test_a_champion_that_was_damaged_after_the_judgement(config: Config, store: Store) -> None:
    """Under the lock its files are hashed again: a candidate whose way back has changed is judged again."""
    version, against = store.export(), find_champion(config.live_dir)
    nowhere = Path("/nowhere")
    path = store.candidates / str(version)
    candidate = Candidate("m", version, path, store.digest(version), SIGNATURE, 1, nowhere, nowhere, nowhere)
    for content in (b"bit rot", b"\xff"):
        detach(store.live / "2" / "saved_model.pb", content)
        found = put_live(config, candidate, RUN, against, "ann")
        assert (found.state, found.reason) == (
            "stale", "it was compared with version 2, but its files have changed since then",
        )  # fmt: skip
    assert max(int(path.name) for path in store.live.iterdir() if path.name.isdigit()) == 2


@pytest.mark.parametrize("allowed", [False, True])
def test_a_canary_leaves_no_damaged_version(config: Config, store: Store, allowed: bool) -> None:
    """A canary becomes stable only if the version that is stable now could be put back, or if that is allowed."""
    update = {"layout": "labels", "live_url": "http://127.0.0.1:9", "allow_no_way_back": allowed, "live_timeout_s": 0.1}
    promote = config.promote.model_copy(update=update)
    labels = config.model_copy(update={"name": "l", "promote": promote})
    store = dataclasses.replace(store, live=labels.live_dir, candidates=labels.candidates_dir, layout="labels")
    for _ in range(2):
        store.promote(store.export())
    detach(store.live / "1" / "saved_model.pb", b"bit rot")
    promotion = move_label(labels, "ann")
    if allowed:  # it gets as far as the server, which is not there
        assert promotion.change is not None
        assert "without a proven way back: version 1" in promotion.change.reason
        return
    assert promotion.state == "refused"
    assert promotion.state.exit_code == 3
    assert "version 1, which a rollback would return to, cannot be served" in promotion.reason
    assert "allow_no_way_back" in promotion.reason


def test_a_champion_that_is_no_model_is_found(config: Config, store: Store) -> None:
    """A live version without a readable graph, or with a link, is the champion nevertheless, and says what it lacks."""
    detach(store.live / "2" / "saved_model.pb", b"\xff")
    found = find_champion(store.live)
    assert found is not None
    assert (found.version, found.digest) == (2, hash_files(store.live / "2").digest)
    assert found.graph.unclear
    (store.live / "2" / "saved_model.pb").unlink()
    (store.live / "2" / "saved_model.pb").symlink_to("/etc/hostname")
    linked = find_champion(store.live)
    assert linked is not None
    assert linked.digest == ""


def test_what_the_next_server_must_serve(config: Config) -> None:
    """A canary serves users as well, so `rehearse --live` judges it beside the stable version and the way back."""
    promote = config.promote.model_copy(update={"layout": "labels"})
    config = config.model_copy(update={"promote": promote})
    store = Store(config.live_dir, config.candidates_dir, config.work_dir / "aliases.json", layout="labels")
    store.promote(store.export())
    assert [(one.version, one.role) for one in in_production(config)] == [(1, "which is live")]
    store.promote(store.export())
    store.make_stable()
    store.promote(store.export())
    assert [(one.version, one.role) for one in in_production(config)] == [
        (2, "which is live"),
        (1, "which a rollback would return to"),
        (3, "which has the label canary"),
    ]
