"""The page that a reviewer decides on: one file that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import jinja2
from markupsafe import Markup

from configs.schema import Config
from tasks.records import Splits, TrainedModel, ValidationReport
from tasks.report.data import data_lines, splits_table
from tasks.report.pictures import answer_pictures, change_pictures, latency_pictures, training_pictures
from tasks.report.sections import (
    Table,
    config_yaml,
    latency_table,
    log_tail,
    probes_table,
    provenance_lines,
    replay_tables,
    server_lines,
    slices_table,
    worst_table,
)
from tasks.report.tables import beside, clip, file_size, gate_rows, signature_difference


def render_page(  # noqa: PLR0913, PLR0917  (everything that a page is made of)
    config: Config,
    splits: Splits,
    trained: TrainedModel,
    report: ValidationReport,
    facts: Mapping[str, str],
    decision: Markup | None = None,
    differences: Table | None = None,
) -> str:
    """Return the report as one HTML document without any reference to the outside.

    Args:
        facts: further lines of the provenance table, such as the commit and the versions of libraries; those that
            are http(s) addresses become links.
        decision: what has become of the candidate until now (standing.py).
        differences: in what its run differs from the champion's, None without a champion.
    """
    served = report.served
    html = _template().render(
        name=report.candidate.name,
        version=report.candidate.version,
        passed=report.passed,
        why=why(report),
        decision=decision or "",
        differences=differences,
        held_against=_held_against(report),
        gates=[list(rows) for _, rows in groupby(gate_rows(report), key=lambda row: row.gate)],
        with_champion=report.champion is not None or any(gate.champion for gate in report.gates),
        training=list(training_pictures(trained)),
        answers=list(answer_pictures(config, report)),
        change=list(change_pictures(report)),
        latency=list(latency_pictures(report)),
        latency_table=latency_table(served.latency) if served and served.latency else None,
        splits=splits_table(splits),
        data=data_lines(report),
        slices=slices_table(report),
        worst=worst_table(report),
        probes=probes_table(report),
        replay=replay_tables(report),
        signature=_signature_table(report),
        server=server_lines(served) if served else {},
        log=_server_log(report),
        provenance=provenance_lines(splits, trained, report, facts),
        config=config_yaml(config),
    )
    return html.encode("utf-8", "replace").decode()  # a file's name may hold what UTF-8 cannot write


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))


def why(report: ValidationReport) -> str:
    """Return the reason of the verdict in one line."""
    if report.passed:
        several = len(report.gates) > 1
        passed = f"All {len(report.gates)} gates passed." if several else "The only gate passed."
        return f"{passed} A person must decide: {clip(report.needs_person, 600)}." if report.needs_person else passed
    if not report.gates:
        return "No gate judged this version, so it is not approved."
    failed = " ".join(report.why_rejected.split())
    return f"{len(report.failed)} of {len(report.gates)} gates failed. {clip(failed, 600)}"


def _held_against(report: ValidationReport) -> str:
    """Return in one line what was judged, by which server and compared with which version."""
    parts = [file_size(report.candidate.size_bytes), f"{report.graph.parameters:,} weights"]
    if report.served is None:
        refused = ", ".join(f"refused by {gate.evidence['server']}" for gate in report.refusals)
        parts.append(refused or "not loaded by any server")
    else:
        server = report.served.server
        by = server.image or (f"the server at {server.url}" if server.url else "the embedded server")
        parts.append(f"{report.served.rows:,} test rows served by {by}")
    parts.append(beside(report))
    return " · ".join(clip(part, 200) for part in parts)


def _server_log(report: ValidationReport) -> str:
    """Return the end of the log of each server that refused the candidate, else of the one that served it."""
    refusals = "\n\n".join(str(gate.evidence["log"]) for gate in report.refusals)
    return refusals or (log_tail(report.served.server.log) if report.served else "")


def _signature_table(report: ValidationReport) -> Table:
    """Return the signature, next to the champion's where one was served."""
    champion = report.served.champion if report.served else None
    ours = report.served.signature if report.served else report.candidate.signature
    found = signature_difference(ours, champion.signature if champion else None)
    if champion is None:
        return Table("Inputs and outputs", ("name", "candidate"), tuple(row[:2] for row in found))
    rows = tuple((*row, "same" if row[1] == row[2] else "DIFFERENT") for row in found)
    return Table("Inputs and outputs", ("name", "candidate", "champion", "difference"), rows)
