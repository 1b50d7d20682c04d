"""Format what the terminal shows at the end of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from configs.redaction import HOW_TO_FILL_IN, MASK, redact
from configs.schema import Config
from tasks.outcomes import GREEN, RED, Outcome, PromotionState
from tasks.production.server import start_command
from tasks.program import command_here, short_path
from tasks.records import ValidationReport
from tasks.registry.pages import run_url, version_url
from tasks.report.standing import WAITING

LOCAL_PAGES = "http://127.0.0.1:5000"  # where `mlflow ui` serves them


def summary(config: Config, arguments: str, outcome: Outcome, *, colour: bool = False) -> str:
    """Return the seconds of the stages, the figures of the gates, the paths of the version, and the next commands.

    Args:
        arguments: `--config FILE` and overrides, for the commands. colour: for a terminal.
    """
    report, promotion = outcome.report, outcome.promotion
    candidate = report.candidate

    def painted(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text

    width = max(len(gate.name) for gate in report.gates)
    verdicts = [painted("pass    ", GREEN) if gate.passed else painted("FAIL    ", RED) for gate in report.gates]
    text = "\n".join(
        [
            "",
            "stage             seconds",
            *(f"  {name:<16} {seconds:6.1f}" for name, seconds in outcome.seconds.items()),
            "",
            _judged_by(report),
            "",
            f"{'gate':<{width + 2}} verdict  figures",
            *(
                f"  {gate.name:<{width}} {verdict} {gate.summary}"
                for gate, verdict in zip(report.gates, verdicts, strict=True)
            ),
            "",
            painted(
                f"{candidate.name} version {candidate.version} {promotion.state}: {promotion.reason}",
                promotion.state.colour,
            ),
            f"  digest    {candidate.digest}",
            f"  candidate {short_path(candidate.version_dir)} ({candidate.size_bytes:,} bytes)",
            f"  live      {short_path(promotion.live_dir) if promotion.live_dir else 'unchanged'}",
            f"  MLflow    {outcome.run.registry_name}, registry version {outcome.run.registry_version}",
            "",
            "next",
            *_commands(config, arguments, outcome),
        ]
    )
    text = redact(text)
    return f"{text}\n  {MASK}       is a secret: {HOW_TO_FILL_IN}" if MASK in text else text


def _judged_by(report: ValidationReport) -> str:
    """Return which server judged, how fast, and which version it was compared with."""
    served = report.served
    if served is None:
        refused = ", ".join(f"refused by {gate.evidence['server']}" for gate in report.refusals)
        return refused or "judged by its files only; no server loaded it"
    server = served.server
    beside = f", compared with version {report.champion.version}, which is live" if report.champion else ""
    return (
        f"judged by {' '.join(filter(None, (server.backend, server.image)))}: AVAILABLE after "
        f"{server.startup_s:.2f} s, {served.rows} rows at {served.rows_per_s:,.0f} rows/s{beside}"
    )


def _commands(config: Config, arguments: str, outcome: Outcome) -> list[str]:
    """Return the commands that a user may need next, ready to be copied."""
    mlflow = f"{short_path(Path(sys.executable).parent)}/mlflow"
    run, pages = outcome.run, config.tracking.uri
    lines = []
    if not run.url:  # a database serves no pages
        lines, pages = [f"  pages     {mlflow} ui --backend-store-uri {_uri(pages)}"], LOCAL_PAGES
    lines.append(f"  review    {run_url(pages, run.experiment_id, run.mlflow_run_id)}")
    if outcome.promotion.state in WAITING:
        lines.append(f"  decide    {version_url(pages, run.registry_name, run.registry_version)}")
    version = f"{arguments} --version {outcome.report.candidate.version}"
    if outcome.report.served is not None and outcome.promotion.live_dir is None:
        lines.append(f"  try it    {command_here('flows.try_out')} {version}")
    state, live_url = outcome.promotion.state, config.promote.live_url
    if state in (PromotionState.AWAITING_REVIEW, PromotionState.NOT_PROMOTED, PromotionState.ROLLED_BACK):
        lines.append(f"  approve   {command_here('flows.promote')} {version} --approve --by NAME")
    if state is PromotionState.CANARY:
        lines.append(f"  stable    {command_here('flows.promote')} {arguments} --to stable")
    if outcome.promotion.live_dir is None or outcome.report.served is None:
        return lines
    if outcome.report.champion is not None and state is PromotionState.PROMOTED:
        lines.append(f"  undo      {command_here('flows.rollback')} {arguments}")
    example = outcome.report.candidate.requests.with_name("example.json")
    url = f"{live_url or 'localhost:8501'}/v1/models/{config.name}"
    if config.promote.layout == "labels":  # without a label, the highest version answers, even if it is the canary
        url += f"/labels/{'canary' if state == 'canary' else 'stable'}"
    if not live_url:  # else production is running and has just been verified
        lines.append(f"  serve     {start_command(config, outcome.report.served.server)}")
    return [*lines, f"  ask       curl -d @{short_path(example)} {url}:predict"]


def _uri(uri: str) -> str:
    prefix = "sqlite:///"
    return f"{prefix}{short_path(Path(uri.removeprefix(prefix)))}" if uri.startswith(prefix) else shlex.quote(uri)
