"""Stage 1: rows in, three saved splits out."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.policy import stage
from tasks.records import Splits
from tasks.training.process import call


@stage
def prepare_data(config: Config, run_dir: Path) -> Splits:
    """Load, check and split the rows; in the TensorFlow process, for a user's module may import it."""
    return call(prepare_splits, config.data, run_dir / "data")
