"""The answers that the metrics judge, and what the pictures of them count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from configs.schema import Config
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.errors import DataError
from tasks.gates.judge import judged_output
from tasks.gates.metrics import is_classification, labels
from tasks.records import ValidationReport

MOST_CLASSES = 30  # a larger confusion matrix cannot be read
BINS = 10

Kind = Literal["classification", "regression", ""]


@dataclass(frozen=True)
class Judged:
    """One output and its target, row by row.

    Attributes:
        kind: what kind of picture they make; empty is none.
        target, served: arrays of n rows each.
    """

    output: str
    kind: Kind
    target: Array
    served: Array


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
    """Return the output that the metrics judge with its target; None where it is not to be told or was not served."""
    if report.served is None:
        return None
    try:
        answers, targets = load_arrays(report.served.answers), load_rows(report.candidate.targets).targets
        name = judged_output(config.gates, list(answers))
    except DataError:
        return None
    # as the quality gate does: the only target belongs to it whatever its name
    target = next(iter(targets.values())) if len(targets) == 1 else targets.get(config.export.outputs.get(name, name))
    return None if target is None else Judged(name, kind_of(target, answers[name]), target, answers[name])


def kind_of(target: Array, served: Array) -> Kind:
    """Return what kind of answers these are: classes by integer targets, else numbers of one size, else neither."""
    if not (target.ndim and served.ndim and len(target) == len(served) and len(target)):
        return ""
    if {target.dtype.kind, served.dtype.kind} - set("biuf"):
        return ""
    if is_classification(target, served) or _are_classes(target, served):
        return "classification"
    return "regression" if target.size == served.size else ""


def _are_classes(target: Array, served: Array) -> bool:
    """Return whether the model answers with class numbers instead of scores."""
    integers = target.dtype.kind in "biu" and served.dtype.kind in "biu"
    one_a_row = target.size == served.size == len(target)
    return integers and one_a_row and len(np.unique(served)) <= MOST_CLASSES


def _are_probabilities(scores: Array) -> bool:
    return bool(((scores >= 0) & (scores <= 1 + 1e-6)).all())  # a NaN is none


def confuse(target: Array, served: Array) -> Confusion | None:
    """Count how often each class was taken for which; None where these are no classes, or too many."""
    if kind_of(target, served) != "classification":
        return None
    wanted, got = target.reshape(-1).astype(np.int64), labels(served)
    possible = np.arange(served.shape[1] if served.ndim == 2 and served.shape[1] > 1 else 2)
    classes = np.unique(np.concatenate([wanted, got, possible if served.dtype.kind == "f" else wanted]))
    if len(classes) > MOST_CLASSES:
        return None
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, wanted), np.searchsorted(classes, got)), 1)
    return Confusion(tuple(int(name) for name in classes), counts)


def calibrate(target: Array, served: Array) -> Calibration | None:
    """Compare the probabilities served with what came true; None where the answers are no probabilities."""
    if kind_of(target, served) != "classification" or served.dtype.kind != "f" or not _are_probabilities(served):
        return None
    wanted, scores = target.reshape(-1), served.reshape(len(served), -1).astype(np.float64)
    if scores.shape[1] > 1 and np.abs(scores.sum(axis=1) - 1).max() > 1e-2:  # float16 adds up no better
        return None
    if scores.shape[1] <= 2:
        probability, true, meaning = scores[:, -1], wanted == 1, "share of class 1"
    else:
        probability, true, meaning = scores.max(axis=1), scores.argmax(axis=1) == wanted, "share that was right"
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    full = rows > 0
    served_mean, observed = (np.bincount(bins, of, BINS)[full] / rows[full] for of in (probability, true))
    error = float(np.sum(np.abs(served_mean - observed) * rows[full]) / len(wanted))
    return Calibration(np.minimum(served_mean, 1), observed, rows[full], error, meaning)


def residuals(target: Array, served: Array) -> tuple[Array, Array]:
    """Return what was served and target minus served, float64 (m,), of every finite pair; empty where sizes differ."""
    if target.size != served.size:
        return np.empty(0), np.empty(0)
    wanted, got = target.ravel().astype(np.float64), served.ravel().astype(np.float64)
    keep = np.isfinite(wanted) & np.isfinite(got)
    return got[keep], wanted[keep] - got[keep]
