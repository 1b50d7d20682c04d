"""Collects facts about all columns of files in one pass over all of their rows, in batches."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.redaction import redact
from configs.times import read_moment
from tasks.datasets.column_files import batches, column_names, other_separator
from tasks.datasets.guess import MOST_CLASSES, Facts, Values
from tasks.datasets.kinds import BLANK, INTEGER, NUMBER, missing_rows, plain
from tasks.errors import WrongFile
from tasks.words import one_line

MOST_DISTINCT = 100_000  # values that are remembered for a column; with more, the number is a lower bound
LONGEST = 40  # characters of a whole number; ids of 128 bits have 39 digits
ALSO = {("whole", "number"), ("date", "time")}  # what values of a kind can be besides
TRUTH = {"true", "false", "yes", "no"}
ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?")


class _Column:
    """The facts about one column, as far as batches have been seen."""

    def __init__(self) -> None:
        self.rows = self.missing = self.words = self.texts = self.numbers = 0
        self.distinct: set[Any] = set()
        self.pairs: dict[Any, Any] = {}  # value: the target's value that it goes with
        self.determines = True
        self.can_be: list[Values] = ["boolean", "whole", "number", "date", "time", "text"]
        self.largest, self.has_line_breaks = 0.0, False
        self.low, self.high = math.inf, -math.inf
        self.problem = self.odd = ""
        self.kinds: set[Values] = set()

    def add(self, array: Any, target: Any) -> None:
        """Add a batch; `target` are the values of the target in its rows, or None."""
        import pyarrow as pa

        column = pa.chunked_array([array])
        self.rows += len(column)
        try:
            column = plain(column, "it")
        except WrongFile as exc:
            self.problem = str(exc).removeprefix("it must ").partition(";")[0]
            return
        missing = missing_rows(column)
        self.missing += int(missing.sum())
        values = column.filter(~missing).unique().to_pylist()
        self._look_at(values)
        if len(self.distinct) < MOST_DISTINCT:
            self.distinct.update(values)
        if target is not None and self.determines and len(self.distinct) <= MOST_CLASSES:
            self._compare(column.to_pylist(), target)

    def _look_at(self, values: Sequence[Any]) -> None:
        if values and not all(isinstance(value, str) for value in values):
            kind = _kind_of_values(values)
            self.can_be = [one for one in self.can_be if one == kind or (kind, one) in ALSO]
            self._note(kind)
            if kind in ("whole", "number"):
                self.largest = max([self.largest, *map(abs, values)])
                self.low, self.high = min(self.low, *values), max(self.high, *values)
            return
        for value in values:
            text = value.strip()
            self.words += len(text.split())
            self.texts += 1
            if _fits(text, "number"):
                self.numbers += 1
                self.low, self.high = min(self.low, float(text)), max(self.high, float(text))
            if not self.odd and not NUMBER.fullmatch(text):
                self.odd = f"'{one_line(redact(text), 40)}'" if text else BLANK
            self.has_line_breaks |= value.splitlines() != [value] and bool(value)
            self.can_be = [one for one in self.can_be if _fits(text, one)]
            if self.can_be and self.can_be[0] == "whole":
                self.largest = max(self.largest, abs(int(text)))
        if values:
            self._note("text")

    def _note(self, kind: Values) -> None:
        """Note what the values of a file are; a run reads whole numbers as text, but no other ones."""
        self.kinds.add(kind)
        if not self.can_be and self.kinds - {"text", "whole"}:
            self.problem = f"have values of one type in all files, got {' and '.join(sorted(self.kinds))}"

    def _compare(self, values: Sequence[Any], target: Sequence[Any]) -> None:
        for value, other in zip(values, target, strict=True):
            if self.pairs.setdefault(value, other) != other:
                self.determines = False
                return

    def facts(self) -> Facts:
        """Return what is known now."""
        values: Values = self.can_be[0] if self.can_be else "text"
        return Facts(
            self.rows,
            self.missing,
            len(self.distinct),
            values,
            self.largest,
            self.has_line_breaks,
            self.words / max(self.texts, 1),
            self.determines and 1 < len(self.pairs) <= self.rows / 5,
            sorted(map(str, self.distinct))[:MOST_CLASSES] if len(self.distinct) <= MOST_CLASSES else [],
            self.odd if values == "text" and self.numbers > self.texts / 2 else "",
            self.low,
            self.high,
            self.distinct
            if values not in ("date", "time")
            else {str(value)[: len("2026-01-31")] for value in self.distinct},
        )


def facts_of_files(files: Sequence[Path], target: str) -> tuple[dict[str, Facts], dict[str, str]]:
    """Return the facts of each column over all rows of all files, and what is wrong with columns of other types.

    Raises:
        WrongFile: a file cannot be read, has other columns than the first one, or has no such target.
    """
    names = column_names(files[0])
    for file in files[1:]:
        odd = sorted(set(names) ^ set(column_names(file)))
        if odd:
            raise WrongFile(
                f"all files must have the same columns, and only one of '{files[0]}' and '{file}' has '{odd[0]}'"
            )
    if target not in names:
        listed = ", ".join(f"'{name}'" for name in names[:40])
        why = other_separator(names) or f"the columns are {listed or 'none, because the file has no header'}"
        raise WrongFile(f"--target must name a column of '{files[0]}', got '{target}'; {why}")
    columns = {name: _Column() for name in names}
    for file in files:
        for batch in batches(file):
            given = batch.column(batch.schema.get_field_index(target)).to_pylist() if batch.num_rows else []
            for name, column in columns.items():
                column.add(batch.column(batch.schema.get_field_index(name)), given if name != target else None)
    found = {name: column.facts() for name, column in columns.items()}
    if not found[target].rows:
        raise WrongFile(f"'{files[0]}' must have rows, and it has none")
    return found, {name: column.problem for name, column in columns.items() if column.problem}


def _kind_of_values(values: Sequence[Any]) -> Values:
    """Return what values of Arrow's own types are."""
    if all(isinstance(value, bool) for value in values):
        return "boolean"
    if all(isinstance(value, int) for value in values):
        return "whole"
    if all(isinstance(value, int | float) for value in values):
        return "number"
    return "time" if any(hasattr(value, "hour") for value in values) else "date"


def _fits(text: str, kind: Values) -> bool:
    """Return whether a text of a CSV file can be a value of a kind."""
    if kind == "boolean":
        return text.lower() in TRUTH
    if kind == "whole":  # leading zeros are part of a code
        return (
            bool(INTEGER.fullmatch(text))
            and (text.lstrip("+-") == "0" or text.lstrip("+-")[0] != "0")
            and len(text) < LONGEST
        )
    if kind == "number":
        return bool(NUMBER.fullmatch(text)) and not (len(text) > 1 and text[0] == "0" and text[1].isdecimal())
    if kind in ("date", "time"):
        return _is_date(text) and (kind == "time" or len(text) == len("2026-01-31"))
    return True


def _is_date(text: str) -> bool:
    try:
        return bool(ISO.fullmatch(text)) and bool(read_moment(text))
    except ValueError:
        return False
