"""Quality: the metrics of the served answers reach their bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from configs.schema import Bound
from tasks.datasets.references import describe, resolve
from tasks.datasets.rows import Array
from tasks.errors import DataError
from tasks.records import GateResult

Metric = Callable[[Array, Array], float]


def judge_quality(bounds: Mapping[str, Bound], target: Array, served: Array) -> GateResult:
    """Compute each metric from what was served and hold it against its bound.

    Args:
        target: shape (n,) or (n, ...), the true values. served: shape (n, ...), the answers to the same rows.

    Raises:
        DataError: a metric is unknown or does not fit the answers.
    """
    figures = {name: measure(name, target, served) for name in bounds}
    missed = [name for name, bound in bounds.items() if not _within(figures[name], bound)]
    lines = [f"{name} {figures[name]:.4g} {_bound_text(bound)}" for name, bound in bounds.items()]
    summary = ", ".join(lines) or "no metric bound is configured (gates.metrics)"
    return GateResult(
        "quality",
        not missed,
        summary,
        figures,
        evidence={"missed": missed, "bounds": {name: bound.model_dump() for name, bound in bounds.items()}},
    )


def measure(name: str, target: Array, served: Array) -> float:
    """Return one metric by its name or `module:function`.

    Raises:
        DataError: no such metric, or it does not fit these answers.
    """
    function = METRICS.get(name) or (resolve(name, "gates.metrics", DataError) if ":" in name else None)
    if function is None:
        raise DataError(f"gates.metrics knows {', '.join(METRICS)} and module:function, got '{name}'")
    try:
        return float(function(target, served))
    except Exception as exc:  # scikit-learn and users' metrics raise many classes for answers that do not fit
        raise DataError(
            f"metric '{name}' must fit targets of shape {target.shape} and answers of shape "
            f"{served.shape}, got {describe(exc)}"
        ) from exc


def _within(value: float, bound: Bound) -> bool:
    """Return whether a value is inside its bound; NaN never is."""
    return (
        not math.isnan(value)
        and (bound.min is None or value >= bound.min)
        and (bound.max is None or value <= bound.max)
    )


def _bound_text(bound: Bound) -> str:
    words = [f"at least {bound.min:g}"] if bound.min is not None else []
    words += [f"at most {bound.max:g}"] if bound.max is not None else []
    return f"({' and '.join(words) or 'no bound'})"


def labels(served: Array) -> Array:
    """Return the class that each answer names, as int64 of shape (n,).

    (n, k) are scores of k classes; (n,) and (n, 1) are labels when integer, else a probability of class 1.
    """
    if served.ndim == 2 and served.shape[1] > 1:
        return np.asarray(served.argmax(axis=1), np.int64)
    flat = served.reshape(len(served))
    return flat.astype(np.int64) if flat.dtype.kind in "biu" else (flat >= 0.5).astype(np.int64)


def _accuracy(target: Array, served: Array) -> float:
    return float(np.mean(target.reshape(-1) == labels(served)))


def _macro_f1(target: Array, served: Array) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(target.reshape(-1), labels(served), average="macro", zero_division=0))


def _log_loss(target: Array, served: Array) -> float:
    from sklearn.metrics import log_loss

    scores = served.astype(np.float64)
    n_classes = scores.shape[1] if scores.ndim == 2 and scores.shape[1] > 1 else 2
    if n_classes == 2 and scores.size == len(scores):
        scores = np.stack([1 - scores.reshape(-1), scores.reshape(-1)], axis=1)
    scores /= scores.sum(axis=1, keepdims=True)  # float32 probabilities add up to 1 only nearly
    return float(log_loss(target.reshape(-1), scores, labels=np.arange(n_classes)))


def _rmse(target: Array, served: Array) -> float:
    return float(np.sqrt(np.mean(np.square(_residuals(target, served)))))


def _mae(target: Array, served: Array) -> float:
    return float(np.mean(np.abs(_residuals(target, served))))


def _r2(target: Array, served: Array) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(target.reshape(len(target), -1), served.reshape(len(served), -1)))


def _residuals(target: Array, served: Array) -> Array:
    wanted, got = target.reshape(len(target), -1).astype(np.float64), served.reshape(len(served), -1)
    if wanted.shape != got.shape:
        raise ValueError("shapes differ")
    return wanted - got


METRICS: dict[str, Metric] = {
    "accuracy": _accuracy, "macro_f1": _macro_f1, "log_loss": _log_loss, "rmse": _rmse, "mae": _mae, "r2": _r2,
}  # fmt: skip
