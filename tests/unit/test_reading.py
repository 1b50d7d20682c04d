"""How answers are read: what is decided, what `gates` may say of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from sklearn import metrics as sk

from configs.sections.gates import Bound, Gates
from tasks.datasets.readings import LARGEST, READINGS, read_readings, write_readings
from tasks.errors import DataError
from tasks.gates.quality import AnsweredRows, judge_quality
from tasks.gates.reading import decide, misfit, reading_of_champion, settle, undeclared, why_not_compared
from tasks.gates.scores import Scored, improbable
from tasks.records import Clues, Reading, TrainedModel

RNG = np.random.default_rng(0)
TRUE = RNG.integers(0, 3, 60)
LOGITS = RNG.normal(0, 3, (60, 3)) + 3 * np.eye(3)[TRUE]
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
OF_LOGITS = Reading("multiclass", "logits", "the loss")
OF_SHARES = Reading("multiclass", "probabilities", "the loss")


@pytest.mark.parametrize(
    ("task", "target", "answers"),
    [
        ("binary", np.array([0, 1, 2]), np.zeros((3, 1))),
        ("binary", np.array([0.0, 0.5, 1]), np.zeros(3)),
        ("binary", np.array([0, 1, 1]), np.zeros((3, 3))),
        ("binary", np.zeros((3, 2)), np.zeros((3, 1))),
        ("multiclass", np.array([0, 1, 3]), np.zeros((3, 3))),
        ("multiclass", np.array([-1, 1, 2]), np.zeros((3, 3))),
        ("multiclass", np.array([0.5, 1, 2]), np.zeros((3, 3))),
        ("multiclass", np.array([[1, 1, 0]] * 3), np.zeros((3, 3))),
        ("multiclass", np.eye(3), np.zeros((3, 4))),
        ("multiclass", np.array([0, 1, 0]), np.zeros((3, 1))),
        ("multiclass", np.array([[0, 1]] * 3), np.zeros((3, 2, 4))),
        ("multilabel", np.array([0, 1, 0]), np.zeros((3, 2))),
        ("multilabel", np.array([[0, 2]] * 3), np.zeros((3, 2))),
        ("multilabel", np.array([0, 1, 0]), np.array([0, 1, 0])),
        ("regression", np.zeros(3), np.zeros((3, 2))),
        ("regression", np.array(["a"] * 3), np.zeros(3)),
        ("binary", np.array([0, 1, 0]), np.array([b"a"] * 3)),
        ("regression", np.zeros(0), np.zeros(0)),
    ],
)
def test_what_is_no_such_task(task: Any, target: np.ndarray, answers: np.ndarray) -> None:
    """Targets and answers that cannot be of a task are said to be none, in one line."""
    reason = misfit(task, target, answers)
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("dtype", "total", "refused"),
    [
        (np.float32, 1.005, False), (np.float32, 1.02, True), (np.float64, 0.98, True), (np.float64, 1 + 1e-7, False),
        (np.float16, 1.02, False), (np.float16, 1.1, True),
    ],
)  # fmt: skip
def test_rows_add_up_as_nearly_as_their_dtype_can(dtype: Any, total: float, refused: bool) -> None:
    """A row that is off by no more than rounding is taken, one that is off by more is named with its sum."""
    served = np.array([[0.5, 0.5], [0.75, total - 0.75]], dtype)
    reason = improbable(served, add_up=True)
    assert bool(reason) == refused
    assert not refused or reason.startswith("row 1, which adds up to ")


@pytest.mark.parametrize(("value", "shown"), [(-0.01, "-0.01 in row 2"), (1.5, "1.5 in row 2")])
def test_a_probability_lies_between_0_and_1(value: float, shown: str) -> None:
    """A score outside is refused with its row and the line that mends it; one rounding beyond is not."""
    served = np.full((5, 1), 0.5, np.float32)
    served[2] = value
    reading = Reading("binary", "probabilities", "the loss")
    with pytest.raises(DataError, match=rf"output 'p' must be probabilities .*{shown}.*gates\.scores: logits"):
        Scored(np.ones(5), served, reading, "p").check()
    served[2] = np.nextafter(np.float32(1), np.float32(2))
    Scored(np.ones(5), served, reading, "p").check()


def test_logits_that_are_probabilities() -> None:
    """What is said to be logits and adds up to 1 in every row is refused; one score a row may lie anywhere."""
    with pytest.raises(DataError, match=r"must be logits .*set gates\.scores: probabilities"):
        Scored(TRUE, SHARES, OF_LOGITS).check()
    Scored((TRUE == 0).astype(int), np.full(60, 0.4), Reading("binary", "logits")).check()  # a model of the base rate


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_fails_the_gate(bad: float) -> None:
    """It is the model's fault, not the configuration's: a failed gate that names the row, and no error."""
    served = SHARES.copy()
    served[7, 1] = bad
    for bounds in ({"accuracy": Bound(min=0)}, {}):
        found = judge_quality(Gates(metrics=bounds), AnsweredRows(TRUE, served, reading=OF_SHARES, output="p"))  # type: ignore[arg-type]
        assert not found.passed
        assert found.summary == f"output 'p' must answer with finite numbers: row 7 is {bad:g}"


def test_without_a_reading_the_answers_speak() -> None:
    """Probabilities are seen to be some; other scores of classes are ranked only, and one number a row is a value."""
    assert undeclared(Gates(), TRUE, SHARES).scores == "probabilities"
    assert undeclared(Gates(), np.eye(3)[TRUE], SHARES).task == "multiclass"
    assert undeclared(Gates(), TRUE == 1, SHARES[:, :1]).task == "binary"
    assert undeclared(Gates(), np.stack([TRUE > 0, TRUE > 1], 1), np.full((60, 2), 0.3)).task == "multilabel"
    assert undeclared(Gates(), LOGITS[:, 0], LOGITS[:, :1]).task == "regression"
    assert undeclared(Gates(), TRUE, TRUE).scores == "labels"
    assert undeclared(Gates(), TRUE.astype(str), SHARES).task == ""
    assert undeclared(Gates(), TRUE > 0, LOGITS[:, :1]).task == "regression"
    found = judge_quality(Gates(), AnsweredRows(TRUE, LOGITS))
    assert found.passed
    assert found.figures == {
        "accuracy": sk.accuracy_score(TRUE, LOGITS.argmax(axis=1)),
        "macro_f1": sk.f1_score(TRUE, LOGITS.argmax(axis=1), average="macro"),
    }
    with pytest.raises(DataError, match=r"margins \(inferred from the answers.*gates\.scores"):
        judge_quality(Gates(metrics={"auc": Bound(min=0)}), AnsweredRows(TRUE, LOGITS))  # type: ignore[dict-item]
    for said in (Gates(scores="logits"), Gates(task="binary", scores="logits")):
        target, served = (TRUE, LOGITS) if not said.task else (TRUE > 0, LOGITS[:, :1])
        assert settle(said, undeclared(said, target, served), target, served, "p").scores == "logits"


def test_said_twice_is_settled_once() -> None:
    """`gates` change nothing where they repeat what is decided, and are not lost where they are said again."""
    found = decide(Clues("", "classes", True), TRUE, LOGITS)
    assert settle(Gates(), found, TRUE, LOGITS, "p") == found
    said = settle(Gates(task="multiclass", scores="logits"), found, TRUE, LOGITS, "p")
    assert (said.task, said.scores, said.reason) == (found.task, found.scores, found.reason)
    assert settle(Gates(task="multiclass", scores="logits"), said, TRUE, LOGITS, "p") == said
    ranked = undeclared(Gates(), TRUE, LOGITS)
    assert settle(Gates(task="multiclass"), ranked, TRUE, LOGITS, "p").scores == "margins"
    other = settle(Gates(scores="probabilities"), found, TRUE, SHARES, "p")
    assert (other.scores, other.reason) == ("probabilities", "gates.scores")


def test_a_champion_is_read_by_its_own_record() -> None:
    """Its record holds; without one it is probabilities where it looks so, else what the candidate is."""
    assert reading_of_champion(OF_LOGITS, OF_SHARES, TRUE, LOGITS) is OF_LOGITS
    assert reading_of_champion(None, OF_LOGITS, TRUE, SHARES).scores == "probabilities"
    assert reading_of_champion(None, OF_LOGITS, TRUE, LOGITS) is OF_LOGITS
    assert reading_of_champion(None, OF_SHARES, TRUE, SHARES) is OF_SHARES
    assert reading_of_champion(Reading(), OF_SHARES, TRUE, SHARES) is OF_SHARES


def test_why_a_champion_is_not_compared() -> None:
    """Another task, and scores that are not what they are said to be, are reasons; another kind of scores is none."""
    assert why_not_compared(OF_SHARES, OF_LOGITS, TRUE, LOGITS) == ""
    assert "must be probabilities" in why_not_compared(OF_SHARES, OF_SHARES, TRUE, LOGITS)
    assert "regression values" in why_not_compared(OF_SHARES, Reading("regression", "values"), TRUE, SHARES)


def test_a_metric_of_the_users_own_is_given_what_was_served() -> None:
    """Whatever the scores are read as, it gets the loader's targets and the served numbers, NaN included."""
    served = LOGITS.astype(np.float32)
    served[0, 0] = np.nan
    bounds: Any = {"tests.data.scored_models:untouched": Bound(min=1)}
    assert judge_quality(Gates(metrics=bounds), AnsweredRows(TRUE, served, reading=OF_SHARES)).passed


