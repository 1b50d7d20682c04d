"""What a split looks like: rows that several splits share, and how often each label is in each of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks.datasets.rows import Array

MOST_LABELS = 20  # a target with more values is no label


def shared_rows(identity: Array, index: Mapping[str, Array]) -> int:
    """Return how many different rows are in more than one split.

    Args:
        identity: fingerprints of the features, shape (n,). index: row numbers of each split.
    """
    distinct = np.concatenate([np.unique(identity[rows]) for rows in index.values()])
    return int((np.unique(distinct, return_counts=True)[1] > 1).sum())


def label_shares(targets: Mapping[str, Array], index: Mapping[str, Array]) -> dict[str, dict[str, dict[str, float]]]:
    """Return target, label and split to the share of the split's rows that have the label.

    A target with one value a row and few different ones has labels; of columns of 0 and 1 each is one.
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
    """Return label to bool (n,), which rows have it; empty where there are none."""
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
