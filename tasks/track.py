"""Stage 5: the rehearsal in MLflow."""

from __future__ import annotations

from configs.schema import Config
from tasks.policy import stage
from tasks.records import Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.registry.runs import log_rehearsal


@stage
def log_run(config: Config, splits: Splits, trained: TrainedModel, report: ValidationReport) -> TrackedRun:
    """Log the run and register exactly the bytes that were judged, whatever the verdict."""
    return log_rehearsal(config, splits, trained, report)
