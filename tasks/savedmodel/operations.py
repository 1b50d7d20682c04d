"""The table of TensorFlow's operations in operations.toml: whether each may be in a served graph, and why.

It is an allow-list. An operation that it does not contain is refused: a custom one, one of a newer TensorFlow, a
misspelt one. A test compares it with the registry of the installed TensorFlow.
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
ALIKE = 0.8  # difflib's similarity of a misspelt name


@dataclass(frozen=True)
class Group:
    """Operations that are judged in the same way.

    Attributes:
        name: a few words. judged: the judgement. reason: a sentence.
    """

    name: str
    judged: Judged
    reason: str


UNKNOWN = Group("not an operation of TensorFlow 2.21", "refused", "A custom operation or a newer one may do anything.")


@cache
def classification() -> dict[str, Group]:
    """Return a mapping from every known operation to its group.

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
    """Return the group of an operation; operations that are not in the table are refused."""
    return classification().get(op, UNKNOWN)


def misspelt(ops: Iterable[str]) -> dict[str, str]:
    """Return a mapping from unknown names to the operations that were probably meant."""
    known = {op.lower(): op for op in classification()}
    near = {op: difflib.get_close_matches(op.lower(), known, 1, ALIKE) for op in ops if op not in classification()}
    return {op: known[matches[0]] for op, matches in near.items() if matches}
