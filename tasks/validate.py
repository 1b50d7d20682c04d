"""Stage 4: the verdict on what a real server answered."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from tasks.gates.judge import judge
from tasks.policy import stage
from tasks.records import Candidate, ValidationReport
from tasks.serving.rehearse import rehearse


@stage
def validate_serving(config: Config, candidate: Candidate, run_dir: Path) -> ValidationReport:
    """Serve the candidate from a throwaway server and judge its answers; a failed gate is a value."""
    served = rehearse(config.serving, candidate, run_dir)
    return ValidationReport(candidate, served, judge(config.gates, candidate, served))
