"""Replay: recorded requests are answered as before: none is refused, and few decisions differ from the champion's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from configs.sections.gates import Gates
from tasks.datasets.fitting import features_of, fit_to_inputs
from tasks.datasets.readings import read_readings
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.gates.bootstrap import Interval
from tasks.gates.parity import TOLERANCES
from tasks.gates.scores import are_numbers, improbable
from tasks.gates.shares import design_effect, share_interval
from tasks.records import (
    Candidate,
    GateResult,
    Reading,
    ReplayedInput,
    ReplayedSlice,
    ServedAnswers,
    ServedReplay,
    Signature,
)
from tasks.replay.decisions import Rule, Side
from tasks.replay.profile import Profile
from tasks.replay.slices import Slicer, check_slices
from tasks.replay.tally import Tally
from tasks.words import counted, few

MOST_LISTED = 100  # inputs in the evidence
MARKED = 0.001  # a share of other decisions below it is never too much for a slice, however few there are elsewhere
SPREAD = 0.01  # of the champion's answers: the default tolerance of numbers
SOFTMAX, SIGMOID = Reading("multiclass", "probabilities"), Reading("binary", "probabilities")


def new_tally(gates: Gates, candidate: Candidate, renamed: Mapping[str, str], served: ServedAnswers) -> Tally:
    """Return the counters of a replay.

    Args:
        renamed: maps an input to a feature with another name (`export.inputs`).
        served: the answers to the test rows, of the champion too if there is one.

    Raises:
        DataError: a slice is not an input, or the saved rows cannot be read.
    """
    file = gates.replay.file
    assert file is not None
    training, reference = _training(candidate, renamed)
    profile = Profile(training)
    names, notes = _slice_names(gates, candidate.signature, renamed)
    slicer = Slicer(names, training, profile.columns)
    notes += [
        f"the requests are not divided by {name}, because it has several values in a row or is free text"
        for name in names
        if name not in slicer.names
    ]
    beside = served.champion
    rules, uncompared = rules_of(gates, candidate, served) if beside is not None else ({}, [])
    return Tally(
        file, candidate.name, gates.replay.every, candidate.signature, beside.signature if beside else None, rules,
        slicer, profile, reference, (*notes, *uncompared),
    )  # fmt: skip


def _training(candidate: Candidate, renamed: Mapping[str, str]) -> tuple[dict[str, Array], str]:
    """Return the training rows as requests, and what they are; the test rows where no training rows are known."""
    file, specs = candidate.targets.with_name("train.npz"), candidate.signature.inputs
    if file.is_file() and len(rows := load_rows(file)):
        return fit_to_inputs(features_of(rows.features, renamed, specs), specs), "the training rows"
    return load_arrays(candidate.requests), "the test rows, because the training rows are unknown"


def _slice_names(gates: Gates, signature: Signature, renamed: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the inputs that divide the requests, and what is to be said of those that do not."""
    inputs = [spec.name for spec in signature.inputs]
    served_as = {feature: name for name, feature in renamed.items()}
    if gates.replay.slices:
        check_slices(gates.replay.slices, signature)
        return list(gates.replay.slices), []
    names = [served_as.get(feature, feature) for feature in gates.slices]
    gone = [name for name in names if name not in inputs]
    notes = [f"{few(gone)} of gates.slices cannot divide the requests, because it is not an input"] if gone else []
    return [name for name in names if name in inputs], notes


