"""Bootstrap confidence intervals of metrics, so that noise neither promotes nor rejects a candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.datasets.rows import Array
from tasks.gates.metrics import MEAN_METRICS, measure, row_statistics
from tasks.gates.scores import Scored

RESAMPLES = 999
FEW_RESAMPLES = 199  # of a metric that is computed anew for each, or of so many rows that noise is small
CELLS = 5_000_000  # of the matrix of drawn rows that is held at once, 8 bytes each


class Interval(NamedTuple):
    """A figure and its confidence interval; the bounds are NaN where there are too few rows."""

    value: float
    low: float
    high: float

    def text(self, confidence: float) -> str:
        """Return the bounds for people, such as `95% confidence interval: 0.88 to 0.93`.

        Args:
            confidence: what they were computed for, such as 0.95.
        """
        if np.isnan(self.low):
            return "too few rows for a confidence interval"
        return f"{100 * confidence:g}% confidence interval: {self.low:.2g} to {self.high:.2g}"


def metric_interval(name: str, confidence: float, scored: Scored, other: Scored | None = None) -> Interval:
    """Return a metric, or by how much it is larger than another model's on the same rows, with its interval.

    The rows are drawn with replacement, the same for both models; the same rows give the same interval.

    Args:
        scored, other: answers to the same rows, each with its own reading. confidence: two-sided, such as 0.95.

    Raises:
        DataError: the metric does not fit the answers.

    Source: percentile intervals of Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    models = [scored] if other is None else [scored, other]
    value = _gap([measure(name, answers) for answers in models])
    drawn = _gap(_resampled(name, models))
    drawn = drawn[~np.isnan(drawn)]
    if len(scored) < 2 or len(drawn) < FEW_RESAMPLES // 2:
        return Interval(float(value), np.nan, np.nan)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def _gap(values: Sequence[Any]) -> Any:
    return values[0] - values[1] if len(values) > 1 else values[0]


def _resampled(name: str, models: Sequence[Scored]) -> list[Array]:
    """Return each model's metric on the same resamples, float64 of shape (resamples,)."""
    n_rows, rng = len(models[0]), np.random.default_rng(0)
    if name not in MEAN_METRICS:
        picks = (rng.integers(0, n_rows, n_rows) for _ in range(FEW_RESAMPLES))  # one at a time: 8 bytes for each row
        figures = [[measure(name, answers.take(index)) for answers in models] for index in picks]
        return [np.array(of_model) for of_model in zip(*figures, strict=True)]
    finish = MEAN_METRICS[name].finish
    statistics = [row_statistics(name, answers) for answers in models]
    drawn: list[list[Array]] = [[] for _ in models]
    for counts in _draws(n_rows, rng):
        for values, of_rows in zip(drawn, statistics, strict=True):
            values.append(finish(counts @ of_rows / n_rows, models[0].reading))
    return [np.concatenate(values) for values in drawn]


def _draws(n_rows: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield how often each resample holds each row, float64 of shape (some resamples, n_rows), in constant memory."""
    left = min(RESAMPLES, max(FEW_RESAMPLES, CELLS // n_rows))
    while left > 0:
        some = min(left, max(1, CELLS // n_rows))
        picks = [np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows) for _ in range(some)]
        yield np.stack(picks).astype(np.float64)
        left -= some
