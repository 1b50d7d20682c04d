"""The digits example as a benchmark needs it: many rows, and exported versions."""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from configs.digits import load
from configs.loading import load_config
from tasks.records import Candidate


def tiled(rows: int) -> tuple[Any, Any]:
    """Return digits over and over: float32 (rows, 64) and int64 (rows,)."""
    images, digits = load()
    index = np.arange(rows) % len(images)
    return images[index], digits[index]


def tiled_and_split(train: int, validation: int, test: int) -> tuple[Any, Any]:
    """Return as many digits over and over for each split as asked for; `part` says which."""
    images, digits = tiled(train + validation + test)
    part = np.repeat(["train", "validation", "test"], [train, validation, test])
    return {"features": images, "part": part}, digits


def exported(scratch: Path, versions: Mapping[int, Sequence[str]]) -> list[Candidate]:
    """Train and export each version, with overrides of the example's configuration, below `scratch`.

    It happens in a process of its own, for it loads TensorFlow.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(_export, scratch / "exported", number, found) for number, found in versions.items()]
        return [task.result() for task in tasks]


def _export(directory: Path, version: int, overrides: Sequence[str]) -> Candidate:
    from tasks.datasets.prepare import prepare_splits
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    work_dir = directory / f"of-{version}"
    config = load_config(Path("configs/digits.yaml"), [f"work_dir={work_dir}", *overrides])
    splits = prepare_splits(config.data, work_dir / "data")
    trained = fit_model(config, splits, work_dir / "model.keras")
    version_dir = directory / "digits" / str(version)
    version_dir.mkdir(parents=True)
    found = export_savedmodel(config, splits, trained, version_dir, work_dir)
    files = work_dir / "requests.npz", work_dir / "reference.npz", splits.test
    return Candidate("digits", version, version_dir, found.digest, found.signature, found.size_bytes, *files)
