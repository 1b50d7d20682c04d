"""What the terminal shows at the end of a run."""

from __future__ import annotations

import shlex

from configs.schema import Config
from tasks.records import Outcome


def summary(config: Config, outcome: Outcome) -> str:
    """Return stages with their seconds, the gates with their figures, where the version lives, what comes next."""
    report, promotion = outcome.report, outcome.promotion
    candidate, server = report.candidate, report.served.server
    lines = ["", "stage              seconds"]
    lines += [f"  {name:<16} {seconds:>7.1f}" for name, seconds in outcome.seconds.items()]
    lines += [
        "",
        f"served by {server.backend} {server.image}".rstrip() + f", AVAILABLE after {server.startup_s:.2f} s, "
        f"{report.served.rows} rows at {report.served.rows_per_s:,.0f} rows/s",
        "",
    ]
    lines += ["gate       verdict  figures"]
    lines += [f"  {gate.name:<9} {'pass' if gate.passed else 'FAIL':<7} {gate.summary}" for gate in report.gates]
    lines += [
        "",
        f"{candidate.name} version {candidate.version} {promotion.state}: {promotion.reason}",
        f"  bytes     {candidate.digest[:16]} ({candidate.size_bytes:,} bytes)",
        f"  live      {promotion.live_dir or 'unchanged'}",
        f"  candidate {candidate.version_dir}",
        f"  registry  {outcome.run.registry_name} version {outcome.run.registry_version}, run {outcome.run.run_id}",
        "",
        "next",
        *_commands(config, outcome),
    ]
    return "\n".join(lines)


def _commands(config: Config, outcome: Outcome) -> list[str]:
    """Return the commands that a user wants now."""
    uri = config.tracking.uri
    page = outcome.run.url or f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    commands = [f"  look:   {page}"]
    if outcome.promotion.live_dir:
        name = config.name
        commands += [
            f"  serve:  docker run --rm -p 8501:8501 -e MODEL_NAME={name} "
            f"-v {shlex.quote(str(config.models_root / name))}:/models/{name}:ro {config.serving.image}",
            f"  ask:    curl localhost:8501/v1/models/{name}/metadata",
        ]
    return commands
