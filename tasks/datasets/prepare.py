"""From a user's loader to three saved splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from configs.schema import Data
from tasks.datasets.references import describe, resolve
from tasks.datasets.rows import Array, Rows, check_rows, digest_rows, save_rows
from tasks.datasets.strings import dtype_words
from tasks.errors import DataError
from tasks.records import Splits


def prepare_splits(data: Data, directory: Path) -> Splits:
    """Load, check and split the rows, and save each split below `directory`.

    Raises:
        DataError: the loader failed, or its rows cannot be used.
    """
    load = resolve(data.load, "data.load", DataError)
    try:
        loaded = load(**data.params)
    except Exception as exc:  # whatever the user's loader raises
        raise DataError(f"data.load '{data.load}' must return rows, got {describe(exc)}") from exc
    rows = check_rows(loaded, data.load)
    parts = {name: rows.take(index) for name, index in _split(rows, data).items()}
    for name, part in parts.items():
        save_rows(directory / f"{name}.npz", part)
    return Splits(
        train=directory / "train.npz",
        validation=directory / "validation.npz",
        test=directory / "test.npz",
        rows={name: len(part) for name, part in parts.items()},
        digest=digest_rows(list(parts.values())),
        source=data.load,
        features=tuple(
            f"{name}: {dtype_words(array)} {array.shape[1:]}"
            for name, array in {**rows.features, **rows.targets}.items()
        ),
    )


def _split(rows: Rows, data: Data) -> dict[str, Array]:
    """Return the row numbers of each split; the same seed and rows give the same numbers.

    With `stratify`, rows are dealt out one target value after the other.
    """
    order = np.random.default_rng(data.seed).permutation(len(rows))
    groups = [order]
    if data.stratify:
        if len(rows.targets) != 1 or next(iter(rows.targets.values())).ndim != 1:
            raise DataError("data.stratify needs one target with one value a row; turn it off for this data")
        target = next(iter(rows.targets.values()))[order]
        groups = [order[target == value] for value in np.unique(target)]
    parts: dict[str, list[Array]] = {"train": [], "validation": [], "test": []}
    for group in groups:
        n_test, n_validation = (
            round(len(group) * data.test_fraction),
            round(len(group) * data.validation_fraction),
        )
        parts["test"].append(group[:n_test])
        parts["validation"].append(group[n_test : n_test + n_validation])
        parts["train"].append(group[n_test + n_validation :])
    index = {name: np.sort(np.concatenate(part)) for name, part in parts.items()}
    empty = [name for name, part in index.items() if not len(part)]
    if empty:
        raise DataError(
            f"every split must have a row: {len(rows)} rows leave none for {', '.join(empty)}; "
            "change data.test_fraction and data.validation_fraction or bring more rows"
        )
    return index
