"""The answers that the metrics judge, and what the pictures of them count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from configs.schema import Config
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.errors import DataError
from tasks.gates.judge import judged_output
from tasks.gates.reading import reading_of
from tasks.gates.scores import Scored, not_finite
from tasks.records import ValidationReport

MOST_CLASSES = 30  # a larger confusion matrix cannot be read
BINS = 10


@dataclass(frozen=True)
class Judged:
    """One output with its target, row by row, as the quality gate reads it."""

    output: str
    scored: Scored


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for which.

    Attributes:
        classes: their numbers, ascending.
        counts: int64 (k, k), rows by target, columns by what was served.
    """

    classes: tuple[int, ...]
    counts: Array


@dataclass(frozen=True)
class Calibration:
    """How often answers of about the same probability were right.

    Attributes:
        probability, observed: float64 (bins,) in 0 to 1, the means of each bin that holds rows.
        rows: int64 (bins,). error: mean of |probability - observed| over all rows.
        meaning: what is observed.
    """

    probability: Array
    observed: Array
    rows: Array
    error: float
    meaning: str


def judged_answers(config: Config, report: ValidationReport) -> Judged | None:
    """Return the output that the metrics judge with its target; None where it is unknown or was not served."""
    if report.served is None:
        return None
    try:
        answers, targets = load_arrays(report.served.answers), load_rows(report.candidate.targets).targets
        name = judged_output(config.gates, list(answers))
    except DataError:
        return None
    # as the quality gate does: the only target belongs to it whatever its name
    target = next(iter(targets.values())) if len(targets) == 1 else targets.get(config.export.outputs.get(name, name))
    if target is None or len(target) != len(answers[name]):
        return None
    try:
        reading = reading_of(config.gates, report.candidate, name, target, answers[name])
    except DataError:
        return None
    return Judged(name, Scored(target, answers[name], reading, name))


def confuse(scored: Scored) -> Confusion | None:
    """Count how often each class was taken for which; None where these are not classes, or too many."""
    if scored.reading.task not in ("binary", "multiclass") or not_finite(scored.served):
        return None
    wanted, got = scored.true, scored.named
    possible = wanted if scored.reading.scores == "labels" else np.arange(max(scored.width, 2))
    classes = np.unique(np.concatenate([wanted, got, possible]))
    if len(classes) > MOST_CLASSES:
        return None
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, wanted), np.searchsorted(classes, got)), 1)
    return Confusion(tuple(int(name) for name in classes), counts)


def calibrate(scored: Scored) -> Calibration | None:
    """Compare the probabilities served, or meant by logits, with what came true; None where there are none."""
    kind = scored.reading.scores
    if kind not in ("probabilities", "logits") or not_finite(scored.served) or not len(scored):
        return None
    if kind == "probabilities" and not scored.probable():
        return None
    if scored.reading.task == "multilabel":
        probability, true, meaning = scored.scores.ravel(), scored.true.ravel() == 1, "share of labels that were there"
    elif scored.reading.task == "binary":
        probability, true, meaning = scored.scores[:, -1], scored.true == 1, "share of class 1"
    else:
        probability, true, meaning = scored.scores.max(axis=1), scored.named == scored.true, "share that was right"
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    full = rows > 0
    served_mean, observed = (np.bincount(bins, of, BINS)[full] / rows[full] for of in (probability, true))
    error = float(np.sum(np.abs(served_mean - observed) * rows[full]) / len(true))
    return Calibration(np.minimum(served_mean, 1), observed, rows[full], error, meaning)


def residuals(target: Array, served: Array) -> tuple[Array, Array]:
    """Return what was served and target minus served, float64 (m,), of every finite pair; empty where sizes differ."""
    if target.size != served.size:
        return np.empty(0), np.empty(0)
    wanted, got = target.ravel().astype(np.float64), served.ravel().astype(np.float64)
    keep = np.isfinite(wanted) & np.isfinite(got)
    return got[keep], wanted[keep] - got[keep]
