"""Reads logged outcomes from a CSV file line by line, and keeps 17 bytes of each."""

from __future__ import annotations

import csv
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from tasks.datasets.strings import Array
from tasks.errors import WrongFile
from tasks.experiment.routing import BUCKETS, ends, numbering
from tasks.records import Arm
from tasks.words import counted, few, one_line

KEY, VERSION, LABEL, OUTCOME = "key", "version", "label", "outcome"
WORDS = {"true": 1.0, "false": 0.0}
LARGEST = 1e100  # the square of a larger number cannot be summed
SHOWN = 10  # invalid lines that are named
MOST_UNKNOWN = 1000  # different unknown versions that are counted one by one


@dataclass
class Logged:
    """The usable outcomes of a file, one item for each line, and what was not usable.

    Attributes:
        numbers: of the keys (routing.py). arms: their indices. values: the outcomes.
        invalid: for each of the first invalid lines its number and why. invalid_lines: how many there are.
        unknown: how many lines name each version that is not in the experiment.
    """

    numbers: array[int] = field(default_factory=lambda: array("Q"))
    arms: array[int] = field(default_factory=lambda: array("B"))
    values: array[float] = field(default_factory=lambda: array("d"))
    invalid: list[str] = field(default_factory=list)
    invalid_lines: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    def refuse(self, line: int, why: str) -> None:
        """Count a line that cannot be used."""
        self.invalid_lines += 1
        if len(self.invalid) < SHOWN:
            self.invalid.append(f"line {line:,}: {why}")


@dataclass(frozen=True)
class ByKey:
    """What was logged for each key; the unit of the analysis is the key.

    Attributes:
        arm: index of the arm, int of shape (keys,). mean: of its outcomes, float64 of shape (keys,).
        lines: how many lines were used. several: how many keys have more than one outcome.
        seen: keys in each arm before any were left out for being in a wrong arm.
        in_two_arms: keys that were logged in several arms, which are left out.
        in_wrong_arm: keys that the hash gives to another arm, which are left out.
    """

    arm: Array
    mean: Array
    lines: int
    several: int
    seen: tuple[int, ...]
    in_two_arms: int
    in_wrong_arm: int


def read_outcomes(path: Path, experiment: str, arms: Sequence[Arm]) -> Logged:
    """Read a CSV file with the columns key, outcome, and version or label; further columns are ignored.

    Raises:
        WrongFile: the file cannot be read, is not such a table, or has no usable line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            logged = _read(_rows(stream, path), path, experiment, arms)
    except OSError as exc:
        raise WrongFile(f"--decide must name a readable CSV file, got '{path}': {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise WrongFile(
            f"--decide must name a file in UTF-8 that is not compressed, got '{path}': {one_line(str(exc))}"
        ) from exc
    if not logged.values:
        found = logged.invalid[:3]
        if logged.unknown:
            found.append(f"unknown versions or labels: {few(list(logged.unknown), most=5)}")
        raise WrongFile(
            f"--decide must name a file with outcomes of the experiment {experiment}, but '{path}' has none "
            f"({'; '.join(found) or 'no lines'})"
        )
    return logged


def _rows(stream: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, with the number of its last line.

    A quotation mark that is not closed is an error, because it would make the lines after it a part of one field.
    """
    lines, line = csv.reader(stream, strict=True), 0
    try:
        for row in lines:
            line = lines.line_num
            if row:
                yield line, row
    except csv.Error as exc:
        raise WrongFile(
            f"--decide must name a CSV file whose quotation marks are closed, got '{path}', in which line {line + 1:,} "
            f"begins what cannot be read: {one_line(str(exc))}"
        ) from exc


def _read(rows: Iterator[tuple[int, list[str]]], path: Path, experiment: str, arms: Sequence[Arm]) -> Logged:
    header = [one_line(name).lower() for name in next(rows, (0, []))[1]]
    of_key, of_arm, of_outcome = _columns(header, path)
    index = {str(arm.version): i for i, arm in enumerate(arms)}
    if header[of_arm] == LABEL:
        index = {arm.label: i for i, arm in enumerate(arms)}
    needed, number, logged = max(of_key, of_arm, of_outcome), numbering(experiment), Logged()
    for line, row in rows:
        if len(row) <= needed:
            logged.refuse(line, f"it has {counted(len(row), 'column')}, and needs {needed + 1}")
            continue
        if any(row[len(header) :]):  # a comma in a key or in a number moves what follows to the next column
            logged.refuse(line, f"it has {counted(len(row), 'column')}, and the heading has {len(header)}")
            continue
        key, arm = row[of_key], index.get(row[of_arm].strip().removesuffix(".0"))  # pandas writes 4.0 beside a gap
        if not key.strip():
            logged.refuse(line, "the key is empty")
        elif arm is None:
            name = one_line(row[of_arm], 40) or "(empty)"
            logged.unknown[name if name in logged.unknown or len(logged.unknown) < MOST_UNKNOWN else "(others)"] += 1
        elif (value := _number(row[of_outcome])) is None:
            what = one_line(row[of_outcome], 40)
            logged.refuse(line, f"the outcome must be a number, got '{what}'" if what else "no outcome")
        else:
            logged.numbers.append(number(key))
            logged.arms.append(arm)
            logged.values.append(value)
    return logged


def _columns(header: Sequence[str], path: Path) -> Iterator[int]:
    """Return the places of the key, of the version or label, and of the outcome."""
    chosen = VERSION if VERSION in header else LABEL
    wrong = [name for name in (KEY, chosen, OUTCOME) if header.count(name) != 1]
    if wrong:
        raise WrongFile(
            f"'{path}' must begin with a line of names, separated by commas, that has key, outcome, and "
            f"version (or label) once each, got {one_line(','.join(header), 200) or 'no line'}"
        )
    return (header.index(name) for name in (KEY, chosen, OUTCOME))


def _number(text: str) -> float | None:
    try:
        value = float(text) if "_" not in text else math.nan  # Python reads 1_000 as a number
    except ValueError:
        return WORDS.get(text.strip().lower())
    return value if abs(value) <= LARGEST else None


def by_key(logged: Logged, arms: Sequence[Arm]) -> ByKey:
    """Return the mean outcome of each key that was served by the arm that the hash gives it, and by no other."""
    numbers = np.frombuffer(logged.numbers, np.uint64)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
    of_line = np.frombuffer(logged.arms, np.uint8)[order]
    first, last = np.minimum.reduceat(of_line, starts), np.maximum.reduceat(of_line, starts)
    lines = np.diff(np.r_[starts, len(numbers)])
    means = np.add.reduceat(np.frombuffer(logged.values, np.float64)[order], starts) / lines
    buckets = (numbers[starts] % np.uint64(BUCKETS)).astype(np.int64)
    due = np.searchsorted(np.array(ends([arm.share for arm in arms])), buckets, side="right")
    one = first == last
    right = one & (first == due)
    return ByKey(
        arm=first[right],
        mean=means[right],
        lines=len(numbers),
        several=int(np.count_nonzero(lines > 1)),
        seen=tuple(int(np.count_nonzero(one & (first == index))) for index in range(len(arms))),
        in_two_arms=int(np.count_nonzero(~one)),
        in_wrong_arm=int(np.count_nonzero(one & ~right)),
    )


def unknown_words(unknown: Mapping[str, int]) -> str:
    """Return which unknown versions were logged how often, the most frequent first."""
    found = sorted(unknown.items(), key=lambda item: -item[1])
    return few([f"'{name}' ({counted(count, 'line')})" for name, count in found], most=5)
