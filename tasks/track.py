"""Stage 5: log the rehearsal to MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from configs.schema import Config
from tasks.errors import PipelineError
from tasks.records import Candidate, Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.registry.failures import log_failure
from tasks.registry.runs import log_rehearsal
from tasks.stage import stage


@stage
def log_run(
    config: Config, arguments: str, splits: Splits, trained: TrainedModel, report: ValidationReport
) -> TrackedRun:
    """Log the run and register the files that were judged, regardless of the verdict."""
    return log_rehearsal(config, arguments, splits, trained, report)


@stage
def log_error(config: Config, candidate: Candidate, error: PipelineError) -> None:
    """Log a rehearsal that ended without a verdict."""
    log_failure(config, candidate, error)


@contextlib.contextmanager
def errors_logged(config: Config, candidate: Candidate) -> Iterator[None]:
    """Log an error of the validation to MLflow, with the server's log, and raise it again."""
    try:
        yield
    except PipelineError as exc:
        log_error(config, candidate, exc)
        raise
