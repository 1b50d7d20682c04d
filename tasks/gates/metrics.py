"""Metrics of served answers: one number of the true values and the answers to the same rows.

Most are a function of means over rows, which is what makes thousands of resamples cheap: `rows` gives float64 of
shape (n, m), and `finish` turns means of shape (..., m) into the metric. Tests hold each against scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs.schema import LESS_IS_BETTER, Bound
from tasks.datasets.references import describe, resolve
from tasks.datasets.rows import Array
from tasks.errors import DataError


@dataclass(frozen=True)
class MeanMetric:
    """A metric that needs only means over the rows."""

    rows: Callable[[Array, Array], Array]
    finish: Callable[[Array], Array] = lambda means: means[..., 0]


def measure(name: str, target: Array, served: Array) -> float:
    """Return one metric by its name or `module:function`.

    Args:
        target: shape (n,) or (n, ...), the true values. served: shape (n, ...), the answers to the same rows.

    Raises:
        DataError: no such metric, or it does not fit these answers.
    """
    if name in MEAN_METRICS:
        return float(MEAN_METRICS[name].finish(row_statistics(name, target, served).mean(axis=0)))
    function = _auc if name == "auc" else resolve(name, "gates.metrics", DataError) if ":" in name else None
    if function is None:
        raise DataError(f"gates.metrics knows {', '.join([*MEAN_METRICS, 'auc'])} and module:function, got '{name}'")
    try:
        return float(function(target, served))
    except Exception as exc:  # scikit-learn and users' metrics raise many classes for answers that do not fit
        raise _misfit(name, target, served, describe(exc)) from exc


def row_statistics(name: str, target: Array, served: Array) -> Array:
    """Return what a metric of `MEAN_METRICS` needs of each row, float64 of shape (n, m).

    Raises:
        DataError: it does not fit these answers.
    """
    try:
        return MEAN_METRICS[name].rows(target, served)
    except (ValueError, IndexError, TypeError) as exc:  # NumPy's, for shapes and dtypes that do not fit
        raise _misfit(name, target, served, describe(exc)) from exc


def _misfit(name: str, target: Array, served: Array, reason: str) -> DataError:
    return DataError(
        f"metric '{name}' must fit targets of shape {target.shape} and answers of shape {served.shape}, got {reason}"
    )


def less_is_better(name: str, bound: Bound) -> bool:
    """Return the direction of a metric; a user's own counts as an error where only a maximum bounds it."""
    return name in LESS_IS_BETTER or (":" in name and bound.max is not None and bound.min is None)


def is_classification(target: Array, served: Array) -> bool:
    """Return whether answers are scores of classes: (n, k) for integers, or a probability for 0 and 1."""
    if target.dtype.kind not in "biu" or target.size != len(target) or served.dtype.kind not in "biuf":
        return False
    if served.ndim == 2 and served.shape[1] > 1:
        return bool(target.size and target.min() >= 0 and target.max() < served.shape[1])
    if served.size != len(served):
        return False
    return bool(np.isin(target, (0, 1)).all() and ((served >= 0) & (served <= 1)).all())


def default_metrics(target: Array, served: Array) -> tuple[str, ...]:
    """Return the metrics that suit the answers, the first one for the comparison with a champion."""
    if is_classification(target, served):
        return ("accuracy", "macro_f1", "log_loss", "auc", "brier")
    fits = target.dtype.kind in "biuf" and served.dtype.kind in "biuf" and target.size == served.size
    return ("rmse", "mae", "r2") if fits else ()


def labels(served: Array) -> Array:
    """Return the class that each answer names, as int64 of shape (n,).

    (n, k) are scores of k classes; (n,) and (n, 1) are labels when integer, else a probability of class 1.
    """
    if served.ndim == 2 and served.shape[1] > 1:
        return np.asarray(served.argmax(axis=1), np.int64)
    flat = served.reshape(len(served))
    return flat.astype(np.int64) if flat.dtype.kind in "biu" else (flat >= 0.5).astype(np.int64)


