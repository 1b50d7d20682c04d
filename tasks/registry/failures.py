"""Log a rehearsal that gave no judgement as a failed MLflow run, with the server's own log."""

from __future__ import annotations

import logging

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import PipelineError, TrackingError
from tasks.records import Candidate
from tasks.registry.commit import git_commit
from tasks.registry.connection import connect, experiment_id, tracking_errors

log = logging.getLogger(__name__)


def log_failure(config: Config, candidate: Candidate, error: PipelineError) -> None:
    """Log why no server could judge a candidate; nothing is registered.

    MLflow being away as well is only a warning: that error is the one to report.
    """
    tags = {
        "digest": candidate.digest,
        "serving_version": str(candidate.version),
        "git_commit": git_commit(),
        "validation_status": "error",
        "error": type(error).__name__,
        "mlflow.note.content": redact(f"**{type(error).__name__}**: {error}"),  # the description on the run's page
    }
    try:
        client = connect(config)
        with tracking_errors(config.tracking.uri):
            name = f"{candidate.name} version {candidate.version}"
            run = client.create_run(experiment_id(client, config), run_name=name, tags=tags)
            client.log_text(run.info.run_id, redact(error.detail), "server.log")
            client.set_terminated(run.info.run_id, "FAILED")
    except TrackingError as exc:
        log.warning("the failed rehearsal is not in MLflow: %s", exc)
