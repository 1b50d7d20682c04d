"""Metrics of served answers: one number of the true values and the answers to the same rows.

Most are a function of means over rows, which is what makes thousands of resamples cheap: `rows` gives float64 of
shape (n, m), and `finish` turns means of shape (..., m) into the metric. Tests hold each against scikit-learn.

    metric      of classes                                   of several labels
    accuracy    accuracy_score                               accuracy_score: every label of a row is right
    macro_f1    f1_score(average="macro")                    the same, a mean over labels
    log_loss    log_loss                                     the mean of log_loss over labels
    auc         roc_auc_score, several classes "ovr"         roc_auc_score(average="macro")
    brier       brier_score_loss                             the mean of brier_score_loss over labels
    rmse, mae, r2: root_mean_squared_error, mean_absolute_error, r2_score
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs.sections.gates import LESS_IS_BETTER, Bound
from tasks.datasets.rows import Array
from tasks.datasets.user_code import describe, resolve
from tasks.errors import DataError
from tasks.gates.scores import Scored, as_float
from tasks.records import Reading

OF_CLASSES = ("accuracy", "macro_f1", "log_loss", "auc", "brier")
OF_NUMBERS = ("rmse", "mae", "r2")


@dataclass(frozen=True)
class MeanMetric:
    """A metric that needs only means over the rows."""

    rows: Callable[[Scored], Array]
    finish: Callable[[Array, Reading], Array] = lambda means, reading: means[..., 0]


def measure(name: str, scored: Scored) -> float:
    """Return one metric by its name or `module:function`; the user's own is given what was served, untouched.

    Raises:
        DataError: no such metric, or it does not fit these answers.
    """
    if name in MEAN_METRICS:
        return float(MEAN_METRICS[name].finish(row_statistics(name, scored).mean(axis=0), scored.reading))
    function = resolve(name, "gates.metrics", DataError) if ":" in name else None
    if name != "auc" and function is None:
        raise DataError(f"gates.metrics knows {', '.join([*MEAN_METRICS, 'auc'])} and module:function, got '{name}'")
    _refuse_unfit(name, scored)
    try:
        return float(function(scored.target, scored.served)) if function else _auc(scored)
    except Exception as exc:  # scikit-learn and users' metrics raise many classes for answers that do not fit
        raise _misfit(name, scored, describe(exc)) from exc


def row_statistics(name: str, scored: Scored) -> Array:
    """Return what a metric of `MEAN_METRICS` needs of each row, float64 of shape (n, m).

    Raises:
        DataError: it does not fit these answers.
    """
    _refuse_unfit(name, scored)
    try:
        return MEAN_METRICS[name].rows(scored)
    except (ValueError, IndexError, TypeError) as exc:  # NumPy's, for shapes and dtypes that do not fit
        raise _misfit(name, scored, describe(exc)) from exc


def _refuse_unfit(name: str, scored: Scored) -> None:
    reason = unfit(name, scored.reading)
    if reason:
        raise _misfit(name, scored, reason)


def _misfit(name: str, scored: Scored, reason: str) -> DataError:
    return DataError(
        f"metric '{name}' must fit targets of shape {scored.target.shape} and answers of shape "
        f"{scored.served.shape}, got {reason}"
    )


def unfit(name: str, reading: Reading) -> str:
    """Return why a metric cannot judge answers that are read so, or an empty string."""
    if ":" in name:
        return ""
    if not reading.task:
        return f"no task that it can judge ({reading.reason})"
    if name in OF_CLASSES and reading.task == "regression":
        return f"a regression ({reading.reason}); set gates.task if the targets are classes"
    if name in ("log_loss", "brier") and reading.scores not in ("probabilities", "logits"):
        return f"{reading.scores} ({reading.reason}); it needs probabilities or logits: gates.scores"
    several_margins = reading.scores == "margins" and reading.task == "multiclass"
    if name == "auc" and (reading.scores == "labels" or several_margins):
        return f"{reading.scores} ({reading.reason}); it needs probabilities or logits: gates.scores"
    if name in OF_NUMBERS and reading.scores == "margins":
        return f"margins ({reading.reason}), which cannot be compared with the targets' values"
    return ""


def less_is_better(name: str, bound: Bound) -> bool:
    """Return the direction of a metric; a user's own counts as an error where only a maximum bounds it."""
    return name in LESS_IS_BETTER or (":" in name and bound.max is not None and bound.min is None)


def default_metrics(reading: Reading) -> tuple[str, ...]:
    """Return the metrics that suit the answers, the first one for the comparison with a champion."""
    names = OF_NUMBERS if reading.task == "regression" else OF_CLASSES
    return tuple(name for name in names if not unfit(name, reading))


def _hits(scored: Scored) -> Array:
    right = np.asarray(scored.true == scored.named, np.float64).reshape(len(scored), -1)
    return np.asarray(right.min(axis=1, keepdims=True))


