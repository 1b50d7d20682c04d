"""An experiment is a change of production: what it writes, what it leaves alone, and what other changes make of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loading import load_config
from tasks.errors import StoreError
from tasks.production.changes import _not_in_experiment
from tasks.production.experiments import plan, start
from tasks.records import (
    Arm,
    Candidate,
    Change,
    GraphFacts,
    Signature,
    Splits,
    TensorSpec,
    TrackedRun,
    TrainedModel,
    ValidationReport,
)
from tasks.store.champion import predecessor
from tasks.store.experiment import EXPERIMENT, eligible, moved, rolled_back, running, spoiled
from tasks.store.history import append, read, state_of
from tasks.store.journal import JOURNAL, begin, commit, pending
from tasks.store.layout import versions
from tasks.store.publish import put_aside
from tasks.store.rehearsals import Rehearsed, save_rehearsal
from tasks.store.repair import mend, repair
from tasks.store.retention import prune
from tasks.store.rollback_target import rollback_target
from tasks.store.serving_config import MODELS_CONFIG, labels_of, listed_versions, write_config
from tasks.store.transaction import carry_out, untold
from tests.store_driver import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a model with versions 1 (superseded), 2 (stable), 3 (a former canary) and 4 (the canary)."""
    store = Store(tmp_path / "live" / "m", tmp_path / "candidates", tmp_path / "aliases.json", "labels")
    store.promote(store.export())
    store.promote(store.export())
    store.make_stable()
    store.promote(store.export())
    store.promote(store.export())
    return store


NOWHERE = Path("/nowhere")
NO_ARMS = '{"name": "e", "arms": [], "since": ""}'


def config_text(store: Store) -> str:
    return (store.live.parent / MODELS_CONFIG).read_text()


def reports(store: Store) -> list[str]:
    return [finding.text for finding in repair(store.production, store.candidates) if finding.done == "reported"]


def change_of(store: Store, *numbers: int) -> Change:
    arms = tuple(
        Arm(label, version, eligible(store.live, version), 50) for label, version in zip("ab", numbers, strict=True)
    )
    return Change("experiment", numbers[0], "", arms[0].digest, experiment="e", arms=arms, actor="ann")


def test_a_start_and_a_stop(store: Store) -> None:
    """Labels come and go; models.config is byte for byte what it was; states and aliases stay, the history has both."""
    before, aliases = config_text(store), store.aliases
    states = [state_of(read(store.live), version) for version in (2, 3, 4)]
    assert store.experiment(2, 3) == "live"
    assert labels_of(store.live) == {"stable": 2, "canary": 4, "a": 2, "b": 3}
    assert listed_versions(store.live) == [1, 2, 3, 4]
    known = running(store.live)
    assert known is not None
    assert (known.name, known.actor, moved(store.live, known)) == ("e", "ann", [])
    assert store.aliases == {**aliases, "experiment": "e"}
    assert store.end() == "live"
    assert config_text(store) == before
    assert (running(store.live), store.aliases) == (None, aliases)
    assert [state_of(read(store.live), version) for version in (2, 3, 4)] == states
    lines = [(e.version, e.state, e.actor, e.reason) for e in read(store.live) if "experiment" in e.state]
    assert lines[:2] == [
        (2, "in experiment", "ann", "experiment e: a: version 2 (50 %)"),
        (3, "in experiment", "ann", "experiment e: b: version 3 (50 %)"),
    ]
    assert [line[:2] for line in lines[2:]] == [(2, "experiment ended"), (3, "experiment ended")]
    assert (pending(store.live), untold(store.live), reports(store)) == (None, {}, [])


def test_promotions_in_between_stay(store: Store) -> None:
    """A promotion and a new stable version leave the arms alone; a stop afterwards leaves what they did."""
    store.experiment(2, 3)
    store.promote(store.export())
    store.make_stable()
    assert labels_of(store.live) == {"stable": 5, "canary": 5, "a": 2, "b": 3}
    assert reports(store) == []
    store.end()
    assert labels_of(store.live) == {"stable": 5, "canary": 5}
    assert listed_versions(store.live) == [2, 5]


def test_the_winner_becomes_stable(store: Store) -> None:
    """The stable label moves, the arms' labels go, a rollback goes back to the former stable version."""
    store.experiment(2, 3)
    assert store.choose() == "live"
    assert labels_of(store.live) == {"stable": 3, "canary": 4}
    assert 2 in listed_versions(store.live)  # clients of stable still ask for it
    assert running(store.live) is None
    assert (state_of(read(store.live), 2), state_of(read(store.live), 3)) == ("superseded", "live")
    assert store.aliases == {"champion": store.digest(3), "canary": store.digest(4)}
    assert predecessor(store.live, 3) == 2
    assert store.rollback() == "live"
    assert labels_of(store.live)["stable"] == 2