def class_scores(served: Array) -> Array:
    """Return a score for each class as float64 of shape (n, k), rows adding up to 1; k is 2 for one probability."""
    scores = served.astype(np.float64)
    if scores.size == len(scores):
        scores = np.stack([1 - scores.reshape(-1), scores.reshape(-1)], axis=1)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))  # float32 probabilities add up to 1 only nearly


def _flat(target: Array) -> Array:
    """Return one class number a row."""
    return target.reshape(len(target))


def _hits(target: Array, served: Array) -> Array:
    return np.asarray(_flat(target) == labels(served), np.float64)[:, None]


def _class_counts(target: Array, served: Array) -> Array:
    """Return for each class whether it was hit, named, and meant: shape (n, 3 k)."""
    meant, named = _flat(target), labels(served)
    classes = np.union1d(meant, named)
    is_meant, is_named = meant[:, None] == classes, named[:, None] == classes
    return np.concatenate([is_meant & is_named, is_named, is_meant], axis=1).astype(np.float64)


def _f1(means: Array) -> Array:
    """Return the mean F1 of the classes that were meant or named; one of which none was hit counts 0."""
    hit, named, meant = np.split(means, 3, axis=-1)
    there = named + meant > 0
    f1 = np.divide(2 * hit, named + meant, out=np.zeros_like(hit), where=there)
    return np.asarray(f1.sum(axis=-1) / there.sum(axis=-1))


def _surprise(target: Array, served: Array) -> Array:
    """Return minus the logarithm of the score of the true class, cut at float64's epsilon as scikit-learn does."""
    of_true = class_scores(served)[np.arange(len(target)), _flat(target)]
    epsilon = np.finfo(np.float64).eps
    return np.asarray(-np.log(np.clip(of_true, epsilon, 1 - epsilon)))[:, None]


def _brier(target: Array, served: Array) -> Array:
    """Return squared distances to the true class: 0 to 1 for two classes, 0 to 2 for more, as scikit-learn scales."""
    scores = class_scores(served)
    distance = np.square(scores - np.eye(scores.shape[1])[_flat(target)]).sum(axis=1, keepdims=True)
    return np.asarray(distance / 2 if scores.shape[1] == 2 else distance)


def _auc(target: Array, served: Array) -> float:
    """Return the area under the ROC curve, of several classes the mean of each against the rest.

    It is NaN where a class has no row.
    """
    from sklearn.metrics import roc_auc_score

    scores, flat = class_scores(served), _flat(target)
    if len(np.unique(flat)) < scores.shape[1]:
        return float("nan")
    if scores.shape[1] == 2:
        return float(roc_auc_score(flat, scores[:, 1]))
    return float(roc_auc_score(flat, scores, multi_class="ovr", labels=np.arange(scores.shape[1])))


def _residuals(target: Array, served: Array) -> Array:
    wanted, got = target.reshape(len(target), -1).astype(np.float64), served.reshape(len(served), -1)
    if wanted.shape != got.shape:
        raise ValueError("shapes differ")
    return wanted - got


def _explained(target: Array, served: Array) -> Array:
    """Return squared residuals, values and squared values of each column: shape (n, 3 k)."""
    values = target.reshape(len(target), -1).astype(np.float64)
    values = values - values.mean(axis=0)  # the figure does not change, and its digits are kept
    return np.concatenate([np.square(_residuals(target, served)), values, np.square(values)], axis=1)


def _r2(means: Array) -> Array:
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
        lambda target, served: np.square(_residuals(target, served)).mean(axis=1, keepdims=True),
        lambda means: np.sqrt(means[..., 0]),
    ),
    "mae": MeanMetric(lambda target, served: np.abs(_residuals(target, served)).mean(axis=1, keepdims=True)),
    "r2": MeanMetric(_explained, _r2),
}
