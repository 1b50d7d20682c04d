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
from tasks.datasets.strings import dtype_words, is_string
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
        moved = "the rows are the same, in another order or in other splits"
        return _stored_otherwise(ours, theirs) if same else [moved]
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
        if dtype_words(old) != dtype_words(found):
            lines.append(f"the column '{name}' has the dtype {dtype_words(found)}, and had {dtype_words(old)}")
        elif old.shape[1:] != found.shape[1:]:
            lines.append(f"a row of the column '{name}' has the shape {found.shape[1:]}, and had {old.shape[1:]}")
    return lines


def _stored_otherwise(ours: Mapping[str, Rows], theirs: Mapping[str, Rows]) -> list[str]:
    """Return the columns of equal rows whose numbers have other bytes, which the digest of the rows covers."""
    found = {
        name for split in ours for name, array in _columns(ours[split]).items()
        if not is_string(array) and array.tobytes() != _columns(theirs[split])[name].tobytes()
    }  # fmt: skip
    return [f"the column '{name}' has equal numbers with other bytes, as -0.0 and 0.0 are" for name in sorted(found)]


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
        changes = [_change(name, old[name], found[name]) for name in old if np.any(old[name] != found[name])]
        moved = "" if split == now_split else f", which is a {now_split} row now,"
        return [f"{split} row {place + 1}{moved} has other values: {'; '.join(changes[:5])}"]
    lines = []
    for word, pool, places in (("gone", before, gone), ("new", after, new)):
        if len(places):
            split, place, row = pool.row(int(places[0]))
            values = ", ".join(f"{name} {_value(value)}" for name, value in [*row.items()][:5])
            lines.append(f"the first {word} row is {split} row {place + 1}: {values}")
    return lines


def _change(name: str, old: Any, new: Any) -> str:
    """Return both values, or of arrays and long texts both values at the first place where they differ."""
    if np.ndim(old):
        differ = np.argwhere(np.asarray(old != new))
        first = tuple(differ[0].tolist())
        more = f" (and {len(differ) - 1:,} more of its {old.size:,} values)" if len(differ) > 1 else ""
        place = f"{name}[{', '.join(map(str, first))}]"
        return f"{_change(place, old[first], new[first])}{more}"
    was, is_now = _value(old), _value(new)
    if was == is_now and isinstance(old, str | bytes):
        pairs = enumerate(zip(old, new, strict=False))
        equal = next((number for number, (a, b) in pairs if a != b), min(len(old), len(new)))
        return f"{name} was {_cut(ascii(old[equal:]))} and is {_cut(ascii(new[equal:]))} from position {equal + 1} on"
    return f"{name} was {was} and is {is_now}"


def _value(value: Any) -> str:
    """Return a value for people; a text with quotes, because only its spaces may have changed."""
    if isinstance(value, str | bytes):
        return _cut(repr(value if isinstance(value, bytes) else str(value)))
    return _cut(" ".join(str(value).split()))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