def _class_counts(scored: Scored) -> Array:
    """Return for each class, or label, whether it was hit, named, and meant: shape (n, 3 k)."""
    if scored.reading.task == "multilabel":
        is_meant, is_named = scored.true == 1, scored.named == 1
    else:
        classes = np.union1d(scored.true, scored.named)
        is_meant, is_named = scored.true[:, None] == classes, scored.named[:, None] == classes
    return np.concatenate([is_meant & is_named, is_named, is_meant], axis=1).astype(np.float64)


def _f1(means: Array, reading: Reading) -> Array:
    """Return the mean F1 of the classes that were meant or named, or of all labels; where none was hit it is 0."""
    hit, named, meant = np.split(means, 3, axis=-1)
    counts = (named + meant > 0) | (reading.task == "multilabel")
    f1 = np.divide(2 * hit, named + meant, out=np.zeros_like(hit), where=named + meant > 0)
    return np.asarray(f1.sum(axis=-1) / counts.sum(axis=-1))


def _surprise(scored: Scored) -> Array:
    """Return minus the logarithm of the score of the true class, cut at float64's epsilon as scikit-learn does."""
    epsilon = np.finfo(np.float64).eps
    if scored.reading.task == "multilabel":
        of_true = np.where(scored.marks == 1, scored.scores, 1 - scored.scores)
    else:
        of_true = scored.scores[np.arange(len(scored)), scored.true][:, None]
    return np.asarray(-np.log(np.clip(of_true, epsilon, 1 - epsilon)).mean(axis=1, keepdims=True))


def _brier(scored: Scored) -> Array:
    """Return squared distances to the true class: 0 to 1 for two classes, 0 to 2 for more, as scikit-learn scales."""
    squared = np.square(scored.scores - scored.marks)
    if scored.reading.task == "multilabel":
        return np.asarray(squared.mean(axis=1, keepdims=True))
    distance = squared.sum(axis=1, keepdims=True)
    return np.asarray(distance / 2 if scored.scores.shape[1] == 2 else distance)


def _auc(scored: Scored) -> float:
    """Return the area under the ROC curve, of several classes the mean of each against the rest.

    It is NaN where a class has no row, or a label has rows of one kind only.
    """
    from sklearn.metrics import roc_auc_score

    scores, marks = scored.scores, scored.marks
    if without_rows(scored):
        return float("nan")
    if scored.reading.task == "multilabel":
        return float(roc_auc_score(marks, scores, average="macro"))
    if scores.shape[1] == 2:
        return float(roc_auc_score(scored.true, scores[:, 1]))
    return float(roc_auc_score(scored.true, scores, multi_class="ovr", labels=np.arange(scores.shape[1])))


def without_rows(scored: Scored) -> list[int]:
    """Return the classes that no row is of, and the labels that all rows or none have: they cannot be ranked."""
    marks = scored.marks
    return [int(column) for column in np.flatnonzero(marks.min(axis=0) == marks.max(axis=0))]


def _numbers(scored: Scored) -> tuple[Array, Array]:
    """Return what was wanted and what was answered, both float64 of shape (n, k); of logits, what they mean."""
    if not scored.same_size:
        raise ValueError("shapes differ")
    if scored.reading.scores in ("probabilities", "logits"):
        return scored.marks[:, -scored.width :], scored.scores[:, -scored.width :]
    wanted, got = (as_float(array).reshape(len(scored), -1) for array in (scored.target, scored.served))
    return wanted, got


def _residuals(scored: Scored) -> Array:
    wanted, got = _numbers(scored)
    return wanted - got


def _explained(scored: Scored) -> Array:
    """Return squared residuals, values and squared values of each column: shape (n, 3 k)."""
    values, got = _numbers(scored)
    centred = values - values.mean(axis=0)  # the figure does not change, and its digits are kept
    return np.concatenate([np.square(values - got), centred, np.square(centred)], axis=1)


def _r2(means: Array, _reading: Reading) -> Array:
    squared, value, value_squared = np.split(means, 3, axis=-1)
    variance = value_squared - np.square(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_column = np.where(variance > 0, 1 - squared / variance, np.where(squared > 0, 0.0, 1.0))
    return np.asarray(of_column.mean(axis=-1))


MEAN_METRICS: dict[str, MeanMetric] = {
    "accuracy": MeanMetric(_hits),
    "macro_f1": MeanMetric(_class_counts, _f1),
    "log_loss": MeanMetric(_surprise),
    "brier": MeanMetric(_brier),
    "rmse": MeanMetric(
        lambda scored: np.square(_residuals(scored)).mean(axis=1, keepdims=True),
        lambda means, reading: np.sqrt(means[..., 0]),
    ),
    "mae": MeanMetric(lambda scored: np.abs(_residuals(scored)).mean(axis=1, keepdims=True)),
    "r2": MeanMetric(_explained, _r2),
}