def rules_of(gates: Gates, candidate: Candidate, served: ServedAnswers) -> tuple[dict[str, Rule], list[str]]:
    """Return what counts as another decision for each output, and which outputs cannot be compared.

    `gates.metric_output` restricts that to one output.
    """
    beside = served.champion
    assert beside is not None
    answers = load_arrays(served.answers)
    champions = load_arrays(beside.answers) if beside.answers else {}
    kept, theirs = read_readings(candidate.version_dir), {spec.name for spec in beside.signature.outputs}
    rules, notes = {}, []
    for name, own in answers.items():
        if gates.metric_output and name != gates.metric_output:
            continue
        if name not in theirs:
            notes.append(f"output '{name}' is not compared, because the champion does not have it")
            continue
        reading = kept.get(name) or _by_answers(own)
        if are_numbers(own) and (len(answers) == 1 or gates.metric_output):  # which output `gates` mean
            reading = replace(reading, task=gates.task or reading.task, scores=gates.scores or reading.scores)
        its = beside.readings.get(name) or reading
        rule = _rule(gates, reading, its, own, champions.get(name, own))
        if rule is None:
            notes.append(f"output '{name}' is not compared: it is read as {reading}, and the champion's as {its}")
        else:
            rules[name] = rule
    return rules, notes


def _by_answers(answers: Array) -> Reading:
    """Return what answers look like whose export does not say how they are read."""
    width = int(np.prod(answers.shape[1:], dtype=np.int64))
    if not are_numbers(answers) or answers.dtype.kind in "biu" or not len(answers) or answers.ndim > 2:
        return Reading()
    if width > 1 and not improbable(answers, add_up=True):
        return SOFTMAX
    return SIGMOID if width == 1 and not improbable(answers, add_up=False) else Reading()


def _rule(gates: Gates, ours: Reading, theirs: Reading, answers: Array, champions: Array) -> Rule | None:
    threshold, width = gates.replay.threshold, int(np.prod(answers.shape[1:], dtype=np.int64))
    first, second = _side(ours, answers, threshold), _side(theirs, champions, threshold)
    if (first.kind == "number") != (second.kind == "number"):
        return None
    if first.kind != "number":
        words = {"argmax": "another class", "label": "another answer", "threshold": f"another side of {threshold:g}"}
        return Rule(first, second, 0.0, words[first.kind])
    tolerance = gates.replay.tolerance
    if tolerance is not None:
        return Rule(first, second, tolerance, f"more than {tolerance:g} apart (gates.replay.tolerance)")
    tolerance = _spread(champions) * SPREAD or TOLERANCES.get(answers.dtype.name, 0.0)
    what = "range of the champion's test answers" if width == 1 else "range of all numbers of the champion's answers"
    return Rule(first, second, tolerance, f"more than {tolerance:.4g} apart, 1 % of the {what}")


def _side(reading: Reading, answers: Array, threshold: float) -> Side:
    """Return how the answers of one version become decisions."""
    width = int(np.prod(answers.shape[1:], dtype=np.int64))
    if not are_numbers(answers) or answers.dtype.kind == "b":
        return Side("label")
    if answers.dtype.kind in "iu" and reading.task != "regression":
        return Side("label")
    if reading.scores not in ("probabilities", "logits", "margins"):
        return Side("number")
    if reading.task == "multiclass" or (reading.task == "binary" and width > 1):
        return Side("argmax")
    if reading.scores == "margins":
        return Side("threshold", 0.0)
    return Side("threshold", threshold if reading.scores == "probabilities" else math.log(threshold / (1 - threshold)))


def _spread(answers: Array) -> float:
    """Return the distance between the 5th and the 95th percentile of finite answers."""
    numbers = answers.astype(np.float64).reshape(-1)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.diff(np.quantile(numbers, (0.05, 0.95)))[0]) if numbers.size else 0.0


