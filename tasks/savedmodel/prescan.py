"""Counting what a SavedModel's file holds before protocol buffers make objects of it.

A parsed message takes up to thirty times its bytes, and looking at it takes far longer than reading it. So a file
that holds more than any model needs is refused by its records alone: a record is one field of one message. The bytes
are walked where they lie, nothing is copied, and the walk ends at the first limit.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_RECORDS = 4_000_000
LIMITS = {"nodes": 200_000, "functions": 20_000}  # the largest of Keras' own models export fewer than 50,000 nodes
MAX_DEPTH = 100  # of messages in messages: protocol buffers themselves read no further
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # kinds of record; of the others there are none in these messages


class TooMuchError(Exception):
    """A file holds more than any model needs."""


class DamagedError(Exception):
    """Bytes are no protocol buffer."""


@dataclass(frozen=True)
class Table:
    """A type of message.

    Attributes:
        inner: the tag of each field that is a message itself, with that message's table.
        counted: what a message of this type is counted as; empty for most.
    """

    inner: dict[int, Table]
    counted: str


COUNTED = {"tensorflow.NodeDef": "nodes", "tensorflow.FunctionDef": "functions"}


def count_records(data: bytes, descriptor: Any) -> dict[str, int]:
    """Return how many records, nodes and functions a message of this type holds.

    Raises:
        TooMuchError: more than a limit allows, or messages too deep in each other.
        DamagedError: a record reaches beyond its message, or is of no known kind.
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
            raise DamagedError("a record that reaches beyond its message")
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
            raise TooMuchError(f"messages nested deeper than {MAX_DEPTH}")
    return counts


def _hold(count: int, limit: int, what: str) -> None:
    """Raise where a count is above its limit."""
    if count > limit:
        raise TooMuchError(f"more than {limit:,} {what}")


def _table(descriptor: Any, known: dict[str, Table]) -> Table:
    """Return the table of a type of message; `known` has those that are made already, by full name."""
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
    raise DamagedError(f"a record of kind {kind}")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise DamagedError("a number that does not end")
