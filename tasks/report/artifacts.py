"""What is kept of a rehearsal besides its page: files, a sample of the rows, and what its version's page says."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.loading import shown
from configs.redaction import HOW_TO_FILL_IN, MASK, redact, redacted
from configs.schema import Config
from tasks.datasets.rows import load_arrays, load_rows
from tasks.datasets.strings import plain
from tasks.program import command_name
from tasks.records import TrainedModel, ValidationReport
from tasks.report.document import report_document
from tasks.report.pictures import draw_pictures
from tasks.report.tables import beside, gate_table_markdown


def write_files(directory: Path, config: Config, trained: TrainedModel, report: ValidationReport) -> None:
    """Write the configuration, the report as data, the logs and the pictures into a directory."""
    (directory / "config.json").write_text(json.dumps(shown(config), indent=1))
    (directory / "report.json").write_text(json.dumps(redacted(report_document(report)), indent=1))
    if report.served is not None:
        log = report.served.server.log.read_text(encoding="utf-8", errors="surrogateescape")
        (directory / "server.log").write_text(redact(log), encoding="utf-8", errors="surrogateescape")
    for gate in (gate for gate in report.gates if gate.evidence.get("log")):
        (directory / f"{gate.name}.log").write_text(redact(gate.evidence["log"]), encoding="utf-8")
    draw_pictures(config, trained, report, directory)


def sample(config: Config, report: ValidationReport) -> dict[str, list[Any]]:
    """Return the first test rows as columns: inputs, targets, served and in-process answers."""
    n_rows = config.tracking.sample_rows
    groups = {
        "input": load_arrays(report.candidate.requests),
        "target": load_rows(report.candidate.targets).targets,
        "served": load_arrays(report.served.answers) if report.served else {},
        "in_process": load_arrays(report.candidate.reference),
    }
    return {
        f"{group}.{name}": plain(array[:n_rows]) for group, arrays in groups.items() for name, array in arrays.items()
    }


def describe_version(arguments: str, report: ValidationReport) -> str:
    """Return the part of a version's page in MLflow that never changes, as markdown: how to try it, and the gates."""
    candidate = report.candidate
    lines = [
        gate_table_markdown(report),
        f"Digest `{candidate.digest[:12]}`, {beside(report)}. To try it, run "
        f"`{command_name('flows.try_out')} {arguments} --version {candidate.version}`.",
    ]
    text = redact("\n".join(lines))
    return f"{text}\n\n{MASK} is a secret: {HOW_TO_FILL_IN}" if MASK in text else text


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a figure can depend on."""
    return {name: version(name) for name in ("tensorflow", "keras", "numpy", "mlflow", "prefect")}
