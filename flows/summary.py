"""Format what the terminal shows at the end of a run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from configs.redaction import HOW_TO_FILL_IN, MASK, redact
from configs.schema import Config
from flows.console import Line
from tasks.outcomes import GREEN, RED, YELLOW, Outcome, PromotionState
from tasks.production.server import start_command
from tasks.program import command_here, short_path
from tasks.proof.directory import kept_statement
from tasks.records import GateResult, Leaderboard, SweepRun, ValidationReport
from tasks.registry.pages import run_url, version_url
from tasks.report.standing import WAITING
from tasks.report.tables import beside, leaderboard_rows
from tasks.savedmodel.resumed import resumed_words

LOCAL_PAGES = "http://127.0.0.1:5000"  # where `mlflow ui` serves them


def summary(config: Config, arguments: str, outcome: Outcome) -> list[Line]:
    """Return the seconds of the stages, the figures of the gates, the paths of the version, and the next commands.

    Args:
        arguments: `--config FILE` and overrides, for the commands.
    """
    report, promotion = outcome.report, outcome.promotion
    candidate, run = report.candidate, outcome.run
    width = max(len(gate.name) for gate in report.gates)
    live = short_path(promotion.live_dir) if promotion.live_dir else "unchanged"
    resumed = resumed_words(candidate.version_dir)
    if promotion.live_dir and config.object_store:
        live = f"{config.object_store}/{config.name}, of which {live} is the mirror"
    proof = kept_statement(config.live_dir, candidate.digest) if promotion.live_dir else None
    verdict = f"{candidate.name} version {candidate.version} {promotion.state}: {promotion.reason}"
    lines = [
        Line(),
        Line("stage             seconds"),
        *(Line(f"  {name:<16} {seconds:6.1f}") for name, seconds in outcome.seconds.items()),
        Line(),
        Line(_judged_by(report)),
        Line(),
        Line(f"{'gate':<{width + 2}} verdict  figures"),
        *(judgement(gate, width) for gate in report.gates),
        Line(),
        Line(verdict, colour=promotion.state.colour),
        Line(candidate.digest, "  digest    "),
        Line(f"{short_path(candidate.version_dir)} ({candidate.size_bytes:,} bytes)", "  candidate "),
        *([Line(resumed, "  training  ")] if resumed else []),
        Line(live, "  live      "),
        *([Line(promotion.metrics, "  metrics   ")] if promotion.metrics else []),
        *([Line(str(proof), "  proof     ")] if proof else []),
        Line(f"{run.registry_name}, registry version {run.registry_version}", "  MLflow    "),
        Line(),
        Line("next"),
        *_next(config, arguments, outcome),
    ]
    lines = [replace(line, text=redact(line.text), command=redact(line.command)) for line in lines]
    hidden = any(MASK in line.plain for line in lines)
    return [*lines, Line(f"is a secret: {HOW_TO_FILL_IN}", f"  {MASK}       ")] if hidden else lines


def leaderboard(board: Leaderboard, run: SweepRun) -> list[Line]:
    """Return a line for each variant of a sweep, the best first, and the name of the winner."""
    rows = leaderboard_rows(board)
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0] if name != "outcome"}
    lines = [Line(), Line("  ".join(f"{name:<{width}}" for name, width in widths.items()))]
    for row, variant in zip(rows, board.variants, strict=True):
        label = "  ".join(f"{row[name]:<{width}}" for name, width in widths.items())
        colour = GREEN if variant is board.winner else RED if variant.reason else ""
        lines.append(Line(redact(row["outcome"]), f"{redact(label)}  ", colour=colour))
    lines += [Line(run.url, "leaderboard ")] if run.url else []
    return lines


def judgement(gate: GateResult, width: int) -> Line:
    """Return the line of one gate; `width` is that of the longest name."""
    word, colour = ("pass", GREEN) if gate.passed else ("FAIL", RED)
    if gate.passed and gate.needs_person:
        colour = YELLOW
    return Line(gate.summary, f"  {gate.name:<{width}} {word:<8} ", colour=colour)


def _judged_by(report: ValidationReport) -> str:
    """Return which server judged, how fast, and which version it was compared with."""
    served = report.served
    if served is None:
        refused = ", ".join(f"refused by {gate.evidence['server']}" for gate in report.refusals)
        return refused or "judged by its files only; no server loaded it"
    server = served.server
    compared = report.champion and f", {beside(report)}, which is live"
    return (
        f"judged by {server}: AVAILABLE after "
        f"{server.startup_s:.2f} s, {served.rows} rows at {served.rows_per_s:,.0f} rows/s{compared or ''}"
    )


def _next(config: Config, arguments: str, outcome: Outcome) -> list[Line]:
    """Return the addresses and commands that a user may need next, ready to be copied."""
    mlflow = f"{short_path(Path(sys.executable).parent)}/mlflow"
    run, pages = outcome.run, config.tracking.pages
    lines = []
    if not run.url:  # a database serves no pages
        lines, pages = [_command("pages", f"{mlflow} ui --backend-store-uri {_uri(pages)}")], LOCAL_PAGES
    lines.append(Line(run_url(pages, run.experiment_id, run.mlflow_run_id), "  review    "))
    if outcome.promotion.state in WAITING:
        lines.append(Line(version_url(pages, run.registry_name, run.registry_version), "  decide    "))
    version = f"{arguments} --version {outcome.report.candidate.version}"
    if outcome.report.served is not None and outcome.promotion.live_dir is None:
        lines.append(_command("try it", f"{command_here('flows.try_out')} {version}"))
    state, addresses = outcome.promotion.state, config.promote.live_addresses
    key = " --key KEY" if config.promote.approvers else ""
    if state in (PromotionState.AWAITING_REVIEW, PromotionState.NOT_PROMOTED, PromotionState.ROLLED_BACK):
        lines.append(_command("approve", f"{command_here('flows.promote')} {version} --approve --by NAME{key}"))
    if state is PromotionState.CANARY:
        lines.append(_command("stable", f"{command_here('flows.promote')} {arguments} --to stable"))
    if outcome.promotion.live_dir is None or outcome.report.served is None:
        return lines
    if outcome.report.champion is not None and state is PromotionState.PROMOTED:
        lines.append(_command("undo", f"{command_here('flows.rollback')} {arguments}"))
    example = outcome.report.candidate.requests.with_name("example.json")
    over_rest = [address for address in addresses if address.startswith("http")]
    url = f"{over_rest[0] if over_rest else 'localhost:8501'}/v1/models/{config.name}"
    if config.promote.layout == "labels":  # without a label, the highest version answers, even if it is the canary
        url += f"/labels/{'canary' if state is PromotionState.CANARY else 'stable'}"
    if not addresses:  # else production is running and has just been verified
        lines.append(_command("serve", start_command(config, outcome.report.served.server)))
    if over_rest or not addresses:
        lines.append(_command("ask", f"curl -d @{short_path(example)} {url}:predict"))
    return lines


def _command(purpose: str, command: str) -> Line:
    return Line("", f"  {purpose:<9} ", command)


def _uri(uri: str) -> str:
    prefix = "sqlite:///"
    return f"{prefix}{short_path(Path(uri.removeprefix(prefix)))}" if uri.startswith(prefix) else shlex.quote(uri)