@pytest.mark.parametrize(
    ("family", "target", "words"),
    [
        ("binary", np.array([1, 2, 1]), "expects targets from 0 to 1, got 1 to 2"),
        ("binary", np.array([-1, 1, 1]), "expects targets from 0 to 1, got -1 to 1"),
        ("classes", np.array([0, -1, 0]), "targets of -1 to 0 do not name 2 classes"),
        ("one-hot", np.full((3, 2), 2.0), "not one-hot"),
        ("margin", np.array([0, 3, 1]), "not 0 and 1"),
        ("numbers", np.zeros((3, 5)), "not have the same number of values"),
        ("", np.array(["a", "b", "c"]), "are not both numbers"),
    ],
)
def test_targets_that_a_loss_does_not_mean(family: Any, target: np.ndarray, words: str) -> None:
    """Where targets are not what the loss takes, there is no task, and the reason is shown instead of a figure."""
    answers = np.full((3, 2) if family in ("classes", "one-hot") else (3, 1), 0.5)
    reading = decide(Clues("a loss", family), target, answers)
    assert reading.task == ""
    assert words in reading.reason
    found = judge_quality(Gates(), AnsweredRows(target, answers, reading=reading))
    assert found.passed
    assert not found.figures
    assert words in found.summary
    with pytest.raises(DataError, match="no task that it can judge"):
        judge_quality(Gates(metrics={"accuracy": Bound(min=0)}), AnsweredRows(target, answers, reading=reading))  # type: ignore[dict-item]