def test_the_stable_version_wins(store: Store) -> None:
    """Where the winner serves already, the experiment ends and nothing else changes."""
    before, aliases = config_text(store), store.aliases
    store.experiment(3, 2)
    assert store.choose() == "live"
    assert (config_text(store), store.aliases, running(store.live)) == (before, aliases, None)
    assert [e.state for e in read(store.live) if e.version == 2].count("live") == 1


def test_an_end_under_way_is_no_doubt(store: Store) -> None:
    """While production is asked about the winner, the labels of the arms are gone, and the outcomes still count."""
    store.experiment(2, 3)
    known = running(store.live)
    assert known is not None
    end = Change("label", 3, "3", store.digest(3), label="stable", experiment="e", arms=known.arms)
    begin(store.live, end)
    write_config(store.live, [1, 2, 3, 4], {"stable": 3, "canary": 4})
    assert len(moved(store.live, known)) == 2
    assert spoiled(store.live, known) == []
    commit(store.live)
    begin(store.live, dataclasses.replace(end, experiment="", arms=()))
    assert spoiled(store.live, known) == moved(store.live, known)


def test_a_winner_that_does_not_answer(store: Store) -> None:
    """A winner that production does not serve as validated is not made stable, and the experiment goes on."""
    store.experiment(2, 3)
    assert dataclasses.replace(store, refuses=True).choose() == "rolled back"
    assert labels_of(store.live) == {"stable": 2, "canary": 4, "a": 2, "b": 3}
    assert running(store.live) is not None
    assert listed_versions(store.live) == [1, 2, 3, 4]
    assert pending(store.live) is None


@pytest.mark.parametrize("trouble", [{"refuses": True}, {"refuses_labels": True}])
def test_a_start_that_is_refused(store: Store, trouble: dict[str, Any]) -> None:
    """If one version, or one label, does not answer as validated, everything is taken back and nothing is noted."""
    before, history = config_text(store), read(store.live)
    assert dataclasses.replace(store, **trouble).experiment(2, 3) == "rolled back"
    assert (config_text(store), read(store.live)) == (before, history)
    assert (running(store.live), pending(store.live), untold(store.live)) == (None, None, {})


@pytest.mark.parametrize("at", ["verify", "verify_label"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, StoreError, MemoryError])
def test_an_interrupted_start(store: Store, at: str, raised: type[BaseException]) -> None:
    """Ctrl-C while versions or labels are verified takes everything back before the program ends."""
    before, history = config_text(store), read(store.live)

    def interrupted(change: Change) -> str:
        raise raised("here")

    production = dataclasses.replace(store.production, **{at: interrupted})
    with pytest.raises(raised):
        carry_out(production, change_of(store, 2, 3))
    assert (config_text(store), read(store.live)) == (before, history)
    assert (running(store.live), pending(store.live)) == (None, None)


def test_each_version_is_verified_before_any_label(store: Store) -> None:
    """Every version is asked by its number while it is listed without a label, and then by its label."""
    asked: list[tuple[str, int, str, bool]] = []

    def by(how: str) -> Any:
        def verify(change: Change) -> str:
            assert change.version in listed_versions(store.live)
            asked.append((how, change.version, change.label, "a" in labels_of(store.live)))
            return ""

        return verify

    production = dataclasses.replace(store.production, verify=by("number"), verify_label=by("label"))
    assert carry_out(production, change_of(store, 2, 3)).state == "live"
    assert asked == [
        ("number", 2, "a", False), ("number", 3, "b", False), ("label", 2, "a", True), ("label", 3, "b", True),
    ]  # fmt: skip


def test_a_killed_start_does_not_wait_for_production(store: Store) -> None:
    """The next change, which may be a rollback, removes what a killed start left without asking production."""
    before = config_text(store)
    begin(store.live, change_of(store, 2, 3))

    def never(change: Change) -> str:
        raise AssertionError

    production = dataclasses.replace(store.production, verify=never, verify_label=never)
    [found] = mend(production, store.candidates)
    assert found.text == "the start of the experiment e: rolled back (it was interrupted before it ran)"
    assert (config_text(store), pending(store.live)) == (before, None)