def judge_replay(gates: Gates, found: ServedReplay, *, breaking: bool = False) -> GateResult:
    """Refuse a candidate that refuses what the champion answers, or that is proven to decide otherwise too often.

    The share of other decisions is judged over all rows and in each slice, by its confidence interval. The intervals of
    the slices hold together: each has the confidence that a family of as many intervals needs (Bonferroni).

    Args:
        breaking: whether the inputs differ from the champion's and `gates.allow_breaking` permits it; then a refusal
            proves nothing.
    """
    compared = bool(found.slices)
    judged = [one for one in found.slices[1:] if one.rows >= gates.min_slice_rows]
    confidence = 1 - (1 - gates.confidence) / max(1, len(judged))
    whole = _interval(found.slices[0], gates.confidence) if compared else None
    slices = [_slice(gates, one, found.slices[0], confidence) for one in judged]
    failures = list(_failures(gates, found, whole, slices, breaking=breaking))
    failed = [words for _, words in failures]
    figures = {
        "requests": float(found.requests),
        "rows": float(found.rows),
        "refused": float(found.refused),
        "refused_by_both": float(found.refused_by_both),
        "skipped": float(sum(found.skipped.values())),
    }
    bounds = {"refused": "at most 0"} if compared and not breaking else {}
    if whole is not None and found.rows:
        figures |= {"flips": whole.value, "flips_low": whole.low, "flips_high": whole.high}
        figures["not_finite"] = float(found.not_finite)
        bounds |= {"flips": f"not proven above {gates.replay.max_flips:g}", "not_finite": "at most 0"}
    if slices:
        figures["flips_worst_slice"] = max(one["share"] for one in slices)
        bounds["flips_worst_slice"] = f"not proven above {gates.replay.max_flips:g}, or far above the other rows"
    if found.inputs:
        figures["psi"] = found.inputs[0].psi
        bounds |= {"psi": f"at most {gates.replay.max_psi:g}"} if gates.replay.max_psi else {}
    notes = list(_notes(gates, found, whole, slices, breaking=breaking))
    return GateResult(
        "replay",
        not failed,
        "; ".join(failed or notes),
        figures,
        bounds=bounds,
        evidence={
            "missed": list(dict.fromkeys(figure for figure, _ in failures if figure)),
            "slices": slices,
            "small_slices": len(found.slices) - 1 - len(judged) if compared else 0,
            "flipped": list(found.flipped),
            "refusals": list(found.refusals),
            "inputs": [asdict(one) for one in found.inputs[:MOST_LISTED]],
            "skipped": dict(found.skipped),
            "rules": dict(found.rules),
            "file": found.file,
        },
        needs_person="" if failed else _needs_person(found, compared=compared, breaking=breaking),
        note="; ".join([*failed, *notes]),
    )


def _needs_person(found: ServedReplay, *, compared: bool, breaking: bool) -> str:
    refusals = counted(found.refused, "recorded request")
    if found.refused and not compared:
        return f"the candidate refused {refusals}, and no champion can show whether they are faulty"
    if found.refused and breaking:
        return f"the candidate refused {refusals}, which gates.allow_breaking permits"
    if not found.requests:
        return "no recorded request was sent"
    if compared and not found.rows:
        return "no row of a recorded request could be compared with the champion"
    return ""


def _effect(one: ReplayedSlice) -> float:
    return design_effect(one.flipped, one.rows, one.requests, one.squares)


def _interval(one: ReplayedSlice, confidence: float) -> Interval:
    return share_interval(one.flipped, one.rows, _effect(one), confidence)


def _slice(gates: Gates, one: ReplayedSlice, whole: ReplayedSlice, confidence: float) -> dict[str, Any]:
    """Return the verdict on one slice, beside the other rows."""
    found = _interval(one, confidence)
    elsewhere = share_interval(whole.flipped - one.flipped, whole.rows - one.rows, _effect(whole), confidence)
    ratio = gates.replay.max_slice_ratio
    too_many = found.low > gates.replay.max_flips
    too_often = bool(ratio) and found.low > MARKED and found.low > ratio * elsewhere.high  # nothing is above NaN
    return {
        "slice": one.title,
        "rows": one.rows,
        "flipped": one.flipped,
        "share": found.value,
        "low": found.low,
        "high": found.high,
        "elsewhere": None if math.isnan(elsewhere.value) else elsewhere.value,
        "passed": not (too_many or too_often),
        "reason": f"at most {_percent(gates.replay.max_flips)} are allowed"
        if too_many
        else f"at most {ratio:g} times as many as elsewhere are allowed (gates.replay.max_slice_ratio)"
        if too_often
        else "",
    }


