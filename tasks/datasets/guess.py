"""Guesses from the values of a column what it is: the heuristics of `init` and `infer-schema`, with their reasons."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.sections.features import LARGEST_INTEGER

LIKE_AN_ID = 0.5  # a text column with a larger share of distinct values identifies rows and does not describe them
FEW = 20  # up to so many distinct whole numbers are classes, and up to so many distinct texts are not ids
LARGEST_EXACT = 2**24  # float32 holds every whole number up to here
MOST_CLASSES = 100
LARGEST_STAND_IN = 10**9  # the next power of ten is the last that float32 holds
CLOSE = 1e-4  # a smaller range, relative to the numbers, has fewer than about 1,000 steps of float32
STAND_INS = {
    "category": ("unknown", "missing", "not given"), "text": ("", "unknown", "missing"),
    "date": ("1970-01-01", "1900-01-01", "0001-01-01"),
}  # fmt: skip
MANY_WORDS = 3  # texts with at least as many words on average are descriptions
NAMED_LIKE_AN_ID = re.compile(r"(^|[^a-z])(id|uuid|key|nr|no)$|Id$|ID$")

CLOSEST = 1e-12  # a smaller range, relative to the numbers, is rounding (kinds.py)
VALID = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

Values = Literal["boolean", "whole", "number", "date", "time", "text"]


@dataclass
class Facts:
    """What is known about the values of a column.

    Attributes:
        rows, missing: number of rows, and of rows without a value.
        distinct: number of different values, or a lower bound of it.
        values: what all values are; `time` is a date with a time of day.
        largest: the largest magnitude of whole numbers. has_line_breaks: whether a text has some.
        words: the average number of words of a text.
        determines: whether each of few values goes with one value of the target only.
        examples: some values. odd: a text in a column of which most values are numbers, or empty.
        low, high: the range of the numbers. taken: all values that were remembered; dates are ISO 8601 without a time.
    """

    rows: int
    missing: int
    distinct: int
    values: Values
    largest: float = 0
    has_line_breaks: bool = False
    words: float = 1
    determines: bool = False
    examples: list[Any] = field(default_factory=list)
    odd: str = ""
    low: float = 0
    high: float = 0
    taken: Collection[Any] = ()

    @property
    def known(self) -> int:
        """Return the number of rows with a value."""
        return self.rows - self.missing


def unfit(facts: Facts) -> str:
    """Return why a model can learn nothing from a column, or an empty text."""
    if not facts.known:
        return "it is empty"
    if facts.distinct < 2:
        return "it has only one value"
    if facts.missing > LIKE_AN_ID * facts.rows:
        return "it is empty in most rows"
    return ""


def like_an_id(facts: Facts) -> str:
    """Return why a column of text identifies rows instead of describing them, or an empty text."""
    if facts.values == "text" and facts.distinct > max(FEW, LIKE_AN_ID * facts.known):
        return "most of its texts are different, like ids, dates or descriptions"
    return ""


def too_large(facts: Facts) -> str:
    """Return why a column of whole numbers cannot be float32, or an empty text."""
    large = facts.values == "whole" and facts.largest > LARGEST_EXACT
    return "its numbers are too large for float32, like those of an id" if large else ""


def input_names(columns: Sequence[str]) -> dict[str, str]:
    """Return for each column a unique name that TensorFlow accepts for an input, which is its own if possible."""
    found: dict[str, str] = {}
    taken: set[str] = set()  # TensorFlow does not distinguish names by their case
    for column in sorted(columns, key=lambda column: _plain(column) != column):  # own names are given first
        number, given = 2, _plain(column)
        while given.lower() in taken:
            given, number = f"{_plain(column)}_{number}", number + 1
        taken.add(given.lower())
        found[column] = given
    return {column: found[column] for column in columns}


def _plain(column: str) -> str:
    """Return a valid name made of the letters and digits of a column that ASCII can represent."""
    ascii_only = unicodedata.normalize("NFKD", column.replace("ß", "ss")).encode("ascii", "ignore").decode()
    name = column if VALID.fullmatch(column) else re.sub(r"[^A-Za-z0-9_]+", "_", ascii_only).strip("_") or "input"
    return name if name[0].isalpha() and not keyword.iskeyword(name) and name != "self" else f"input_{name}"


def model_name(stem: str) -> str:
    """Return the name of a model for a file."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", stem).strip("_") or "model"


