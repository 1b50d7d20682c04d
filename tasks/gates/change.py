"""Change: the champion is replaced by the candidate, and put back, while clients are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from configs.sections.gates import Change
from tasks.datasets.rows import Array
from tasks.gates.parity import Tolerance, comparable, excess, repeated
from tasks.records import GateResult, ServedChange, TensorSpec

WARM_UP = 20  # first requests, which open connections; their latencies are not judged
MAY_WAIT = 0.1  # of the requests that are due before the change; if more are not sent then, the rate is too high
CLEAR = 2  # a p99 during the change of at most so many times that before needs no second look
OLD, NEW, UNKNOWN = 1, 2, 0


def alike(
    answer: Mapping[str, Array],
    validated: Mapping[str, Array],
    tolerance: Mapping[str, Tolerance],
    outputs: Sequence[TensorSpec],
) -> bool:
    """Return whether an answer to some rows is the validated one, by the tolerances of parity.

    Args:
        answer, validated: one array for each output, with the same rows. outputs: the signature's.
    """
    for spec in outputs:
        pair = repeated(*comparable(answer[spec.name], validated[spec.name], spec))
        if pair[0].shape != pair[1].shape or (excess(*pair, tolerance[spec.name])[0] > 0).any():
            return False
    return True


class _Seen(NamedTuple):
    """What the clients saw.

    Attributes:
        failed, wrong, stale: bool of shape (n,): not answered; not with a validated answer; by the version that had
            been replaced already when the request was sent.
        p99_ms: by `before`, `change` and `rollback`; one without requests is missing.
        seconds: likewise from the change and from the rollback to the first answer of the other version.
        told_apart: whether an answer showed which version gave it.
        due_before, waiting: numbers of requests that were due before the change, and of these not sent before it.
    """

    failed: Array
    wrong: Array
    stale: Array
    p99_ms: Mapping[str, float]
    seconds: Mapping[str, float]
    told_apart: bool
    due_before: int
    waiting: int


def judge_change(change: ServedChange, requests: Mapping[str, Array], settings: Change) -> GateResult:
    """Return the verdict on a rehearsed change.

    Args:
        requests: the arrays of `change.requests`, or nothing.
    """
    if change.not_rehearsed:
        return GateResult("change", True, f"not rehearsed: {change.not_rehearsed}")
    bounds = {"peak_mb": f"at most {change.limit_mb:.0f}"} if change.limit_mb else {}
    figures = {"peak_mb": change.peak_mb} if change.peak_mb else {}
    if change.killed:
        words = f"with version {change.old} and version {change.new} loaded at the same time, {change.killed}"
        return GateResult("change", False, words, figures, {"peak_mb": "MB"}, bounds, evidence={"missed": ["peak_mb"]})
    if not requests or change.changed_s is None:
        return GateResult("change", False, change.problem, figures, {"peak_mb": "MB"}, bounds)
    seen = _seen(change, requests)
    figures = {**_figures(change, seen), **figures}
    bounds = {**dict.fromkeys(("failed", "wrong", "stale"), "at most 0"), **bounds}
    for name in ("change_s", "rollback_s"):
        bounds |= {name: f"at most {settings.max_seconds:g}"} if name in figures else {}
    if settings.max_p99_ratio and "p99_ratio" in figures:
        bounds["p99_ratio"] = f"at most {settings.max_p99_ratio:g}, or {settings.floor_ms:g} ms"
    problems = dict(_problems(change, seen, settings))
    units = {name: name.rpartition("_")[2] for name in figures if name.endswith(("_ms", "_s"))}
    return GateResult(
        "change",
        not problems,
        "; ".join(problems.values()) or _summary(change, seen),
        figures,
        units | ({"peak_mb": "MB"} if "peak_mb" in figures else {}),
        {name: bound for name, bound in bounds.items() if name in figures},
        evidence={"missed": list(problems), "rounds": change.rounds, "refusals": list(change.refusals)},
        note=None if problems else _note(change, seen),
    )


def p99_ms(change: ServedChange, requests: Mapping[str, Array]) -> tuple[float, float]:
    """Return the p99 before the change and the larger one of change and rollback, in ms; 0 if one is unknown."""
    seen = _seen(change, requests)
    return seen.p99_ms.get("before", 0), _during(seen)


def is_doubtful(change: ServedChange, requests: Mapping[str, Array], settings: Change) -> bool:
    """Return whether another rehearsal must tell a slow change from noise, during the change or before it.

    The p99 rose so far that it may refuse the candidate, or would without noise before; nothing else refuses it.
    """
    if not requests or change.changed_s is None or change.killed or not settings.max_p99_ratio:
        return False
    seen = _seen(change, requests)
    if {name for name, _ in _problems(change, seen, settings)} - {"p99_ratio"} or not _usual(change, seen):
        return False
    return _during(seen) > max(settings.floor_ms, min(CLEAR, settings.max_p99_ratio) * _usual(change, seen))


def _seen(change: ServedChange, requests: Mapping[str, Array]) -> _Seen:
    due, sent, done = (requests[name] for name in ("due_s", "sent_s", "done_s"))
    changed = np.inf if change.changed_s is None else change.changed_s
    back = np.inf if change.rolled_back_s is None else change.rolled_back_s
    answered = requests["status"] == 200
    speaker, wrong = _speakers(change, requests)
    switched = changed if change.labelled_s is None else change.labelled_s
    first_new = _first(done, answered & (speaker == NEW) & (sent >= changed))
    first_back = _first(done, answered & (speaker == OLD) & (sent >= back))
    stale = (speaker == OLD) & (sent >= first_new) & (sent < back) | (speaker == NEW) & (sent >= first_back)
    # A request that was waiting at the rename may be the one that the rename delays.
    stretches = {"before": done < changed, "change": (done >= changed) & (done < back), "rollback": done >= back}
    stretches["before"][: min(WARM_UP, int(stretches["before"].sum()) // 2)] = False
    size = int(stretches["before"].sum())
    latency = (done - due) * 1e3
    p99 = {name: _slowest(latency[where], size) for name, where in stretches.items() if where.any()}
    seconds = {"change": first_new - switched} if np.isfinite(first_new) else {}
    renamed_back = back if change.renamed_back_s is None else change.renamed_back_s
    seconds |= {"rollback": first_back - renamed_back} if np.isfinite(first_back) else {}
    due_before, waiting = (int(((due < changed) & late).sum()) for late in (True, sent >= changed))
    told_apart = bool((speaker != UNKNOWN).any())
    return _Seen(~answered, answered & wrong, answered & stale, p99, seconds, told_apart, due_before, waiting)


def _speakers(change: ServedChange, requests: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return which version gave each answer, int64, and whether that version was never validated with it, bool."""
    old, new, named = requests["like_old"], requests["like_new"], requests["named"]
    by_name = np.where(np.isin(named, [change.old, change.back]), OLD, np.where(named == change.new, NEW, UNKNOWN))
    by_answer = np.where(old & ~new, OLD, np.where(new & ~old, NEW, UNKNOWN))
    speaker = np.where(named > 0, by_name, by_answer)
    right = np.where(speaker == OLD, old, np.where(speaker == NEW, new, (old | new) & (named == 0)))
    return speaker, ~right


