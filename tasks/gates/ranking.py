"""Ranks the variants of a sweep by one metric of what a server answered to the validation rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from configs.sections.gates import Bound, Gates
from tasks.datasets.rows import Array
from tasks.errors import DataError
from tasks.gates.judge import own_rows
from tasks.gates.metrics import default_metrics, less_is_better, measure
from tasks.gates.quality import unscored
from tasks.records import Candidate, ComparedVariant, Leaderboard


def score(
    gates: Gates, metric: str, candidate: Candidate, answers: Mapping[str, Array], keras_names: Mapping[str, str]
) -> tuple[str, float]:
    """Return the name and the value of the metric of a candidate's answers.

    Args:
        metric: its name, or an empty string for the first one that suits the answers.
        candidate: with the targets of the rows that were answered.
        keras_names: served name of an output: Keras' name of it.

    Raises:
        DataError: the answers have no such metric, or it is not a finite number.
    """
    rows = own_rows(gates, candidate, answers, keras_names)
    if rows is None:
        raise DataError(f"gates.metric_output must name the output that is compared, one of {', '.join(answers)}")
    suitable = (metric,) if metric else default_metrics(rows.own.reading)[:1]
    if not suitable:
        raise DataError(
            f"sweep.metric must be set, because no metric suits {rows.own.reading}: {rows.own.reading.reason}"
        )
    if fault := unscored(rows, suitable):
        raise DataError(fault)
    value = measure(suitable[0], rows.own)
    if not math.isfinite(value):
        raise DataError(f"the metric '{suitable[0]}' must be a finite number, got {value}")
    return suitable[0], value


def lowest_wins(metric: str, gates: Gates) -> bool:
    """Return the direction of a metric; of a user's own the highest wins, unless only a maximum bounds it."""
    return less_is_better(metric, gates.metrics.get(metric, Bound()))


def ranked(metric: str, gates: Gates, rows: int, variants: Iterable[ComparedVariant]) -> Leaderboard:
    """Return the variants in their order; of equal scores, fewer weights are better, then the first one."""
    sign = 1 if lowest_wins(metric, gates) else -1

    def order(variant: ComparedVariant) -> tuple[float, ...]:
        if variant.score is None:
            return (1, variant.number)
        return (0, sign * variant.score, variant.parameters, variant.number)

    return Leaderboard(metric, rows, tuple(sorted(variants, key=order)))
