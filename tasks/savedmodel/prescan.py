"""Counts the records of a SavedModel's file before protobuf parses it.

A parsed message takes up to thirty times the size of the file, and examining it takes far longer than reading it. So
a file with more records than any model needs is refused without parsing it; a record is one field of one message. The
scan copies no bytes and stops at the first limit that is exceeded.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_RECORDS = 4_000_000
LIMITS = {"nodes": 200_000, "functions": 20_000}  # the largest of Keras' own models export fewer than 50,000 nodes
MAX_DEPTH = 100  # nested messages; protobuf itself has the same limit
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # kinds of record; these messages have no other kinds


class TooMuchError(Exception):
    """The file has more records than any model needs."""


class DamagedError(Exception):
    """The bytes are not a valid protobuf message."""


@dataclass(frozen=True)
class Table:
    """A type of message.

    Attributes:
        inner: maps the tag of each field that is itself a message to the table of that message.
        counted: the counter for messages of this type; empty for most types.
    """

    inner: dict[int, Table]
    counted: str


COUNTED = {"tensorflow.NodeDef": "nodes", "tensorflow.FunctionDef": "functions"}


def count_records(data: bytes, descriptor: Any) -> dict[str, int]:
    """Return how many records, nodes and functions a message of this type contains.

    Raises:
        TooMuchError: a limit is exceeded, or messages are nested too deep.
        DamagedError: a record extends beyond its message, or its kind is unknown.
    """
    counts = {"records": 0, "nodes": 0, "functions": 0}
    at, end, table = 0, len(data), _table(descriptor, {})
    outer: list[tuple[int, Table]] = []
    while at < end or outer:
        if at >= end:
            end, table = outer.pop()
            continue
        counts["records"] += 1
        _hold(counts["records"], MAX_RECORDS, "fields")
        tag, at = _varint(data, at, end)
        at, until = _skip(data, at, end, tag & 7)
        if until > end:
            raise DamagedError("a record that extends beyond its message")
        inner = table.inner.get(tag)
        if inner is None:
            at = until
            continue
        if inner.counted:
            counts[inner.counted] += 1
            _hold(counts[inner.counted], LIMITS[inner.counted], inner.counted)
        outer.append((end, table))
        end, table = until, inner
        if len(outer) > MAX_DEPTH:
            raise TooMuchError(f"messages that are nested deeper than {MAX_DEPTH} levels")
    return counts


def _hold(count: int, limit: int, what: str) -> None:
    """Raise an error if a count exceeds its limit."""
    if count > limit:
        raise TooMuchError(f"more than {limit:,} {what}")


def _table(descriptor: Any, known: dict[str, Table]) -> Table:
    """Return the table of a type of message; `known` has the tables that exist already, by full name."""
    name = descriptor.full_name
    if name not in known:
        known[name] = Table({}, COUNTED.get(name, ""))
        for field in descriptor.fields:
            if field.message_type is not None:
                known[name].inner[field.number << 3 | LENGTH] = _table(field.message_type, known)
    return known[name]


def _skip(data: bytes, at: int, end: int, kind: int) -> tuple[int, int]:
    """Return where the value of a record begins, and where it ends."""
    if kind == LENGTH:
        size, at = _varint(data, at, end)
        return at, at + size
    if kind == VARINT:
        return at, _varint(data, at, end)[1]
    if kind in {FIXED32, FIXED64}:
        return at, at + (4 if kind == FIXED32 else 8)
    raise DamagedError(f"a record of the unknown kind {kind}")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number that is stored in seven bits of each byte, lowest first, and where it ends."""
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise DamagedError("a number that does not end")
