"""Scoring against scikit-learn: each metric is its figure on the decoded answers, of every task, scores and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from sklearn import metrics as sk

from tasks.gates.metrics import default_metrics, measure
from tasks.gates.reading import decide
from tasks.gates.scores import Scored
from tasks.records import Clues

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SEEDS = range(9)
SCORES = ("probabilities", "logits")
CASES = [(dtype, scores, seed) for dtype in DTYPES for scores in SCORES for seed in SEEDS]
IDS = [f"{np.dtype(dtype).name}-{scores}-{seed}" for dtype, scores, seed in CASES]
Figures = dict[str, float]


def clues(family: str, scores: str) -> Clues:
    return Clues("a loss", family, scores == "logits")  # type: ignore[arg-type]


def check(scored: Scored, expected: Figures) -> None:
    """Hold every metric that suits the answers against scikit-learn's."""
    scored.check()
    assert set(default_metrics(scored.reading)) <= set(expected)
    found = {name: measure(name, scored) for name in expected}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def answered(logits: np.ndarray, scores: str, dtype: Any, decode: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return answers as a model of that dtype serves them, and the probabilities that they mean in float64."""
    served = (logits if scores == "logits" else decode(logits)).astype(dtype)
    wide = served.astype(np.float64)
    return served, decode(wide) if scores == "logits" else wide


def of_classes(true: np.ndarray, named: np.ndarray, shares: np.ndarray) -> Figures:
    """Return scikit-learn's figures of one class a row; `shares` of shape (n, k)."""
    labels = np.arange(shares.shape[1])
    ranked = {"y_score": shares[:, 1]} if len(labels) == 2 else {"y_score": shares, "multi_class": "ovr"}
    return {
        "accuracy": sk.accuracy_score(true, named),
        "macro_f1": sk.f1_score(true, named, average="macro"),
        "log_loss": sk.log_loss(true, shares, labels=labels),
        "brier": sk.brier_score_loss(true, shares, labels=labels),
        "auc": sk.roc_auc_score(true, **ranked) if len(np.unique(true)) == len(labels) else np.nan,
    }


@pytest.mark.parametrize(("dtype", "scores", "seed"), CASES, ids=IDS)
def test_binary(dtype: Any, scores: str, seed: int) -> None:
    """One score a row, in every shape of targets and answers that Keras takes."""
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(20, 200))
    true = np.r_[0, 1, rng.integers(0, 2, n_rows - 2)]
    logits = rng.normal(0, 3, n_rows) + 2 * true - 1
    served, shares = answered(logits, scores, dtype, expit)
    shape = [(n_rows,), (n_rows, 1)][seed % 2]
    target = [true, true[:, None], true == 1, true.astype(np.float32), 2 * true - 1][seed % 5]
    family = "margin" if target.min() < 0 else "binary"
    reading = decide(clues(family if family == "binary" else "", scores), target, served.reshape(shape))
    named = (served.astype(np.float64) >= (0 if scores == "logits" else 0.5)).astype(int)
    expected = of_classes(true, named, np.stack([1 - shares, shares], axis=1))
    check(Scored(target, served.reshape(shape), reading), expected)


@pytest.mark.parametrize(("dtype", "scores", "seed"), CASES, ids=IDS)
def test_classes(dtype: Any, scores: str, seed: int) -> None:
    """A score for each of 2 to 6 classes; targets are numbers or one-hot, and a class may have no row."""
    rng = np.random.default_rng(100 + seed)
    n_rows, k = int(rng.integers(30, 200)), 2 + seed % 5
    true = np.r_[np.arange(k), rng.integers(0, k, n_rows - k)]
    if seed % 4 == 3:
        true = np.minimum(true, k - 2 + (k == 2))
    logits = rng.normal(0, 2, (n_rows, k)) + 2 * np.eye(k)[true]
    served, shares = answered(logits, scores, dtype, lambda x: scipy_softmax(x, axis=1))
    one_hot = np.eye(k)[true]
    target, family = [
        (true, "classes"), (true[:, None], "classes"), (one_hot, "one-hot"), (one_hot.astype(np.int8), "one-hot"),
        (true.astype(np.float32), "classes"), (one_hot == 1, "one-hot"), (true.astype(np.uint8), ""),
    ][seed % 7]  # fmt: skip
    reading = decide(clues(family, scores), target, served)
    assert (reading.task, reading.scores) == ("binary" if k == 2 else "multiclass", scores)
    shares = shares / shares.sum(axis=1, keepdims=True)  # what is rounded adds up to 1 only nearly
    check(Scored(target, served, reading), of_classes(true, served.astype(np.float64).argmax(axis=1), shares))


