"""The validation report as plain data for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.records import ValidationReport


def report_document(report: ValidationReport) -> dict[str, Any]:
    """Return the report as JSON-ready values; NaN and infinity become text."""
    return {"passed": report.passed, **_plain(dataclasses.asdict(report))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
