"""Log a sweep as one MLflow run with a child run for each variant, failed ones included."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from configs.loading import shown
from configs.redaction import redact, redacted
from configs.schema import Config
from tasks.records import ComparedVariant, Leaderboard, Splits, SweepRun, TrackedRun
from tasks.registry.commit import git_commit
from tasks.registry.connection import connect, experiment_id, tracking_errors
from tasks.registry.names import tracked_name
from tasks.registry.pages import run_url
from tasks.registry.runs import closing_run, log_metrics, log_params
from tasks.report.plots import draw_leaderboard
from tasks.report.tables import leaderboard_markdown

log = logging.getLogger(__name__)

PICTURE, TABLE = "leaderboard.png", "leaderboard.json"
SCORE = "validation."  # else it would be one metric with a curve of the same name, whose last epoch MLflow shows
PARENT = "mlflow.parentRunId"  # makes MLflow's pages show a run below another one


def log_sweep(config: Config, board: Leaderboard, splits: Splits) -> SweepRun:
    """Log the leaderboard, with a picture, and each variant with its parameters, metrics, version and outcome.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client, winner = connect(config), board.winner
    tags = {
        "sweep": config.name,
        "metric": board.metric,
        "data_digest": splits.digest,
        "git_commit": git_commit(),
        "variants": str(len(board.variants)),
        "failed_variants": str(len(board.failed)),
        "winner": f"version {winner.version}: {winner.words}" if winner else "",
        "mlflow.note.content": leaderboard_markdown(board),  # the description on the run's page
    }
    with tracking_errors(config.tracking.uri):
        experiment = experiment_id(client, config)
        plain = {name: redact(value) for name, value in tags.items() if value}
        parent = client.create_run(experiment, run_name=f"sweep of {config.name}", tags=plain).info.run_id
        with closing_run(client, parent, failed=winner is None):
            log_params(client, parent, shown(config))
            if winner is not None and winner.score is not None:
                client.log_metric(parent, tracked_name(f"{SCORE}{board.metric}"), winner.score)
            with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
                draw_leaderboard(board, Path(scratch) / PICTURE)
                client.log_artifacts(parent, scratch)
            client.log_dict(parent, {"metric": board.metric, "variants": _rows(board)}, TABLE)
            for variant in board.variants:
                _log_variant(client, experiment, parent, board, variant)
    return SweepRun(parent, run_url(config.tracking.pages, experiment, parent))


def _rows(board: Leaderboard) -> list[dict[str, Any]]:
    kept = ("number", "version", "score", "parameters", "seconds", "reason")
    return [
        {**{name: getattr(one, name) for name in kept}, "values": redacted(one.values, named=True)}
        for one in board.variants
    ]


def _log_variant(client: Any, experiment: str, parent: str, board: Leaderboard, variant: ComparedVariant) -> None:
    tags = {
        PARENT: parent,
        "variant": str(variant.number),
        "serving_version": str(variant.version or ""),
        "variant_status": "failed" if variant.score is None else "winner" if variant is board.winner else "compared",
        "reason": variant.reason,
    }
    plain = {name: redact(value)[:5000] for name, value in tags.items() if value}
    name = f"variant {variant.number}: {variant.words}"[:250]
    mlflow_run_id = client.create_run(experiment, run_name=name, tags=plain).info.run_id
    with closing_run(client, mlflow_run_id, failed=variant.score is None):
        figures = {"parameters": float(variant.parameters), "training_seconds": variant.seconds}
        if variant.score is not None:
            figures[f"{SCORE}{board.metric}"] = variant.score
        log_metrics(client, mlflow_run_id, variant.history, figures if variant.history else {})
        log_params(client, mlflow_run_id, redacted(variant.values, named=True))


def note_outcome(config: Config, sweep: SweepRun, judged: TrackedRun, state: str) -> None:
    """Show the run of the judged winner below the sweep's, and what became of it.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        client.set_tag(judged.mlflow_run_id, PARENT, sweep.mlflow_run_id)
        client.set_tag(sweep.mlflow_run_id, "outcome", state)