def test_readings_are_kept_with_the_export(tmp_path: Path) -> None:
    """What is written is read; none, one that is damaged, too large or too deep is no reading, and no error."""
    kept = {"p": decide(Clues("a loss", "classes", True, ""), TRUE, LOGITS), "naïve": Reading()}
    write_readings(tmp_path, kept)
    assert read_readings(tmp_path) == kept
    assert read_readings(tmp_path / "none") == {}
    for text in ("{", "[]", '{"p": 3}', '{"p": {"task": "guess"}}', "[" * 100_000, " " * (LARGEST + 1), "\0", "\udcff"):
        (tmp_path / READINGS).write_bytes(text.encode(errors="surrogateescape"))
        assert read_readings(tmp_path) == {}, text[:20]


def test_what_was_kept_before_readings_is_still_read() -> None:
    """A trained model that was written down before this has no readings, and is what it was."""
    old = {"keras_file": "m.keras", "history": {"loss": [1.0]}, "parameters": 3, "best_epoch": 1}
    assert TypeAdapter(TrainedModel).validate_python(old).readings == {}
    new = TrainedModel(Path("m.keras"), {"loss": (1.0,)}, 3, 1, {"p": OF_LOGITS})
    again = json.loads(json.dumps(dataclasses.asdict(new), default=str))
    assert TypeAdapter(TrainedModel).validate_python(again) == new
