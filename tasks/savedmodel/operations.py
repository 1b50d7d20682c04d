"""What each of TensorFlow's operations may do in a graph that is served, and why: the table of operations.toml.

It is a list of what is allowed. An operation that it does not name is refused: a custom one, one of a newer
TensorFlow, a misspelt one. A test compares it with the registry of the installed TensorFlow.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Judged = Literal["harmless", "by place", "by attribute", "refused"]

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})  # input i is argument i of the function
RESTORING = frozenset({"RestoreV2", "Restore", "RestoreSlice"})
TABLES_FROM_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
ALIKE = 0.8  # how much of a misspelt name is right, by difflib's measure


@dataclass(frozen=True)
class Group:
    """Operations that are judged alike.

    Attributes:
        name: in a few words. judged: what becomes of them. reason: in a sentence.
    """

    name: str
    judged: Judged
    reason: str


UNKNOWN = Group(
    "not an operation of TensorFlow 2.21", "refused", "A custom operation or a newer TensorFlow's may do anything."
)


@cache
def classification() -> dict[str, Group]:
    """Return every operation that has been looked at, with its group.

    Raises:
        ValueError: the table names an operation twice.
    """
    found: dict[str, Group] = {}
    for entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["group"]:
        group = Group(entry["name"], entry["judged"], entry["reason"])
        for op in entry["operations"].split():
            if found.setdefault(op, group) is not group:
                raise ValueError(f"operations.toml must name an operation once, got {op} twice")
    return found


def group_of(op: str) -> Group:
    """Return how an operation is judged; what the table does not name is refused."""
    return classification().get(op, UNKNOWN)


def misspelt(ops: Iterable[str]) -> dict[str, str]:
    """Return names that are no operation but almost one, each with the operation that is probably meant."""
    known = {op.lower(): op for op in classification()}
    near = {op: difflib.get_close_matches(op.lower(), known, 1, ALIKE) for op in ops if op not in classification()}
    return {op: known[matches[0]] for op, matches in near.items() if matches}
