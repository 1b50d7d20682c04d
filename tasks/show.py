"""Shows the verdict and the gates of a rehearsal on Prefect's pages, with a link to MLflow."""

from __future__ import annotations

from dataclasses import asdict

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from configs.redaction import redact, redacted
from tasks.outcomes import Promotion
from tasks.records import Leaderboard, TrackedRun, ValidationReport
from tasks.report.tables import GateRow, gate_rows, gate_table_markdown, leaderboard_rows
from tasks.stage import artifact_key, stage


@stage
def show_run(report: ValidationReport, run: TrackedRun, promotion: Promotion) -> None:
    """Add a markdown, a table and, if MLflow has pages, a link artifact to the flow run."""
    candidate = report.candidate
    key = artifact_key(candidate.name)
    title = f"{candidate.name} version {candidate.version} {promotion.state}"
    digest = f"digest `{candidate.digest}`"
    markdown = f"# {title}\n\n{_what_happened(promotion)}\n\n{gate_table_markdown(report)}\n\n{digest}"
    create_markdown_artifact(redact(markdown), key=f"{key}-verdict", description=title)
    rows = [redacted(_table_row(row)) for row in gate_rows(report)]
    create_table_artifact(rows, key=f"{key}-gates", description=f"Gates of {title}")
    if run.url:
        create_link_artifact(run.url, link_text="MLflow run", key=f"{key}-mlflow", description=f"MLflow run of {title}")


@stage
def show_leaderboard(name: str, board: Leaderboard) -> None:
    """Add a table artifact with a line for each variant of a sweep."""
    best = board.winner
    title = (
        f"Variants of {name} by {board.metric}: the best is {best.words}" if best else f"Variants of {name}: all failed"
    )
    rows = [redacted(row) for row in leaderboard_rows(board)]
    create_table_artifact(rows, key=f"{artifact_key(name)}-leaderboard", description=redact(title))


def _table_row(row: GateRow) -> dict[str, str]:
    """Return a row of the gate table with the gate's long summary last, so that the figures stay visible."""
    figure, summary = (row.value, "") if row.figure else ("", row.value)
    shown = {key: value for key, value in asdict(row).items() if isinstance(value, str)}
    return {**shown, "value": figure, "summary": summary}


@stage
def show_change(name: str, title: str, promotion: Promotion) -> None:
    """Add a markdown artifact that says what was changed in production."""
    markdown = f"# {title}: {promotion.state}\n\n{_what_happened(promotion)}"
    create_markdown_artifact(redact(markdown), key=f"{artifact_key(name)}-production", description=title)


def _what_happened(promotion: Promotion) -> str:
    metrics = f"\n\nProduction's metrics: {promotion.metrics}" if promotion.metrics else ""
    return f"{promotion.reason}{metrics}"
