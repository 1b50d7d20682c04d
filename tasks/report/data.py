"""What a reader must know about the rows: how they are split, and which of them the champion has seen."""

from __future__ import annotations

from typing import Any

from tasks.records import Splits, ValidationReport
from tasks.report.sections import MOST_ROWS, Table
from tasks.report.tables import clip

MOST_DRIFT = 20  # sentences; all of them are in splits.json


def data_lines(report: ValidationReport) -> dict[str, str]:
    """Return how many rows are in several splits, new since the champion, and left out of the comparison, if known."""
    lines = {}
    if report.shared_rows is not None:
        lines["different rows in several splits"] = f"{report.shared_rows:,}"
    if report.new_rows is not None:
        lines["different rows new since the champion"] = f"{report.new_rows:,}"
    seen = seen_rows(report)
    if seen is not None:
        lines["test rows that the champion has seen"] = f"{seen:,}, left out where the two are compared"
    if report.drift:
        lines["data compared with the champion's"] = "; ".join(report.drift[:MOST_DRIFT]) + (
            f"; and {len(report.drift) - MOST_DRIFT} more" if len(report.drift) > MOST_DRIFT else ""
        )
    return lines


def seen_rows(report: ValidationReport) -> int | None:
    """Return how many test rows the champion has seen, None where that is not known."""
    found = next((gate.figures.get("rows_seen") for gate in report.gates if gate.name == "quality"), None)
    return None if found is None else int(found)


def splits_table(splits: Splits) -> Table:
    """Return rows and label shares of each split."""
    names = tuple(splits.rows)
    rows = [("rows", *(f"{splits.rows[name]:,}" for name in names))]
    for target, labels in splits.shares.items():
        for label, shares in labels.items():
            rows.append((f"{clip(target, 60)} {clip(label, 60)}", *(f"{shares.get(name, 0):.1%}" for name in names)))
    note = "A percentage is the share of the split's rows that have the label." if len(rows) > 1 else ""
    numeric = tuple(range(1, len(names) + 1))
    return Table("Rows and labels by split", ("of each split", *names), tuple(rows[:MOST_ROWS]), numeric, note)


def data_document(splits: Splits, report: ValidationReport) -> dict[str, Any]:
    """Return the same as plain data for JSON."""
    return {
        "rows": dict(splits.rows),
        "shared_rows": report.shared_rows,
        "new_rows": report.new_rows,
        "seen_test_rows": seen_rows(report),
        "left_out_rows": splits.left_out,
        "drift": list(report.drift),
        "classes": list(splits.classes),
        "label_shares": splits.shares,
    }
