"""Divides recorded requests into slices, by bins that the training rows decide, so that nothing has to be held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tasks.datasets.strings import Array, is_string
from tasks.errors import WrongFile
from tasks.records import Signature
from tasks.replay.profile import FEW, Column, listed
from tasks.words import few

OTHER, NEW, NOT_A_NUMBER = "(another value)", "(a value that no training row has)", "(not a number)"


class Slicer:
    """The slices of some inputs: each value of one with few, else the quarters of its training rows."""

    def __init__(
        self, names: Sequence[str], training: Mapping[str, Array], columns: Mapping[str, Sequence[Column]]
    ) -> None:
        """Make the bins.

        Args:
            names: the inputs; one that has several numbers in a row, or free text, has no slices.
            training: the training rows as requests. columns: what is known of their values.
        """
        self._categories: dict[str, Column] = {}
        self._numbers: dict[str, _Numbers] = {}
        for name in names:
            array, of_input = training.get(name), columns.get(name, ())
            if array is None or not len(array) or array.size != len(array) or not of_input:
                continue
            if is_string(array):
                self._categories[name] = of_input[0]
            else:
                self._numbers[name] = _Numbers(np.asarray(array).reshape(-1))

    @property
    def names(self) -> list[str]:
        """Return the inputs that have slices."""
        return [*self._categories, *self._numbers]

    def of(self, rows: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Yield each slice of a request that has rows: its title, and which rows, bool of shape (n,)."""
        for name, column in self._categories.items():
            texts = listed(rows[name].reshape(-1))
            labels = np.array([v if v in column.values else OTHER if v in column.known else NEW for v in texts], object)
            for label in dict.fromkeys(labels.tolist()):
                yield f"{name}={label}", labels == label
        for name, numbers in self._numbers.items():
            places = numbers.places(rows[name].reshape(-1).astype(np.float64))
            for place in np.unique(places).tolist():
                yield f"{name}={numbers.titles[place]}", places == place


class _Numbers:
    """The slices of a number: each value of the training rows if there are few, else their quarters."""

    def __init__(self, array: Array) -> None:
        numbers = array.astype(np.float64)
        numbers = numbers[np.isfinite(numbers)]
        values = np.unique(numbers)
        self._values = values if len(values) <= FEW else None
        if self._values is not None:
            own = [f"{value:g}" for value in values]
        else:
            self._edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75]))
            texts = [f"{edge:.4g}" for edge in self._edges]
            own = [f"{low}..{high}" for low, high in zip(["", *texts], [*texts, ""], strict=True)]
        self.titles = [*own, NEW, NOT_A_NUMBER]

    def places(self, numbers: Array) -> Array:
        """Return the slice of each number, as its place in the titles."""
        if self._values is None:
            found = np.searchsorted(self._edges, numbers, side="right")
        else:
            found = np.searchsorted(self._values, numbers)
            known = np.isin(numbers, self._values)
            found = np.where(known, found, len(self.titles) - 2)
        return np.where(np.isnan(numbers), len(self.titles) - 1, found)


def check_slices(names: Sequence[str], signature: Signature) -> None:
    """Raise `WrongFile` if one of `gates.replay.slices` is not an input, or has several values in a row."""
    inputs = {spec.name: spec for spec in signature.inputs}
    for name in names:
        if name not in inputs:
            known = few(list(inputs))
            raise WrongFile(f"gates.replay.slices must name inputs of the model, got '{name}'; they are {known}")
        shape = inputs[name].shape
        if shape is not None and len(shape) > 1 and shape[1:] != (1,):
            raise WrongFile(f"gates.replay.slices must name inputs with one value in a row, got {inputs[name]}")