def test_retention_keeps_the_arms(store: Store) -> None:
    """With keep 1, the versions of a running experiment stay, with their candidates; after it they may go."""
    store.experiment(1, 3)
    for _ in range(2):
        store.promote(store.export())
        store.make_stable()
    prune(store.live, store.candidates, "labels", 1)
    assert [*versions(store.live)] == [1, 3, 5, 6]
    assert {1, 3} <= versions(store.candidates).keys()
    store.end()
    prune(store.live, store.candidates, "labels", 1)
    assert [*versions(store.live)] == [5, 6]


def test_a_rollback_takes_the_version_from_its_users(store: Store) -> None:
    """Users of a version that is rolled back get the one before it; the experiment says that it is spoiled."""
    store.experiment(2, 3)
    assert store.rollback() == "live"
    assert labels_of(store.live) == {"stable": 1, "canary": 4, "a": 1, "b": 3}
    known = running(store.live)
    assert known is not None
    assert moved(store.live, known) == ["the label 'a' names version 1 instead of version 2"]
    [report] = reports(store)
    assert "the experiment e runs, but the label 'a' names version 1 instead of version 2" in report
    assert store.end() == "live"
    assert labels_of(store.live) == {"stable": 1, "canary": 4}
    assert reports(store) == []
    [back] = rolled_back(store.live, "e", known.arms) or []
    assert back.startswith("version 2, which was 'a', was rolled back at 20")
    assert rolled_back(store.live, "f", known.arms) is None
    other_shares = [dataclasses.replace(arm, share=share) for arm, share in zip(known.arms, (40, 60), strict=True)]
    assert rolled_back(store.live, "e", other_shares) is None


def test_a_rollback_that_was_taken_back(store: Store) -> None:
    """A label that names its version again does not hide that its users got another one."""
    store.experiment(2, 3)
    assert store.rollback() == "live"
    change = Change(
        "label", 2, "2", store.digest(2), previous=1, previous_digest=store.digest(1), rolls_back=1, label="stable"
    )
    assert carry_out(store.production, change).state == "live"
    with pytest.raises(StoreError, match="that was rolled back itself, or was only the canary: 1, 3, 4"):
        rollback_target(store.live, 2)
    known = running(store.live)
    assert known is not None
    assert moved(store.live, known) == []
    [back] = spoiled(store.live, known)
    assert back.startswith("version 2, which was 'a', was rolled back at 20")
    [report] = reports(store)
    assert f"the experiment e runs, but {back}" in report
    store.end()
    store.experiment(2, 3)
    assert (spoiled(store.live, known), reports(store)) == ([], [])


def test_a_rollback_beside_an_experiment(store: Store) -> None:
    """A rollback of a version that is in no experiment leaves the experiment alone."""
    store.make_stable()
    store.experiment(1, 3)
    assert store.rollback() == "live"
    assert labels_of(store.live) == {"stable": 2, "canary": 2, "a": 1, "b": 3}
    assert reports(store) == []


def test_an_arm_is_not_published_again(store: Store) -> None:
    """A second promotion of a version that users are served is refused, since a failure would take it away."""
    store.experiment(2, 3)
    with pytest.raises(StoreError, match="version 3 must not be published again while it is 'b' of the experiment e"):
        _not_in_experiment(store.production, 3)
    _not_in_experiment(store.production, 4)
    store.end()
    _not_in_experiment(store.production, 3)


def test_who_may_take_part(store: Store) -> None:
    """Only versions that were promoted, were not rolled back, and hold the bytes that were judged."""
    waiting = store.export()
    with pytest.raises(ConfigError, match=f"got {waiting}, which is validated; these were: 1, 2, 3, 4$"):
        eligible(store.live, waiting)
    with pytest.raises(ConfigError, match="got 99; these were"):
        eligible(store.live, 99)
    append(store.live, 1, "rolled back", store.digest(1))
    with pytest.raises(ConfigError, match="must not name a version that was rolled back, got 1"):
        eligible(store.live, 1)
    (store.live / "3" / "assets.extra" / "who").write_text("somebody else")
    with pytest.raises(ConfigError, match="must name files that were judged, got 3, but "):
        eligible(store.live, 3)
    put_aside(store.live / "4")
    with pytest.raises(ConfigError, match="must name versions whose files are in .*, got 4"):
        eligible(store.live, 4)
    assert eligible(store.live, 2) == store.digest(2)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": 1, "arms": [1]}', '{"name": "e", "arms": [{"x": 1}]}', NO_ARMS]
)
def test_a_damaged_record(store: Store, text: str) -> None:
    """A record that somebody edited is one clear line, which the doctor reports; a rollback does not mind."""
    (store.live / EXPERIMENT).write_text(text)
    with pytest.raises(StoreError, match="must contain one experiment, got .*; remove it"):
        running(store.live)
    assert any("must contain one experiment" in line for line in reports(store))
    assert store.rollback() == "live"


