"""The gates and the signature as tables."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from configs.redaction import redact
from tasks.records import GateResult, Leaderboard, Signature, TensorSpec, ValidationReport

MOST_FIGURES = 40  # of one gate; every figure is in the run


@dataclass(frozen=True)
class GateRow:
    """One line of the gate table.

    Attributes:
        gate: its name. verdict: `pass` or `FAIL`.
        figure: name of the figure; empty in a gate's first row, whose value is what the gate says besides its figures.
        value, bound, champion: text, with the unit; empty where there is none.
        missed: whether the figure is beyond its bound. meaning: of the figure, in a few words, or empty.
    """

    gate: str
    verdict: str
    figure: str
    value: str
    bound: str
    champion: str
    missed: bool = False
    meaning: str = ""


MEANINGS = {
    "reaching_out": "operations that reach outside the graph, such as those that read or write files",
    "graph_mb": "size of saved_model.pb",
    "variables_mb": "size of the weights' files",
    "size_mb": "all files of the version",
    "parameters": "elements of all weights",
    "ratio": "size beside the champion's",
    "differences": "inputs and outputs that are not served as they were exported, or break the champion's clients",
    "breaking": "changes that clients of the champion would notice: a removed input or output, an added input, another "
    "dtype or shape",
    "max_abs_difference": "largest difference of one number",
    "rows_differing": "rows with a difference beyond the tolerance",
    "batch_sizes": "batch sizes that were tried",
    "rows_seen": "test rows that the champion was trained or validated on",
    "rows_unseen": "test rows that it was not",
    "cold_ms": "first request after loading",
    "memory_mb": "memory of the server with this version alone",
    "p50_ms": "half of the requests took no longer",
    "p95_ms": "95% of the requests took no longer",
    "p99_ms": "99% of the requests took no longer",
    "p95_ratio": "p95 beside the champion's",
    "cases": "requests that were sent",
    "failed": "requests that were not answered as they should be",
    "wrong": "answers that are not the validated ones of either version",
    "stale": "answers of a version that had been replaced before",
    "p99_before_ms": "99% of the requests took no longer, before the change",
    "p99_change_ms": "the same during the change",
    "p99_rollback_ms": "the same during the rollback",
    "p99_ratio": "the larger of these two beside the one before",
    "change_s": "from the rename, or the move of the label, to the first answer of the candidate",
    "rollback_s": "from the rollback to the first answer of the champion",
    "peak_mb": "most memory of the server, with both versions loaded for a moment",
    "capacity_per_s": "highest rate of independent requests that keeps the bound of p99",
    "refused": "recorded requests that only the candidate refused",
    "refused_by_both": "recorded requests that both versions refused",
    "skipped": "recorded requests that could not be sent",
    "flips": "share of recorded rows whose decision differs from the champion's",
    "flips_worst_slice": "the largest such share in one slice",
    "not_finite": "rows that only the candidate answered with NaN or infinity",
    "psi": "largest population stability index of an input",
}
"""What the figures with a fixed name are."""


def gate_rows(report: ValidationReport) -> list[GateRow]:
    """Return the gate table: what each gate says, then its figures, those with a bound or a champion's beside them.

    A gate without such figures shows all that it has. A figure appears once: in its own row, or in the gate's first.
    """
    return [row for gate in failed_first(report) for row in _rows(gate)]


def failed_first(report: ValidationReport) -> list[GateResult]:
    """Return the gates with those that failed at the top, where a reader begins."""
    return sorted(report.gates, key=lambda gate: gate.passed)


def _rows(gate: GateResult) -> Iterator[GateRow]:
    verdict = "pass" if gate.passed else "FAIL"
    compared = [name for name in gate.figures if name in gate.bounds or name in gate.champion]
    names = compared or list(gate.figures)
    said = gate.summary if gate.note is None or not names else gate.note
    yield GateRow(gate.name, verdict, "", clip(said, 800), "", "")
    missed = gate.evidence.get("missed", ())
    for name in names[:MOST_FIGURES]:
        unit = gate.units.get(name, "")
        champion = number(gate.champion[name], unit) if name in gate.champion else ""
        yield GateRow(
            gate.name, verdict, clip(name, 120), number(gate.figures[name], unit), _bound(gate, name), champion,
            name in missed, MEANINGS.get(name, ""),
        )  # fmt: skip
    if len(names) > MOST_FIGURES:
        yield GateRow(gate.name, verdict, f"and {len(names) - MOST_FIGURES} more figures", "", "", "")


def _bound(gate: GateResult, name: str) -> str:
    """Return a figure's bound, with the figure's unit where the bound is one number."""
    bound, unit = gate.bounds.get(name, ""), gate.units.get(name, "")
    return f"{bound} {unit}" if unit and re.fullmatch(r"at (most|least) [\d.e+-]+", bound) else bound


def gate_table_markdown(report: ValidationReport) -> str:
    """Return the gates as a GitHub-flavoured markdown table, a line a gate."""
    lines = ["| gate | verdict | figures |", "|---|---|---|"]
    for gate in failed_first(report):
        cells = (gate.name, "pass" if gate.passed else "FAIL", clip(gate.summary, 300))
        lines.append(f"| {' | '.join(_cell(text) for text in cells)} |")
    return "\n".join(lines) + "\n"


def leaderboard_rows(board: Leaderboard) -> list[dict[str, str]]:
    """Return a line for each variant of a sweep, the best first; the last column says why one failed."""
    winner = board.winner
    return [
        {
            "variant": f"{variant.number}: {variant.words}",
            "version": str(variant.version or ""),
            board.metric or "score": "" if variant.score is None else f"{variant.score:.6g}",
            "parameters": f"{variant.parameters:,}" if variant.parameters else "",
            "seconds": f"{variant.seconds:.1f}" if variant.seconds else "",
            "outcome": "winner" if variant is winner else f"failed: {variant.reason}" if variant.reason else "",
        }
        for variant in board.variants
    ]


def leaderboard_markdown(board: Leaderboard) -> str:
    """Return the variants of a sweep as a GitHub-flavoured markdown table, the best first."""
    rows = leaderboard_rows(board)
    lines = [f"| {' | '.join(map(_cell, rows[0]))} |", f"|{'---|' * len(rows[0])}"]
    lines += [f"| {' | '.join(_cell(clip(text, 300)) for text in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return text for one markdown cell, with markup escaped."""
    one_line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\|`*\[\]~])", r"\\\1", one_line)


def signature_difference(candidate: Signature, champion: Signature | None) -> list[tuple[str, str, str]]:
    """Compare a signature with the champion's.

    Returns:
        (name, candidate's, champion's) of every input and output that either has, such as
        `("input pixels", "float32 (?, 64)", "")`; empty where one lacks it.
    """
    other = champion or Signature((), ())
    rows = []
    for kind, ours, theirs in (
        ("input", candidate.inputs, other.inputs),
        ("output", candidate.outputs, other.outputs),
    ):
        mine, its = ({spec.name: _tensor(spec) for spec in specs} for specs in (ours, theirs))
        rows += [(f"{kind} {name}", mine.get(name, ""), its.get(name, "")) for name in {**mine, **its}]
    return rows


def _tensor(spec: TensorSpec) -> str:
    return str(spec).removeprefix(f"{spec.name}: ")


def beside(report: ValidationReport) -> str:
    """Return which version the candidate was compared with, in a few words."""
    if report.champion is None:
        return "no other version was live"
    compared = report.compared_with is not None
    return f"{'compared' if compared else 'not compared'} with version {report.champion.version}"


def number(value: float, unit: str = "") -> str:
    """Return a figure for people: four significant digits, thousands apart, its unit behind it."""
    if not math.isfinite(value):
        text = "not a number" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    elif value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}"
    else:
        text = f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{text} {unit}".rstrip()


def file_size(n_bytes: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} GB"


def clip(text: str, most: int) -> str:
    """Return text of at most `most` characters without secrets; what was cut shows as an ellipsis."""
    text = redact(text)  # before a cut leaves half of one
    return text if len(text) <= most else f"{text[: most - 1]}…"
