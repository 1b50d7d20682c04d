"""Stage 4: the verdict on what a real server answered, and what can be known of that server beforehand."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from tasks.gates.judge import judge
from tasks.policy import stage
from tasks.records import Backend, Candidate, ValidationReport
from tasks.registry.connection import check_tracking
from tasks.serving.launch import check_engine, choose_backends
from tasks.serving.rehearse import rehearse


@stage
def check_services(config: Config) -> None:
    """Fail now, not after an hour of training, where Docker or MLflow is needed and does not answer."""
    check_engine(config.serving)
    check_tracking(config.tracking.uri)


@stage
def fetch_servers(config: Config) -> tuple[Backend, ...]:
    """Settle which servers judge, and have their images at hand; runs beside training."""
    return choose_backends(config.serving)


@stage
def validate_serving(
    config: Config, candidate: Candidate, backends: tuple[Backend, ...], run_dir: Path
) -> ValidationReport:
    """Serve the candidate from throwaway servers and judge their answers; a failed gate is a value."""
    served = [
        rehearse(config.serving, candidate, backend, run_dir / f"server{number}")
        for number, backend in enumerate(backends, start=1)
    ]
    gates = judge(config.gates, candidate, *served, keras_names=config.export.outputs)
    return ValidationReport(candidate, served[0], gates)
