"""What is known of a judged candidate, kept beside it: for its approval, its live verification, its way back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.errors import StoreError
from tasks.records import Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.store.journal import make_directory, write_atomically

KEPT = ".rehearsals"


@dataclass(frozen=True)
class Rehearsed:
    """One rehearsal, up to its run in MLflow."""

    splits: Splits
    trained: TrainedModel
    report: ValidationReport
    run: TrackedRun


def keep(candidates_dir: Path, rehearsed: Rehearsed) -> None:
    """Write a rehearsal down under its candidate's digest; a later one of the same bytes replaces it."""
    path = _path(candidates_dir, rehearsed.report.candidate.digest)
    make_directory(path.parent)
    write_atomically(path, json.dumps(asdict(rehearsed), default=str))


def recall(candidates_dir: Path, digest: str) -> Rehearsed | None:
    """Return the last rehearsal of these bytes, or None.

    Raises:
        StoreError: what was kept cannot be read.
    """
    path = _path(candidates_dir, digest)
    try:
        return TypeAdapter(Rehearsed).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise StoreError(f"'{path}' must hold a rehearsal, got {reason}; run the rehearsal again") from exc


def _path(candidates_dir: Path, digest: str) -> Path:
    return candidates_dir / KEPT / f"{digest}.json"
