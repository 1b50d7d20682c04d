"""Scores of classes: whether they are what they are declared to be, and the probabilities that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tasks.datasets.rows import Array
from tasks.errors import DataError
from tasks.records import Reading

# How far from 1 a row of probabilities may add up. They may have been computed in fewer bits than they are served in,
# so it is bfloat16's step for float32 and float64, too; for the short types the root of their step, as scikit-learn's.
ADD_UP = {"float16": 0.03, "bfloat16": 0.09}
USUAL_ADD_UP = 2.0**-7
BEYOND = {"float16": 4e-3, "bfloat16": 4e-2}  # how far below 0 or above 1 one may lie: four steps of the type
USUAL_BEYOND = 1e-6


@dataclass(frozen=True)
class Scored:
    """The answers of one model with their targets, and how they are read; the first axis is the row.

    Attributes:
        target, served: shape (n,) or (n, ...), as the loader gave them and as they were served.
        output: its name, for messages.
    """

    target: Array
    served: Array
    reading: Reading
    output: str = ""

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: Array) -> Scored:
        """Return the rows at `index`, int64 of shape (k,)."""
        return Scored(self.target[index], self.served[index], self.reading, self.output)

    @property
    def width(self) -> int:
        """Return how many numbers an answer has."""
        return int(np.prod(self.served.shape[1:]))

    @property
    def same_size(self) -> bool:
        """Return whether a target has as many numbers as an answer."""
        return int(np.prod(self.target.shape[1:])) == self.width

    @property
    def each(self) -> bool:
        """Return whether each number is judged for itself: several labels, or one score of class 1."""
        return self.reading.task == "multilabel" or (self.reading.task == "binary" and self.width == 1)

    @cached_property
    def true(self) -> Array:
        """The classes: int64 of shape (n,), of several labels 0 and 1 of shape (n, k)."""
        target = as_float(self.target).reshape(len(self), -1)
        if self.reading.task != "multilabel" and target.shape[1] > 1:
            return np.asarray(target.argmax(axis=1), np.int64)
        whole = target.astype(np.int64)
        if self.each:
            whole = np.maximum(whole, 0)  # -1 and 1 mean 0 and 1
        return whole if self.reading.task == "multilabel" else whole[:, 0]

    @cached_property
    def named(self) -> Array:
        """The classes that the answers name, as `true`: the highest score, or what reaches one half (logits: 0)."""
        scores = as_float(self.served).reshape(len(self), -1)
        if self.reading.scores == "labels":
            labels = scores[:, 0].astype(np.int64)
            return np.maximum(labels, 0) if self.reading.task == "binary" else labels
        if not self.each:
            return np.asarray(scores.argmax(axis=1), np.int64)
        marks = (scores >= (0.5 if self.reading.scores == "probabilities" else 0)).astype(np.int64)
        return marks if self.reading.task == "multilabel" else marks[:, 0]

    @cached_property
    def marks(self) -> Array:
        """What is true as 0 and 1, float64 of the shape of `scores`."""
        if self.reading.task == "multilabel":
            return self.true.astype(np.float64)
        return np.asarray(self.true[:, None] == np.arange(self.scores.shape[1]), np.float64)

    @cached_property
    def scores(self) -> Array:
        """Probabilities, float64 of shape (n, k): of each class, rows adding up to 1, or of each of several labels.

        For a hinge loss they are its margins; a single score for each row becomes two columns, of class 0 and class 1.
        """
        scores = as_float(self.served).reshape(len(self), -1)
        if self.reading.scores == "logits":
            scores = sigmoid(scores) if self.each else softmax(scores)
        elif self.reading.scores == "probabilities":
            scores = np.clip(scores, 0, 1)
            if not self.each:  # rounded ones add up to 1 only nearly
                scores = scores / scores.sum(axis=1, keepdims=True)
        if self.width > 1:
            return scores
        rest = -scores if self.reading.scores == "margins" else 1 - scores
        return np.concatenate([rest, scores], axis=1)

    def probable(self) -> bool:
        """Return whether the answers look like probabilities: finite, from 0 to 1, of classes adding up to 1."""
        return len(self) > 0 and not not_finite(self.served) and not improbable(self.served, add_up=not self.each)

    def check(self) -> None:
        """Refuse finite scores that cannot be what they are declared to be.

        Raises:
            DataError: a probability outside 0..1, classes that do not add up to 1, logits that are probabilities.
        """
        where = f"output '{self.output}'" if self.output else "the judged output"
        if self.reading.scores == "probabilities":
            wrong = improbable(self.served, add_up=not self.each)
            if wrong:
                raise DataError(
                    f"the scores of {where} must be probabilities ({self.reading.reason}), got {wrong}; set "
                    f"gates.scores: logits if they are logits, gates.task if these are not classes, or end the model "
                    f"in a {'sigmoid' if self.each else 'softmax'}"
                )
        if self.reading.scores == "logits" and not self.each and self.probable():
            raise DataError(
                f"the scores of {where} must be logits ({self.reading.reason}), got probabilities: each lies between 0 "
                "and 1, and each row adds up to 1; set gates.scores: probabilities"
            )


def not_finite(served: Array) -> str:
    """Return the first answer that is not finite, such as `row 3 is nan`, or an empty string."""
    values = as_float(served).reshape(len(served), -1) if are_numbers(served) else np.zeros((len(served), 1))
    wrong = np.argwhere(~np.isfinite(values))
    return f"row {wrong[0][0]} is {values[tuple(wrong[0])]:g}" if len(wrong) else ""


def improbable(served: Array, *, add_up: bool) -> str:
    """Return the first row that holds no probabilities, such as `row 3 adds up to 1.7`, or an empty string.

    Args:
        served: numbers of shape (n, ...); of what is not finite nothing is said.
        add_up: whether each row is of classes, of which one is true.
    """
    scores, kind = as_float(served).reshape(len(served), -1), served.dtype.name
    beyond = BEYOND.get(kind, USUAL_BEYOND)
    outside = np.argwhere(np.isfinite(scores) & ((scores < -beyond) | (scores > 1 + beyond)))
    if len(outside):
        return f"{scores[tuple(outside[0])]:.6g} in row {outside[0][0]}"
    sums = scores.sum(axis=1)
    off = np.flatnonzero(add_up & (np.abs(sums - 1) > ADD_UP.get(kind, USUAL_ADD_UP)))  # NaN is not greater
    return f"row {off[0]}, which adds up to {sums[off[0]]:.6g} instead of 1" if off.size else ""


def are_numbers(array: Array) -> bool:
    """Return whether an array holds numbers or booleans; bfloat16, which NumPy does not know, is among them."""
    return array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"


def as_float(array: Array) -> Array:
    """Return numbers as float64."""
    return np.asarray(array).astype(np.float64)


def sigmoid(logits: Array) -> Array:
    """Return 1 / (1 + exp(-x)), exact at both ends."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1 + small))


def softmax(logits: Array) -> Array:
    """Return exp(x) divided by its sum over each row of (n, k)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
