"""Stage 2: train the model, or fetch a given one."""

from __future__ import annotations

import logging
from pathlib import Path

from configs.schema import Config
from tasks.errors import TrackingError, TrackingRefused
from tasks.records import Splits, TrainedModel
from tasks.registry.connection import check_experiment, preload
from tasks.registry.fetched import fetch, find_model, is_uri
from tasks.stage import artifact_key, progress_shown, stage
from tasks.training.fit import fit_model
from tasks.training.process import submit

log = logging.getLogger(__name__)


@stage
def train_model(config: Config, splits: Splits, run_dir: Path) -> TrainedModel:
    """Build and train the model in the TensorFlow process."""
    trained = submit(fit_model, config, splits, run_dir / "model.keras")
    with progress_shown(f"{artifact_key(config.name)}-training", f"Training of {config.name}"):
        preload()  # while the other process trains
        _look_at_the_experiment(config)
        return trained()


def _look_at_the_experiment(config: Config) -> None:
    """End a training early whose run MLflow refuses; where it only does not answer, the stage that logs asks again.

    An error that may pass would make Prefect call the stage again, and train a second time.
    """
    try:
        check_experiment(config)
    except TrackingRefused:
        raise
    except TrackingError as exc:
        log.warning("%s; the training goes on, and its run is logged afterwards", exc)


@stage
def fetch_model(config: Config, model: str, run_dir: Path) -> TrainedModel:
    """Find the SavedModel directory or `.keras` file of the given model; copy it from MLflow first if it is a URI.

    Raises:
        ExportError: there is no model, or there are several.
    """
    place = fetch(config, model, run_dir / "given") if is_uri(model) else Path(model)
    return TrainedModel(find_model(place), {}, 0, 0, source=model)
