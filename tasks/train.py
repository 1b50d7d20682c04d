"""Stage 2: a trained model on disk."""

from __future__ import annotations

import sys
from pathlib import Path

from configs.schema import Config
from tasks.policy import stage
from tasks.records import Splits, TrainedModel
from tasks.training.fit import fit_model
from tasks.training.process import call


@stage
def train_model(config: Config, splits: Splits, run_dir: Path) -> TrainedModel:
    """Build and fit the model in the TensorFlow process."""
    return call(fit_model, config, splits, run_dir / "model.keras", show_bar=sys.stdout.isatty())
