"""Says whether a column's numbers differ by less than the dtype of a model's input, or its scaling, can tell apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tasks.datasets.strings import Array

MOST_ROUNDING = 0.01  # of the standard deviation; more hides differences between rows
CLOSEST = 1e-12  # of the largest number; float64 has 16 digits, and a smaller deviation keeps fewer than 4 of them


class Rounding:
    """How much float32, or scaling in float64, rounds numbers that come in blocks."""

    def __init__(self) -> None:
        self._is_float64 = False
        self._count, self._mean, self._squares = 0, 0.0, 0.0  # sum of the squared deviations from the mean
        self._most = self._largest = 0.0
        self._least_and_greatest: list[Any] = []  # in their own dtype, which tells apart what float64 does not

    def add(self, values: Array) -> None:
        """Add the next values."""
        self._is_float64 = self._is_float64 or values.dtype == np.float64
        if not len(values):
            return
        ends = [*self._least_and_greatest, values.min(), values.max()]
        self._least_and_greatest = [min(ends), max(ends)]
        numbers = values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused as such
            self._most = max(self._most, float(np.abs(numbers.astype(np.float32) - numbers).max()))
            mean, count = float(numbers.mean()), self._count + len(numbers)
            # Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979
            step = mean - self._mean
            self._squares += float(numbers.var()) * len(numbers) + step**2 * self._count * len(numbers) / count
            self._mean += step * len(numbers) / count
        self._count, self._largest = count, max(self._largest, float(np.abs(numbers).max()))

    def words(self) -> str:
        """Return how much float32 rounds values whose differences it would hide, in words, or an empty text."""
        if not self._is_float64 or not self._count:
            return ""
        deviation = self._deviation()
        same = deviation <= CLOSEST * self._largest  # as far as float64 can tell
        if same or not math.isfinite(self._most) or self._most <= MOST_ROUNDING * deviation:
            return ""
        return f"and it would round them by up to {self._most:.3g}, while their standard deviation is {deviation:.3g}"

    def words_of_scaling(self) -> str:
        """Return why scaling in float64 hides the differences of the values, in words, or an empty text."""
        if not self._count or self._least_and_greatest[0] == self._least_and_greatest[1]:
            return ""
        deviation = self._deviation()
        if deviation > CLOSEST * self._largest:
            return ""
        return f"and their standard deviation is {deviation:.3g}, while the largest is {self._largest:.3g}"

    def _deviation(self) -> float:
        return math.sqrt(self._squares / self._count) if self._squares < math.inf else math.inf


def rounding_of(values: Array) -> str:
    """Return how much float32 rounds values whose differences it would hide, in words, or an empty text."""
    rounding = Rounding()
    rounding.add(values)
    return rounding.words()
