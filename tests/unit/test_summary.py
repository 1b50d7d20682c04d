"""The end of a run at the terminal: where to look, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import Config
from flows.summary import summary
from tasks.outcomes import Outcome, Promotion, PromotionState
from tasks.records import (
    Candidate,
    GateResult,
    GraphFacts,
    Signature,
    TrackedRun,
    ValidationReport,
)

SERVER, DATABASE = "https://mlflow.example", "sqlite:////data/mlflow.db"
MENU = "?workflowType=machine_learning"


def shown(state: str, uri: str, metrics: str = "") -> list[str]:
    """Return the lines for a candidate 3 that MLflow registered as version 7."""
    config = Config.model_validate(
        {"name": "digits", "data": {"load": "m:load"}, "model": {"build": "m:build"}, "tracking": {"uri": uri}}
    )
    path = Path("/nowhere")
    report = ValidationReport(
        Candidate("digits", 3, path, "c9" * 32, Signature((), ()), 1, path, path, path),
        GraphFacts((), (), 0, 0, 0, 0),
        None,
        (GateResult("safety", True, "fine"),),
    )
    page = f"{uri}/#/experiments/1/runs/abc{MENU}" if uri == SERVER else ""
    run = TrackedRun("abc", "1", "digits", 7, page)
    outcome = Outcome(report, run, Promotion(PromotionState(state), None, "why", metrics=metrics), {})
    return [line.plain for line in summary(config, "--config cfg.yaml", outcome)]


def test_the_link_leads_to_the_run_and_the_version() -> None:
    """A server's pages are linked at once; beside each number stands what it counts."""
    lines = shown("awaiting review", SERVER)
    assert "digits version 3 awaiting review: why" in lines
    assert "  MLflow    digits, registry version 7" in lines
    assert f"  review    {SERVER}/#/experiments/1/runs/abc{MENU}" in lines
    assert f"  decide    {SERVER}/#/models/digits/versions/7{MENU}" in lines
    assert any(line.startswith("  approve   ") and line.endswith("--version 3 --approve --by NAME") for line in lines)


def test_productions_metrics_are_shown_if_they_were_read() -> None:
    """They have a line of their own below the live directory."""
    lines = shown("rolled back", SERVER, "http://h:8501 in 4.2 s: 8 requests, no errors")
    assert "  metrics   http://h:8501 in 4.2 s: 8 requests, no errors" in lines
    assert not any(line.startswith("  metrics ") for line in shown("rolled back", SERVER))


def test_a_database_is_shown_by_a_command_and_an_address() -> None:
    """A database has no pages: the command that serves them is followed by where the run will be."""
    lines = shown("awaiting review", DATABASE)
    [command] = [line for line in lines if line.startswith("  pages     ")]
    assert command.endswith(f"mlflow ui --backend-store-uri {DATABASE}")
    assert f"  review    http://127.0.0.1:5000/#/experiments/1/runs/abc{MENU}" in lines
    assert f"  decide    http://127.0.0.1:5000/#/models/digits/versions/7{MENU}" in lines


@pytest.mark.parametrize("state", ["promoted", "rejected", "canary"])
def test_what_is_decided_asks_for_no_decision(state: str) -> None:
    """Only a version that waits has a line for deciding."""
    lines = shown(state, SERVER)
    assert not [line for line in lines if line.startswith(("  decide ", "  approve "))]
