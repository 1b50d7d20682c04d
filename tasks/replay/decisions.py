"""What counts as another decision: another class, or a number that differs by more than a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.datasets.strings import Array, as_bytes, is_string

Kind = Literal["argmax", "threshold", "label", "number"]


@dataclass(frozen=True)
class Side:
    """How the answers of one version become decisions.

    Attributes:
        kind: the highest score, scores that reach `limit`, the answer itself, or a number that is compared.
        limit: in the unit of the scores.
    """

    kind: Kind
    limit: float = 0.0


@dataclass(frozen=True)
class Rule:
    """How the answers of two versions to the same rows are compared.

    Attributes:
        tolerance: of numbers. words: for people.
    """

    ours: Side
    theirs: Side
    tolerance: float
    words: str


def flips(rule: Rule, ours: Array, theirs: Array) -> Array:
    """Return which rows have another decision, bool of shape (n,); the first axis of both is the row."""
    if rule.ours.kind == "number":
        return _rows(_far(ours, theirs, rule.tolerance)) if ours.shape == theirs.shape else np.ones(len(ours), bool)
    first, second = _decided(rule.ours, ours), _decided(rule.theirs, theirs)
    return _rows(first != second) if first.shape == second.shape else np.ones(len(ours), bool)


def lost_numbers(ours: Array, theirs: Array) -> Array:
    """Return in which rows the first answer is not finite although the second one is, bool of shape (n,)."""
    if is_string(ours) or is_string(theirs):
        return np.zeros(len(ours), bool)
    return _rows(~np.isfinite(ours.astype(np.float64))) & ~_rows(~np.isfinite(theirs.astype(np.float64)))


def _far(ours: Array, theirs: Array, tolerance: float) -> Array:
    if is_string(ours) or ours.dtype.kind == "b":
        return np.asarray(as_bytes(ours) != as_bytes(theirs), bool)
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.abs(a - b) <= tolerance) | (np.isnan(a) & np.isnan(b))
    return np.asarray(~same, bool)


def _decided(side: Side, answers: Array) -> Array:
    """Return the decisions, shape (n, labels)."""
    flat = answers.reshape(len(answers), int(np.prod(answers.shape[1:], dtype=np.int64)))
    if side.kind == "label" and is_string(answers):
        return as_bytes(flat)
    if side.kind == "argmax":
        return flat.astype(np.float64).argmax(axis=1)[:, None] if flat.shape[1] else flat
    if side.kind == "threshold":
        return (flat.astype(np.float64) >= side.limit).astype(np.int64)
    return flat.astype(np.int64)


def _rows(wrong: Array) -> Array:
    return np.asarray(wrong.reshape(len(wrong), -1).any(axis=1) if wrong.size else np.zeros(len(wrong), bool))
