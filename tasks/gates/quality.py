"""Quality: metrics of the served answers reach their bounds, and are not proven worse than the champion's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from configs.sections.gates import Bound, Gates
from tasks.datasets.rows import Array
from tasks.gates.beside import Beside, beside_champion, person_needed
from tasks.gates.bootstrap import Interval, metric_interval
from tasks.gates.metrics import default_metrics, less_is_better, measure
from tasks.gates.reading import undeclared
from tasks.gates.scores import Scored, not_finite
from tasks.records import GateResult, Reading

MAX_SLICES = 20  # of one feature; one with more values is cut at its quartiles, or left out if it is text


@dataclass(frozen=True)
class AnsweredRows:
    """Aligned arrays, first axis the row: what was true, what was served, what the champion answered.

    Attributes:
        target: shape (n,) or (n, ...). served: shape (n, ...). champion: the same, or None without one.
        features: what the slices are cut by.
        reading, champion_reading: how the answers of each are read; None: by themselves.
        output: name of what was judged.
        seen: bool (n,), which rows the champion was trained or validated on; None where it has seen none.
        unknown: why it is not known which those are, or empty; then nothing is compared.
    """

    target: Array
    served: Array
    champion: Array | None = None
    features: Mapping[str, Array] = field(default_factory=dict)
    reading: Reading | None = None
    champion_reading: Reading | None = None
    output: str = ""
    seen: Array | None = None
    unknown: str = ""

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: Array) -> AnsweredRows:
        """Return the rows at `index`, int64 of shape (k,), without what slices them."""
        champion, seen = (None if array is None else array[index] for array in (self.champion, self.seen))
        own, other = self.own.reading, self.beside.reading if self.beside else None
        return AnsweredRows(self.target[index], self.served[index], champion, {}, own, other, self.output, seen)

    @property
    def own(self) -> Scored:
        """Return the candidate's answers as they are read."""
        reading = self.reading or undeclared(Gates(), self.target, self.served)
        return Scored(self.target, self.served, reading, self.output)

    @property
    def beside(self) -> Scored | None:
        """Return the champion's answers as they are read, each by its own reading; None without a champion."""
        if self.champion is None:
            return None
        return Scored(self.target, self.champion, self.champion_reading or self.own.reading, self.output)

    @property
    def unseen(self) -> AnsweredRows:
        """Return the rows that the champion has not seen."""
        return self if self.seen is None or not self.seen.any() else self.take(np.flatnonzero(~self.seen))


def judge_quality(gates: Gates, rows: AnsweredRows | None) -> GateResult:
    """Check each metric against its bounds, over all rows and in every slice that is large enough.

    The absolute bounds hold for the figure over all rows. Compared with the champion, and in slices, a candidate
    is rejected only if a bootstrap interval over the same rows proves it worse.

    Args:
        rows: None where no one output is to be judged.

    Raises:
        DataError: a metric is unknown or does not fit the answers.
    """
    if rows is None:
        nothing = "no metric is configured (gates.metrics) and no output is named (gates.metric_output)"
        return GateResult("quality", True, f"nothing was scored: {nothing}")
    own = rows.own
    shown = tuple(gates.metrics) or default_metrics(own.reading)
    # Without bounds the first metric that suits the task is still compared with the champion's.
    bounds = dict(gates.metrics) or {name: Bound() for name in shown[:1]}
    if fault := unscored(rows, shown):
        return GateResult("quality", False, fault, evidence={**_evidence(own), "missed": list(bounds)})
    beside = _beside(gates, rows)
    if beside is not None and beside.apart:
        rows = replace(rows, champion=None)
    figures = {name: measure(name, own) for name in shown}
    compared = _compared(shown, rows)
    gains = {name: _gain(name, bound, rows.unseen, gates.confidence) for name, bound in bounds.items() if compared}
    missed = [name for name, bound in bounds.items() if not _holds(figures[name], bound, gains.get(name))]
    slices = list(_slices(gates, bounds, rows))
    lines = [_line(name, figures[name], bounds.get(name, Bound()), compared) for name in shown]
    notes = _notes(gates, own.reading, gains, beside, slices)
    figures |= {_beside_name(name, rows): ours for name, (ours, _) in compared.items()}
    figures |= _gain_figures(gains) | (beside.figures if beside is not None else {})
    return GateResult(
        "quality",
        not missed and all(found["passed"] for found in slices),
        "; ".join([", ".join(lines) or "nothing was scored", *notes]),
        {name: value for name, value in figures.items() if not math.isnan(value) or name in bounds},
        bounds={name: _bound_text(bound, bool(compared)) for name, bound in bounds.items()},
        champion={_beside_name(name, rows): theirs for name, (_, theirs) in compared.items()},
        evidence={
            **_evidence(own),
            "missed": missed,
            "slices": slices,
            "bounds": {name: bound.model_dump() for name, bound in gates.metrics.items()},
        },
        needs_person=person_needed(beside, bounds),
        note="; ".join(notes),
    )