@pytest.mark.parametrize(("dtype", "scores", "seed"), CASES, ids=IDS)
def test_several_labels(dtype: Any, scores: str, seed: int) -> None:
    """Any number of 2 to 5 labels a row: every label counts for itself, accuracy is of whole rows."""
    rng = np.random.default_rng(200 + seed)
    n_rows, k = int(rng.integers(20, 150)), 2 + seed % 4
    true = np.concatenate([np.zeros((1, k), int), np.ones((1, k), int), rng.integers(0, 2, (n_rows - 2, k))])
    if seed % 3 == 2:
        true[:, 0] = 0  # a label that no row has
    logits = rng.normal(0, 2, (n_rows, k)) + 2 * true - 1
    served, shares = answered(logits, scores, dtype, expit)
    target = [true, true.astype(np.float32), true == 1][seed % 3]
    named = (served.astype(np.float64) >= (0 if scores == "logits" else 0.5)).astype(int)
    columns = range(k)
    one_sided = (true.min(axis=0) == true.max(axis=0)).any()
    check(
        Scored(target, served, decide(clues("binary", scores), target, served)),
        {
            "accuracy": sk.accuracy_score(true, named),
            "macro_f1": sk.f1_score(true, named, average="macro", zero_division=0.0),
            "log_loss": np.mean([sk.log_loss(true[:, j], shares[:, j], labels=[0, 1]) for j in columns]),
            "brier": np.mean([sk.brier_score_loss(true[:, j], shares[:, j], pos_label=1) for j in columns]),
            "auc": np.nan if one_sided else sk.roc_auc_score(true, shares, average="macro"),
        },
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_regression(dtype: Any, seed: int) -> None:
    """Numbers of one or several columns, computed in float64 whatever they were served in."""
    rng = np.random.default_rng(300 + seed)
    n_rows, k = int(rng.integers(10, 150)), 1 + seed % 3
    target = rng.normal(5, 20, (n_rows, k)).astype(np.float32)
    served = (target + rng.normal(0, 3, (n_rows, k))).astype(dtype)
    if k == 1:
        target = [target, target[:, 0]][seed % 2]
    wide, got = target.reshape(n_rows, k).astype(np.float64), served.astype(np.float64)
    check(
        Scored(target, served, decide(clues("numbers", "probabilities"), target, served)),
        {
            "rmse": np.sqrt(sk.mean_squared_error(wide, got)),
            "mae": sk.mean_absolute_error(wide, got),
            "r2": sk.r2_score(wide, got),
        },
    )


@pytest.mark.parametrize("seed", range(10))
def test_numbers_of_classes(seed: int) -> None:
    """A model that answers with the number of a class has accuracy and F1, and no probabilities."""
    rng = np.random.default_rng(400 + seed)
    true, named = rng.integers(0, 2 + seed, (2, 60))
    scored = Scored(true[:, None] if seed % 2 else true, named, decide(Clues(), true, named))
    assert scored.reading.scores == "labels"
    check(
        scored,
        {"accuracy": sk.accuracy_score(true, named), "macro_f1": sk.f1_score(true, named, average="macro")},
    )


@pytest.mark.parametrize("seed", range(10))
def test_margins(seed: int) -> None:
    """What a hinge loss trains is cut at 0 and ranked, and is no probability."""
    rng = np.random.default_rng(500 + seed)
    true = np.r_[0, 1, rng.integers(0, 2, 60)]
    served = (rng.normal(0, 1, 62) + 2 * true - 1).astype(np.float32)[:, None]
    target = 2 * true - 1 if seed % 2 else true
    scored = Scored(target, served, decide(Clues("Hinge", "margin"), target, served))
    named = (served[:, 0] >= 0).astype(int)
    check(
        scored,
        {
            "accuracy": sk.accuracy_score(true, named),
            "macro_f1": sk.f1_score(true, named, average="macro"),
            "auc": sk.roc_auc_score(true, served[:, 0]),
        },
    )
    assert default_metrics(scored.reading) == ("accuracy", "macro_f1", "auc")


def test_logits_and_their_probabilities_have_one_figure() -> None:
    """The same model with a softmax and without one is scored alike, saturated logits included."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 200)
    logits = rng.normal(0, 200, (200, 3)) + 500 * np.eye(3)[true]
    shares = scipy_softmax(logits, axis=1)
    own = Scored(true, logits, decide(clues("classes", "logits"), true, logits))
    twin = Scored(true, shares, decide(clues("classes", "probabilities"), true, shares))
    for name in default_metrics(own.reading):
        assert measure(name, own) == pytest.approx(measure(name, twin), rel=1e-9)
