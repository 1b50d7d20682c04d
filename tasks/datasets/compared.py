"""Says in what the rows of two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.rows import Array, Rows, load_rows
from tasks.datasets.seen import Record, read_record
from tasks.datasets.splitting import SPLITS
from tasks.datasets.strings import is_string
from tasks.words import counted

LONGEST = 60  # characters of a value


@dataclass(frozen=True)
class _Pool:
    """The rows of all splits: their splits, and a fingerprint of each, uint64 (n,)."""

    splits: Mapping[str, Rows]
    prints: Array

    def row(self, number: int) -> tuple[str, int, dict[str, Any]]:
        """Return split, place in it, and values of a row of the pool."""
        for name, rows in self.splits.items():
            if number < len(rows):
                return name, number, {column: array[number] for column, array in _columns(rows).items()}
            number -= len(rows)
        raise IndexError(number)


def changed_rows(then: Mapping[str, Path], now: Mapping[str, Path]) -> list[str]:
    """Return in what two sets of splits differ, one sentence each; an empty list if each split has the same rows.

    Args:
        then, now: the files of the splits by name, as `datasets.rows` saves them.
    """
    ours, theirs = ({name: load_rows(path) for name, path in files.items()} for files in (then, now))
    changes = _changed_columns(ours["train"], theirs["train"])
    if changes:
        return changes
    before, after = _pool(ours), _pool(theirs)
    gone, new = _surplus(before.prints, after.prints), _surplus(after.prints, before.prints)
    if not len(gone) and not len(new):
        same = all(np.array_equal(_prints(ours[name]), _prints(theirs[name])) for name in ours)
        return [] if same else ["the rows are the same, in another order or in other splits"]
    counts = f"{counted(len(gone), 'row')} {_is(len(gone))} gone, and {counted(len(new), 'row')} {_is(len(new))} new"
    return [counts, *_example(before, after, gone, new)]


def changed_requests(then: Path, now: Path) -> list[str]:
    """Return in what the records of the seen rows of two versions differ (datasets/seen.py), one sentence each.

    They know the distinct requests of each split, and no targets.
    """
    ours, theirs = read_record(then), read_record(now)
    lines = []
    for name in SPLITS:
        gone, new = (len(np.setdiff1d(a.rows[name], b.rows[name])) for a, b in ((ours, theirs), (theirs, ours)))
        if gone or new:
            requests = counted(gone, f"distinct {name} request")
            lines.append(f"{requests} {_is(gone)} gone, and {new:,} {_is(new)} new")
    return lines + _changed_groups(ours, theirs)


def _changed_groups(ours: Record, theirs: Record) -> list[str]:
    return [] if ours.columns == theirs.columns else ["the columns of data.key or data.group are others"]


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _columns(rows: Rows) -> dict[str, Array]:
    return {**rows.features, **{f"target {name}": array for name, array in rows.targets.items()}}


def _changed_columns(then: Rows, now: Rows) -> list[str]:
    before, after = _columns(then), _columns(now)
    gone, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    lines = [f"the column '{name}' is gone" for name in gone] + [f"the column '{name}' is new" for name in new]
    for name in sorted(before.keys() & after.keys()):
        old, found = before[name], after[name]
        if old.dtype != found.dtype and not (is_string(old) and is_string(found)):
            lines.append(f"the column '{name}' has the dtype {found.dtype}, and had {old.dtype}")
        elif old.shape[1:] != found.shape[1:]:
            lines.append(f"a row of the column '{name}' has the shape {found.shape[1:]}, and had {old.shape[1:]}")
    return lines


def _pool(splits: Mapping[str, Rows]) -> _Pool:
    return _Pool(splits, np.concatenate([_prints(rows) for rows in splits.values()]))


def _prints(rows: Rows) -> Array:
    return fingerprints(_columns(rows), "row and target")


def _surplus(ours: Array, theirs: Array) -> Array:
    """Return the places of rows that are in `ours` more often than in `theirs`, int64 (k,)."""
    values, counts = np.unique(ours, return_counts=True)
    known, known_counts = np.unique(theirs, return_counts=True)
    place = np.searchsorted(known, values)
    there = np.zeros(len(values), np.int64)
    inside = place < len(known)
    inside[inside] = known[place[inside]] == values[inside]
    there[inside] = known_counts[place[inside]]
    order = np.argsort(ours, kind="stable")
    begin = np.searchsorted(ours[order], values)
    extra = [order[start + have : start + count] for start, have, count in zip(begin, there, counts, strict=True)
             if count > have]  # fmt: skip
    return np.sort(np.concatenate(extra)) if extra else np.zeros(0, np.int64)


def _example(before: _Pool, after: _Pool, gone: Array, new: Array) -> list[str]:
    """Return the values in which one changed row differs, or one row that is gone or new."""
    if len(gone) == len(new) == 1:
        split, place, old = before.row(int(gone[0]))
        now_split, _, found = after.row(int(new[0]))
        changes = [f"{name} was {_value(old[name])} and is {_value(found[name])}"
                   for name in old if not np.array_equal(old[name], found[name])]  # fmt: skip
        moved = "" if split == now_split else f", which is a {now_split} row now,"
        return [f"{split} row {place + 1}{moved} has other values: {'; '.join(changes[:5])}"]
    lines = []
    for word, pool, places in (("gone", before, gone), ("new", after, new)):
        if len(places):
            split, place, row = pool.row(int(places[0]))
            values = ", ".join(f"{name} {_value(value)}" for name, value in [*row.items()][:5])
            lines.append(f"the first {word} row is {split} row {place + 1}: {values}")
    return lines


def _value(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