def _first(done: Array, which: Array) -> float:
    return float(done[which].min()) if which.any() else np.inf


def _slowest(latency: Array, size: int) -> float:
    """Return the largest p99 of consecutive parts with about `size` requests each, so that a long wait hides none."""
    parts = np.array_split(latency, max(1, len(latency) // max(1, size)))
    return max(float(np.percentile(part, 99)) for part in parts)


def _figures(change: ServedChange, seen: _Seen) -> dict[str, float]:
    figures = {"requests": float(len(seen.failed))}
    for name in ("failed", "wrong", "stale"):
        figures[name] = float(getattr(seen, name).sum())
    figures |= {f"p99_{name}_ms": value for name, value in seen.p99_ms.items()}
    if ratio := _ratio(change, seen):
        figures["p99_ratio"] = ratio
    return figures | {f"{name}_s": value for name, value in seen.seconds.items()}


def _during(seen: _Seen) -> float:
    return max((value for name, value in seen.p99_ms.items() if name != "before"), default=0)


def _usual(change: ServedChange, seen: _Seen) -> float:
    """Return the p99 before the change, that of the quietest rehearsal, or 0 if it is unknown."""
    return change.usual_ms or seen.p99_ms.get("before", 0)


def _ratio(change: ServedChange, seen: _Seen) -> float:
    """Return the larger p99 of change and rollback as a multiple of that before, or 0 if it is unknown."""
    usual = _usual(change, seen)
    return _during(seen) / usual if usual else 0


def _problems(change: ServedChange, seen: _Seen, settings: Change) -> list[tuple[str, str]]:
    """Return the figures beyond their bounds, each with a sentence."""
    n, problems = len(seen.failed), []
    if change.problem:
        problems.append(("served", change.problem))
    if failed := int(seen.failed.sum()):
        words = f" ({change.refusals[0]})" if change.refusals else ""
        problems.append(("failed", f"{failed} of {n} requests failed or were refused{words}{_too_many(seen)}"))
    if wrong := int(seen.wrong.sum()):
        problems.append(("wrong", f"{wrong} of {n} answers are not the validated ones of either version"))
    if stale := int(seen.stale.sum()):
        problems.append(("stale", f"{stale} of {n} answers are of a version that had been replaced before"))
    for name, seconds in seen.seconds.items():
        if seconds > settings.max_seconds:
            words = f"the {name} took {seconds:.3g} s to the first answer (at most {settings.max_seconds:g})"
            problems.append((f"{name}_s", words))
    ratio, during = _ratio(change, seen), _during(seen)
    if settings.max_p99_ratio and ratio > settings.max_p99_ratio and during > settings.floor_ms:
        rounds = f" in the quietest of {change.rounds} rehearsals" if change.rounds > 1 else ""
        words = f"p99 rose from {_ms(_usual(change, seen))} to {_ms(during)} ms{rounds}, {_ms(ratio)} times"
        words += f" (at most {settings.max_p99_ratio:g}, or {settings.floor_ms:g} ms)"
        problems.append(("p99_ratio", words + _too_many(seen)))
    return problems


def _too_many(seen: _Seen) -> str:
    """Return that the rate itself is the reason, if requests were not sent in time before anything was changed."""
    if seen.waiting <= MAY_WAIT * seen.due_before:
        return ""
    return (
        f". Before the change already, {seen.waiting} of {seen.due_before} requests waited to be sent, so that the "
        "rate is too high for this server on this machine; lower gates.change.rate"
    )


def _summary(change: ServedChange, seen: _Seen) -> str:
    """Return what the clients saw in one line."""
    parts = [f"{len(seen.failed)} requests, none failed"]
    if "change" in seen.seconds:
        served = f"version {change.new} answered {seen.seconds['change']:.2g} s after the change"
        if "rollback" in seen.seconds:
            served += f" and version {change.old} {seen.seconds['rollback']:.2g} s after the rollback"
        parts.append(served)
    parts.append(f"p99 {_ms(seen.p99_ms.get('before', 0))} ms before and at most {_ms(_during(seen))} ms during them")
    if change.peak_mb:
        parts.append(f"{change.peak_mb:,.0f} MB at most (limit {change.limit_mb:,.0f})")
    return "; ".join(filter(None, (*parts, _note(change, seen))))


def _ms(value: float) -> str:
    """Return a number with two digits, or without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _note(change: ServedChange, seen: _Seen) -> str:
    """Return what was not rehearsed or is unknown, or an empty string."""
    notes = [] if seen.told_apart else ["no answer shows which version gave it"]
    if "before" not in seen.p99_ms:
        notes.append("no request was answered before the change, so that its p99 is not compared")
    if change.no_way_back:
        notes.append(f"no rollback was rehearsed: {change.no_way_back}")
    return "; ".join(notes)
