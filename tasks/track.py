"""Stage 5: the rehearsal in MLflow."""

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
    """Log the run and register exactly the bytes that were judged, whatever the verdict."""
    return log_rehearsal(config, arguments, splits, trained, report)


@stage
def log_error(config: Config, candidate: Candidate, error: PipelineError) -> None:
    """Log a rehearsal that gave no judgement."""
    log_failure(config, candidate, error)


@contextlib.contextmanager
def errors_logged(config: Config, candidate: Candidate) -> Iterator[None]:
    """Have an error of the validation on MLflow's pages, too, with the server's log; it is raised all the same."""
    try:
        yield
    except PipelineError as exc:
        log_error(config, candidate, exc)
        raise