def guessed(column: str, facts: Facts) -> tuple[dict[str, Any], str, str]:
    """Return the feature that a column probably is, doubts about it, and why it is left out; each may be empty."""
    reason = unfit(facts)
    if reason:
        return {}, "", reason
    if facts.values in ("date", "time"):
        unit = "days" if facts.values == "date" else "seconds"
        return {"kind": "date", "unit": unit}, f"clients send {unit} since 1970-01-01 UTC", ""
    if facts.values == "text":
        return _text(facts)
    if facts.values == "whole":
        return _whole(column, facts)
    spread, largest = facts.high - facts.low, max(abs(facts.low), abs(facts.high))
    if facts.values == "number" and spread <= CLOSEST * largest:
        return {}, "", "it has only one value, up to rounding"
    if facts.values == "number" and too_close(facts):
        return {"kind": "number", "dtype": "float64"}, "float32 would round differences between its numbers away", ""
    return {"kind": facts.values}, "", ""


def stand_in(kind: str, facts: Facts) -> Any:
    """Return a value for missing ones that the column does not have, or None if there is none."""
    if kind in ("number", "integer_id"):
        value = -1
        while value >= max(facts.low, -LARGEST_STAND_IN):
            value *= 10
        return value if value < facts.low else None
    if kind == "boolean":
        return False
    return next((value for value in STAND_INS[kind] if value not in facts.taken), None)


def too_close(facts: Facts) -> bool:
    """Return whether a column has large numbers with small differences, which float32 rounds."""
    return 0 < facts.high - facts.low < CLOSE * max(abs(facts.low), abs(facts.high))


def _text(facts: Facts) -> tuple[dict[str, Any], str, str]:
    if facts.odd:
        words = (
            f"most values are numbers, but {facts.odd} is not, which a run refuses; an empty cell is a missing value"
        )
        return {"kind": "number"}, words, ""
    if not like_an_id(facts):
        return (
            {"kind": "category"},
            "" if facts.distinct <= MOST_CLASSES else f"{facts.distinct:,} different values",
            "",
        )
    if facts.words >= MANY_WORDS:
        return {"kind": "text"}, f"{facts.words:.0f} words on average", ""
    return {}, "", "most of its texts are different, like ids"


def _whole(column: str, facts: Facts) -> tuple[dict[str, Any], str, str]:
    named = bool(NAMED_LIKE_AN_ID.search(column))
    if named and facts.distinct == facts.known:
        return {}, "", "its whole numbers are all different and it is named like an id"
    if too_large(facts):
        if facts.distinct > LIKE_AN_ID * facts.known:
            return {}, "", "its whole numbers are large and mostly different, like ids"
        if facts.largest > LARGEST_INTEGER:
            return {"kind": "category"}, "whole numbers of more than 64 bits", ""
        return {"kind": "integer_id"}, "large whole numbers that repeat; number with dtype int64 if they count", ""
    if named:
        return {"kind": "integer_id"}, f"named like an id, {facts.distinct:,} different values; number if it counts", ""
    if facts.distinct == 2 and set(facts.examples) == {"0", "1"}:
        return {"kind": "boolean"}, "the numbers 0 and 1; clients send true or false. number if they count", ""
    if facts.distinct <= FEW:
        return {"kind": "number"}, f"{facts.distinct} different whole numbers; integer_id if they are codes", ""
    return {"kind": "number"}, "", ""