def unscored(rows: AnsweredRows, metrics: Sequence[str]) -> str:
    """Return why answers cannot be scored, or an empty string.

    Raises:
        DataError: they are not what they are to be read as.
    """
    if all(":" in name for name in metrics):  # the user's own are given what was served, whatever it is
        return ""
    if fault := not_finite(rows.served):
        return f"output '{rows.output}' must answer with finite numbers: {fault}"
    rows.own.check()
    return ""


def _notes(
    gates: Gates,
    reading: Reading,
    gains: Mapping[str, Interval],
    beside: Beside | None,
    slices: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what is to be said besides the figures, of the failed slices last."""
    notes = [f"{name} is {gain_text(gain, gates.confidence)}" for name, gain in gains.items()]
    notes += [] if gates.metrics else ["no bound is configured (gates.metrics)"]
    notes.append(f"read as {reading}" if reading.task else f"{reading}: {reading.reason}")
    notes += [beside.text] if beside is not None and beside.text else []
    return notes + [f"slice {found['slice']}: {found['reason']}" for found in slices if not found["passed"]]


def _evidence(own: Scored) -> dict[str, Any]:
    """Return how the answers were read."""
    return {"task": own.reading.task, "scores": own.reading.scores, "reading": own.reading.reason}


def _gain_figures(gains: Mapping[str, Interval]) -> dict[str, float]:
    return {
        f"{name}.{key}": value
        for name, gain in gains.items()
        for key, value in (("gain", gain.value), ("gain_low", gain.low), ("gain_high", gain.high))
    }


def _beside(gates: Gates, rows: AnsweredRows) -> Beside | None:
    if rows.champion is None:
        return None
    seen = 0 if rows.seen is None else int(rows.seen.sum())
    return beside_champion(seen, len(rows), rows.unknown, gates.min_unseen_rows)


def _compared(shown: Sequence[str], rows: AnsweredRows) -> dict[str, tuple[float, float]]:
    """Return each metric of candidate and champion over the rows that the champion has not seen; empty without one."""
    part = rows.unseen
    if part.beside is None:
        return {}
    return {name: (measure(name, part.own), measure(name, part.beside)) for name in shown}


def _beside_name(name: str, rows: AnsweredRows) -> str:
    """Return the name of a compared figure, which differs where rows were left out."""
    return name if rows.unseen is rows else f"{name}.unseen"


def _gain(name: str, bound: Bound, rows: AnsweredRows, confidence: float) -> Interval:
    """Return how much better than the champion the candidate is, positive for better with every metric."""
    found = metric_interval(name, confidence, rows.own, rows.beside)
    return Interval(-found.value, -found.high, -found.low) if less_is_better(name, bound) else found


def _holds(value: float, bound: Bound, gain: Interval | None) -> bool:
    """Return whether a figure is within its bounds and not proven to be too far behind the champion's."""
    if math.isnan(value):
        return False
    absolute = (bound.min is None or value >= bound.min) and (bound.max is None or value <= bound.max)
    return absolute and _holds_beside(bound, gain)


def _holds_beside(bound: Bound, gain: Interval | None) -> bool:
    if gain is None:
        return True
    proven_worse = gain.high < -bound.worse_by
    proven_better = bound.better_by is None or gain.low >= bound.better_by
    return not proven_worse and proven_better


def _line(name: str, value: float, bound: Bound, compared: Mapping[str, tuple[float, float]]) -> str:
    """Return a metric with its bound, such as `accuracy 0.97 (at least 0.95; champion 0.96)`."""
    words = [text for text in (_absolute_text(bound),) if text]
    if name in compared:
        ours, theirs = compared[name]
        words.append((f"{ours:.4g} where compared, " if ours != value else "") + f"champion {theirs:.4g}")
    return f"{name} {value:.4g}" + (f" ({'; '.join(words)})" if words else "")


def gain_text(gain: Interval, confidence: float) -> str:
    """Return a gain, positive for better, such as `0.003 better than the champion's (95% confidence interval ...)`."""
    if gain.value == gain.low == gain.high == 0:
        return "the same as the champion's"
    if math.isnan(gain.value):
        return "not comparable with the champion's"
    size = f"{_amount(gain.value)} than" if gain.value else "as good as"
    sure = f"{100 * confidence:g}% confidence interval: {_amount(gain.low)} to {_amount(gain.high)}"
    return f"{size} the champion's ({gain.text(confidence) if math.isnan(gain.low) else sure})"


def _amount(gain: float) -> str:
    return f"{abs(gain):.2g} {'better' if gain > 0 else 'worse'}" if gain else "0"


def _absolute_text(bound: Bound) -> str:
    words = [f"at least {bound.min:g}"] if bound.min is not None else []
    words += [f"at most {bound.max:g}"] if bound.max is not None else []
    return " and ".join(words)


def _bound_text(bound: Bound, has_champion: bool) -> str:
    words = [_absolute_text(bound)] if _absolute_text(bound) else []
    if has_champion and math.isfinite(bound.worse_by):
        by = f" by more than {bound.worse_by:g}" if bound.worse_by else ""
        words.append(f"not proven worse than the champion{by}")
    if has_champion and bound.better_by is not None:
        words.append(f"proven better than the champion by at least {bound.better_by:g}")
    return "; ".join(words)


def _slices(gates: Gates, bounds: Mapping[str, Bound], rows: AnsweredRows) -> Iterator[dict[str, Any]]:
    """Yield the verdict on each slice: every value of every feature in `gates.slices`."""
    for feature in gates.slices:
        for label, index in cut(rows.features[feature]):
            part, title = rows.take(index), f"{feature}={label}"
            names = [name for name in bounds if len(part) >= gates.min_slice_rows]
            metrics = {name: measure(name, part.own) for name in names}
            compares = part.champion is not None and len(part.unseen) >= gates.min_slice_rows
            beside = part.unseen if compares else None
            compared = _compared(names, part) if compares else {}
            reasons = [_missed_in(name, bounds[name], part, beside, gates.confidence) for name in names]
            reason = "; ".join(filter(None, reasons))
            yield {
                "slice": title, "rows": len(part), "judged": bool(names), "passed": not reason, "reason": reason,
                "metrics": metrics, "champion": {name: theirs for name, (_, theirs) in compared.items()},
                "compared": {name: ours for name, (ours, _) in compared.items()}, "unseen_rows": len(part.unseen),
            }  # fmt: skip


def _missed_in(name: str, bound: Bound, part: AnsweredRows, beside: AnsweredRows | None, confidence: float) -> str:
    """Return what the rows of a slice prove against the candidate, alone or compared with the champion, or nothing."""
    found = metric_interval(name, confidence, part.own)
    below = bound.min is not None and (found.high < bound.min or math.isnan(found.value))
    above = bound.max is not None and (found.low > bound.max or math.isnan(found.value))
    if below or above:
        return f"{name} is {found.value:.4g} ({found.text(confidence)}), and must be {_absolute_text(bound)}"
    if beside is not None:
        gain = _gain(name, bound, beside, confidence)
        if gain.high < -bound.worse_by:
            return f"{name} is {found.value:.4g}, which is {gain_text(gain, confidence)}"
    return ""


def cut(feature: Array) -> list[tuple[str, Array]]:
    """Return (label, row numbers) of each value of a feature, or of its four quarters if it has many.

    Args:
        feature: shape (n,) or (n, 1), numbers or text.
    """
    flat = feature.reshape(-1)
    if len(flat) != len(feature):
        return []
    values = np.unique(flat)
    if len(values) <= MAX_SLICES:
        return [(_label(value), np.flatnonzero(flat == value)) for value in values]
    if flat.dtype.kind not in "iuf":
        return []
    edges = np.quantile(flat, [0.25, 0.5, 0.75])
    names = [f"..{edges[0]:.4g}", f"{edges[0]:.4g}..{edges[1]:.4g}", f"{edges[1]:.4g}..{edges[2]:.4g}",
             f"{edges[2]:.4g}.."]  # fmt: skip
    quarter = np.searchsorted(edges, flat, side="right")
    return [(names[number], np.flatnonzero(quarter == number)) for number in range(4)]


def _label(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
