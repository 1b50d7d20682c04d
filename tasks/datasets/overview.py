"""Statistics of splits: rows that are in several splits, and the share of each label in each split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks.datasets.rows import Array

MOST_LABELS = 20  # a target with more values has no labels


def shared_rows(identity: Array, index: Mapping[str, Array]) -> int:
    """Return how many distinct rows are in more than one split.

    Args:
        identity: fingerprints of the features, shape (n,). index: row numbers of each split.
    """
    distinct = np.concatenate([np.unique(identity[rows]) for rows in index.values()])
    return int((np.unique(distinct, return_counts=True)[1] > 1).sum())


def label_shares(targets: Mapping[str, Array], index: Mapping[str, Array]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the share of rows with a label, by target, label and split.

    A target has labels if it has one value for each row and few distinct values; a column of 0 and 1 is a label.
    """
    found = {name: _labels(array) for name, array in targets.items()}
    return {
        name: {
            label: {split: float(np.mean(marked[rows])) for split, rows in index.items()}
            for label, marked in labels.items()
        }
        for name, labels in found.items()
        if labels
    }


def _labels(target: Array) -> dict[str, Array]:
    """Return a mapping from each label to the rows that have it, bool (n,); it is empty if there are no labels."""
    if target.size == len(target):
        flat = target.reshape(-1)
        values = np.unique(flat)
        return {_text(value): flat == value for value in values} if len(values) <= MOST_LABELS else {}
    if target.ndim != 2 or target.shape[1] > MOST_LABELS or target.dtype.kind not in "biuf":
        return {}
    if not np.isin(target, (0, 1)).all():
        return {}
    return {f"column {number}": target[:, number] == 1 for number in range(target.shape[1])}


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
