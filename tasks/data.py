"""Stage 1: load rows and save three splits; for a model that was trained elsewhere, all rows are test rows."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from tasks.datasets.given import GivenRows, prepare_given
from tasks.datasets.prepare import prepare_splits
from tasks.records import Splits, TrainedModel
from tasks.savedmodel.adopted import leave_out
from tasks.stage import stage
from tasks.store.shared_rows import share_rows
from tasks.training.process import call


@stage
def prepare_data(config: Config, run_dir: Path) -> Splits:
    """Load, check and split the rows in the TensorFlow process, because a user's module may import TensorFlow."""
    splits = call(prepare_splits, config.data, run_dir / "data")
    share_rows(config, splits)
    return splits


@stage
def prepare_rows(config: Config, rows: GivenRows, given: TrainedModel, signature: str, run_dir: Path) -> Splits:
    """Read the rows to judge, without those that the given model was trained on, as far as they are known."""
    splits = call(prepare_given, config.data, config.gates, rows, run_dir / "data")
    if splits.trained_on:
        splits = call(leave_out, config, splits, given.keras_file, signature)
    share_rows(config, splits)
    return splits