def test_the_doctor_sees_what_was_edited(store: Store) -> None:
    """A label that somebody removed from models.config, and a layout without labels, are reported."""
    store.experiment(2, 3)
    path = store.live.parent / MODELS_CONFIG
    path.write_text(path.read_text().replace('key: "b"', 'key: "z"'))
    [report] = reports(store)
    assert "the label 'b' names no version instead of version 3" in report
    [report] = [text for text in reports(dataclasses.replace(store, layout="latest")) if "experiment" in text]
    assert "promote.layout is latest, which has no labels" in report


def test_the_journal_of_an_experiment(store: Store) -> None:
    """What is under way is read back as it was written; a journal of an earlier release is read as well."""
    change = change_of(store, 2, 3)
    begin(store.live, change)
    assert pending(store.live) == change
    assert change.title == "start of the experiment e"
    found = json.loads((store.live / JOURNAL).read_text())
    for name in ("arms", "experiment"):
        del found[name]
    (store.live / JOURNAL).write_text(json.dumps(found))
    assert pending(store.live) == dataclasses.replace(change, experiment="", arms=())
    for wrong in ("[]", '{"arms": 1}', '{"arms": [1]}'):
        (store.live / JOURNAL).write_text(wrong)
        with pytest.raises(StoreError, match="must contain one change"):
            pending(store.live)


def test_the_record_cannot_be_written(store: Store) -> None:
    """If the disk is full when the labels are set already, they are taken back, and the error is said."""
    before = config_text(store)
    (store.live / ".staging-experiment.json").mkdir()
    with pytest.raises(StoreError, match="experiment.json' must be writable"):
        carry_out(store.production, change_of(store, 2, 3))
    assert (config_text(store), pending(store.live), running(store.live)) == (before, None, None)


def test_the_same_experiment_again_while_mlflow_is_away(store: Store) -> None:
    """MLflow is told of each start and each end in their order, even of equal ones."""
    first = change_of(store, 2, 3)
    end = dataclasses.replace(first, operation="end")
    for change in (first, end, first, end):
        assert carry_out(store.production, change).state == "live"
    assert [*untold(store.live).values()] == [first, end, first, end]


def test_versions_that_take_other_requests(tmp_path: Path) -> None:
    """They are refused before anything changes, because a client sends the same to both; allow_breaking permits it."""
    path = tmp_path / "cfg.yaml"
    path.write_text(
        f"name: m\npromote: {{layout: labels, live_url: 'http://127.0.0.1:9'}}\ntracking: {{uri: 'sqlite:///{path}/absent.db'}}\n"
    )
    config = load_config(path)
    store = Store(config.live_dir, config.candidates_dir, tmp_path / "aliases.json", "labels")
    for name in ("country", "land"):
        store.promote(store.export())
        version = max(versions(store.live))
        served = Signature((TensorSpec(name, "string", (None, 1)),), ())
        candidate = Candidate(
            "m", version, store.candidates / str(version), store.digest(version), served, 1, NOWHERE, NOWHERE, NOWHERE
        )
        report = ValidationReport(candidate, GraphFacts((), (), 1, 1, 2, 1), None, ())
        splits, model = Splits(NOWHERE, NOWHERE, NOWHERE, {}, "", "a:b", ()), TrainedModel(NOWHERE, {}, 1, 1)
        save_rehearsal(store.candidates, Rehearsed(splits, model, report, TrackedRun("", "", "m", 0, "")))
    before = config_text(store)
    with pytest.raises(ConfigError, match="from version 1 to 2 input 'country' was removed; input 'land' was added"):
        start(config, plan([1, 2], [50, 50], "e"), "ann")
    assert (config_text(store), pending(store.live), running(store.live)) == (before, None, None)
    permitted = load_config(path, ["gates.allow_breaking=true", "promote.live_timeout_s=0.1"])
    refused = start(permitted, plan([1, 2], [50, 50], "e"), "ann")
    assert (refused.state, "must be reachable" in refused.reason) == ("rolled back", True)  # production was asked