def _failures(
    gates: Gates,
    found: ServedReplay,
    whole: Interval | None,
    slices: Sequence[Mapping[str, Any]],
    *,
    breaking: bool,
) -> Iterator[tuple[str, str]]:
    """Yield what speaks against the candidate: a figure that is beyond its bound, or an empty string, and words."""
    settings = gates.replay
    if found.crash:
        yield "", f"{found.crash}; no further request was sent"
    if whole is not None and found.refused and not breaking:
        first = next(one for one in found.refusals if one["refused by"] == "candidate")
        yield (
            "refused",
            (
                f"the candidate refused {counted(found.refused, 'request')} that the champion answered, first request "
                f"{first['request']}: {first['words']}"
            ),
        )
    if found.not_finite:
        rows = counted(found.not_finite, "row")
        yield "not_finite", f"the candidate answered {rows} with NaN or infinity, and the champion with numbers"
    for one in slices:
        if not one["passed"]:
            interval = Interval(one["share"], one["low"], one["high"])
            beside = "" if one["elsewhere"] is None else f", elsewhere {_percent(one['elsewhere'])}"
            yield (
                "flips_worst_slice",
                (
                    f"slice {one['slice']}: {_percent(one['share'])} of {one['rows']:,} rows have another decision "
                    f"than the champion's ({_limits(interval)}{beside}), {one['reason']}"
                ),
            )
    if whole is not None and whole.low > settings.max_flips:
        yield (
            "flips",
            (
                f"{_percent(whole.value)} of {found.rows:,} rows have another decision than the champion's "
                f"({_limits(whole)}), at most {_percent(settings.max_flips)} are allowed (gates.replay.max_flips)"
            ),
        )
    for moved in found.inputs:
        if _moved(gates, moved):
            yield (
                "psi",
                (
                    f"the requests differ from {found.reference} in {moved.name}: its population stability index is "
                    f"{moved.psi:.3g}, at most {settings.max_psi:g} is allowed"
                ),
            )


def _moved(gates: Gates, one: ReplayedInput) -> bool:
    """Return whether an input has moved further than its bound and chance together."""
    return bool(gates.replay.max_psi) and one.psi > gates.replay.max_psi + one.noise


def _notes(
    gates: Gates,
    found: ServedReplay,
    whole: Interval | None,
    slices: Sequence[Mapping[str, Any]],
    *,
    breaking: bool,
) -> Iterator[str]:
    """Yield what is to be said besides, the most important first."""
    said = f"{counted(found.requests, 'request')} of {found.file}"
    if whole is None:
        yield f"{said}: no version is live, so only refusals and the inputs are looked at"
        if found.refused:
            yield f"the candidate refused {counted(found.refused, 'request')}"
    elif not found.rows:
        yield f"{said}: no row could be compared with the champion"
    elif whole.low <= gates.replay.max_flips:
        yield (
            f"{said}: {_percent(whole.value)} of {found.rows:,} rows have another decision than the champion's "
            f"({_limits(whole)})"
        )
    if breaking and found.refused:
        yield f"the candidate refused {counted(found.refused, 'request')}, which gates.allow_breaking permits"
    if found.refused_by_both:
        yield f"both versions refused {counted(found.refused_by_both, 'request')}"
    if found.refused_by_champion:
        yield f"the champion alone refused {counted(found.refused_by_champion, 'request')}"
    if found.skipped:
        yield f"{counted(sum(found.skipped.values()), 'request')} not sent: {few(list(found.skipped), '; ', 3)}"
    if found.unread:
        fits = f"{counted(found.unread, 'request')} {'does' if found.unread == 1 else 'do'} not fit"
        yield f"{fits} the candidate's inputs, so that the values are unknown and in no slice"
    if outside := [one for one in found.inputs if one.outside]:
        most = max(outside, key=lambda one: one.outside)
        values = counted(most.outside, "value")
        yield f"outside of {found.reference} ({most.span}): {values} of {most.name}"
    if found.inputs:
        first = found.inputs[0]
        yield f"largest population stability index {first.psi:.2g} ({first.name})"
    yield f"sent as {found.transport}"
    yield from found.notes


def _limits(interval: Interval) -> str:
    return f"interval {_percent(interval.low)} to {_percent(interval.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
