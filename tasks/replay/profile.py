"""Compares the values of recorded requests with those of the training rows, input by input, in constant memory.

The population stability index is `sum((q - p) ln(q / p))` over bins with the shares p of the training rows and q of the
requests. Without any change it is `(1/N + 1/M)` times a chi-square of as many degrees of freedom as bins less one.

Source: Yurdakul and Naranjo, Statistical properties of the population stability index, Journal of Risk Model
Validation 14 (2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from tasks.datasets.mapped import pieces
from tasks.datasets.strings import Array, is_string, plain
from tasks.records import ReplayedInput
from tasks.words import one_line

BINS = 10
FEW = 20  # different numbers or texts, each of which has a bin of its own
MOST_KNOWN = 1000  # different texts; an input with more is free text, of which nothing is compared
MOST_COLUMNS = 256  # elements of one input that are compared one by one; of more, all are taken together
SAMPLE = 20_000  # training rows from which bins are made
NAMED = 5  # values outside of the training rows that are named for each input
BUFFERED = 1024  # rows that are counted at once
LONGEST = 120  # characters of a text that is kept
CONFIDENCE = 0.95


@dataclass
class Column:
    """One input, or one element of it, in the training rows and in the requests.

    Attributes:
        kind: `number`, or `category` for few different values, each with its bin, or for text.
        edges: ascending numbers between the bins of a number. values: the bins of a category; the last two bins are
            of other training values and of values that no training row has.
        known: all values of a category in the training rows.
        low, high: range of a number in the training rows.
        expected, counted: rows in each bin, int64 of shape (bins,), of the training rows and of the requests.
        outside: number of values that no training row has. named: the first of them.
    """

    name: str
    kind: str
    expected: Array
    edges: Array = field(default_factory=lambda: np.empty(0))
    values: tuple[Any, ...] = ()
    known: frozenset[Any] = frozenset()
    low: float = 0.0
    high: float = 0.0
    counted: Array = field(init=False)
    outside: int = 0
    named: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counted = np.zeros_like(self.expected)

    def add(self, values: Array, places: Array) -> None:
        """Count values, shape (n,); `places` are the request and the row in it of each, (n, 2)."""
        if self.kind == "number":
            numbers = values.astype(np.float64)
            self.counted += _in_bins(numbers, self.edges, self.low, self.high)
            with np.errstate(invalid="ignore"):
                known = (numbers >= self.low) & (numbers <= self.high)
            beyond = np.flatnonzero(~(known | np.isnan(numbers) if self.expected[-1] else known))
        else:
            texts = listed(values)
            self.counted += _in_values(texts, self.values, self.known)
            beyond = np.flatnonzero([value not in self.known for value in texts])
        self.outside += len(beyond)
        for at in beyond[: NAMED - len(self.named)] if len(self.named) < NAMED else ():
            request, row = places[at].tolist()
            value = plain(values[at])
            shown = one_line(value, LONGEST) if isinstance(value, str) else value if np.isfinite(value) else str(value)
            self.named.append({"request": request, "row": row, "value": shown})

    def found(self) -> ReplayedInput:
        """Return what the requests have in common with the training rows."""
        index, noise = stability_index(self.expected, self.counted)
        span = f"{self.low:g} to {self.high:g}" if self.kind == "number" else f"{len(self.known):,} values"
        return ReplayedInput(self.name, int(self.counted.sum()), index, noise, span, self.outside, tuple(self.named))


class Profile:
    """The training rows, input by input, and what is counted of the requests beside them.

    Attributes:
        columns: by input, one for each element; a single one for all elements of a large input.
    """

    def __init__(self, training: Mapping[str, Array]) -> None:
        """Make the bins.

        Args:
            training: the training rows as requests, one array for each input, which may be mapped.
        """
        self.columns = {name: list(_columns(name, array)) for name, array in training.items() if len(array)}
        self._waiting: list[tuple[int, Mapping[str, Array]]] = []
        self._rows = 0

    def add(self, number: int, rows: Mapping[str, Array]) -> None:
        """Count the rows of a request."""
        self._waiting.append((number, rows))
        self._rows += len(next(iter(rows.values())))
        if self._rows >= BUFFERED:
            self._count()

    def _count(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        for name, columns in self.columns.items():
            for places, rows in _joined(waiting, name):
                flat = rows.reshape(len(rows), int(np.prod(rows.shape[1:], dtype=np.int64)))
                if flat.shape[1] == len(columns):
                    for at, column in enumerate(columns):
                        column.add(flat[:, at], places)
                elif len(columns) == 1:  # all elements together
                    columns[0].add(flat.reshape(-1), np.repeat(places, flat.shape[1], axis=0))

    def found(self) -> tuple[ReplayedInput, ...]:
        """Return the comparison of each input that the requests have values of, the most different first."""
        if self._waiting:
            self._count()
        every = [column.found() for columns in self.columns.values() for column in columns]
        return tuple(sorted((one for one in every if one.values), key=lambda one: -one.psi))


def _joined(waiting: Sequence[tuple[int, Mapping[str, Array]]], name: str) -> Iterator[tuple[Array, Array]]:
    """Yield the request and the row of each row, (n, 2), with its values, joined where their shapes are alike."""
    alike: dict[Any, list[tuple[int, Array]]] = {}
    for number, rows in waiting:
        alike.setdefault((rows[name].shape[1:], rows[name].dtype.kind), []).append((number, rows[name]))
    for parts in alike.values():
        numbers = np.repeat([number for number, _ in parts], [len(rows) for _, rows in parts])
        places = np.concatenate([np.arange(len(rows)) for _, rows in parts])
        yield np.stack([numbers, places], axis=1), np.concatenate([rows for _, rows in parts])


def _columns(name: str, array: Array) -> Iterator[Column]:
    """Yield the columns of one input of the training rows, in their order."""
    step = max(1, -(-len(array) // SAMPLE))
    sample = np.asarray(array[::step])
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    is_wide = width > MOST_COLUMNS
    if is_string(array):
        if width == 1:
            yield from _of_text(name, array)
        return
    if is_wide or not width:
        low, high = _range([piece.reshape(-1, 1) for piece in pieces(array)] if width else [])
        yield _of_numbers(name, sample.reshape(-1), low[0], high[0])
        return
    low, high = _range(piece.reshape(len(piece), -1) for piece in pieces(array))
    flat = sample.reshape(len(sample), -1)
    for at in range(width):
        place = ",".join(str(number) for number in np.unravel_index(at, array.shape[1:]))
        yield _of_numbers(f"{name}[{place}]" if width > 1 else name, flat[:, at], low[at], high[at])


def _range(parts: Any) -> tuple[Array, Array]:
    """Return the lowest and the highest finite number of each column."""
    low: Any = None
    high: Any = None
    for part in parts:
        numbers = part.astype(np.float64)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        with np.errstate(invalid="ignore"):
            least, most = np.fmin.reduce(numbers), np.fmax.reduce(numbers)
        low, high = (least, most) if low is None else (np.fmin(low, least), np.fmax(high, most))
    return (np.zeros(1), np.zeros(1)) if low is None else (np.nan_to_num(low), np.nan_to_num(high))


def _of_numbers(name: str, sample: Array, low: float, high: float) -> Column:
    numbers = sample.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    different = np.unique(finite)
    if len(different) <= FEW:
        edges = (different[1:] + different[:-1]) / 2
    else:
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1]))
    counted = _in_bins(numbers, edges, float(low), float(high))
    return Column(name, "number", counted, edges, low=float(low), high=float(high))


def _of_text(name: str, array: Array) -> Iterator[Column]:
    counts: Counter[Any] = Counter()
    for piece in pieces(array):
        counts.update(listed(piece.reshape(-1)))
        if len(counts) > MOST_KNOWN:
            return
    values = tuple(value for value, _ in counts.most_common(FEW))
    expected = [counts[value] for value in values]
    expected += [sum(counts.values()) - sum(expected), 0]
    yield Column(name, "category", np.array(expected, np.int64), values=values, known=frozenset(counts))


def listed(values: Array) -> list[Any]:
    """Return texts, those that are too long to be kept cut, so that few of them are alike."""
    return [plain(value)[:LONGEST] for value in values.tolist()]


def _in_bins(numbers: Array, edges: Array, low: float, high: float) -> Array:
    """Return how many numbers lie in each bin.

    The first and the last but one are of what is below and above the training rows, so that a constant can move; the
    last one is of what is not a number.
    """
    places = np.searchsorted(edges, numbers, side="right") + 1
    with np.errstate(invalid="ignore"):
        places = np.where(numbers < low, 0, np.where(numbers > high, len(edges) + 2, places))
    places = np.where(np.isnan(numbers), len(edges) + 3, places)
    return np.bincount(places, minlength=len(edges) + 4).astype(np.int64)


def _in_values(texts: Sequence[Any], values: Sequence[Any], known: frozenset[Any]) -> Array:
    places = {value: at for at, value in enumerate(values)}
    found = [places.get(value, len(values) + (value not in known)) for value in texts]
    return np.bincount(found, minlength=len(values) + 2).astype(np.int64)


def stability_index(expected: Array, counted: Array) -> tuple[float, float]:
    """Return the population stability index of two histograms, and the value that chance alone exceeds 1 time in 20.

    Each bin counts half a row more, so that one without rows is not infinitely different; bins without any row count
    for nothing.

    Args:
        expected, counted: rows in each bin, shape (bins,).
    """
    used = (expected > 0) | (counted > 0)
    first, second = expected[used] + 0.5, counted[used] + 0.5
    if not counted.sum() or not expected.sum() or len(first) < 2:
        return 0.0, 0.0
    p, q = first / first.sum(), second / second.sum()
    index = float(((q - p) * np.log(q / p)).sum())
    return index, (1 / expected.sum() + 1 / counted.sum()) * _chi_square(len(first) - 1)


def _chi_square(degrees: int) -> float:
    """Return the 95th percentile of a chi-square, by the approximation of Wilson and Hilferty (1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + NormalDist().inv_cdf(CONFIDENCE) * part**0.5) ** 3)
