"""What is known of a judged candidate, kept beside it: for its approval, its live verification, its way back."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.redaction import redacted
from tasks.errors import StoreError
from tasks.records import Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.store.journal import make_directory, write_atomically
from tasks.words import one_line

log = logging.getLogger(__name__)

KEPT = ".rehearsals"


@dataclass(frozen=True)
class Rehearsed:
    """One rehearsal, up to its run in MLflow."""

    splits: Splits
    trained: TrainedModel
    report: ValidationReport
    run: TrackedRun


def save_rehearsal(candidates_dir: Path, rehearsed: Rehearsed) -> None:
    """Write a rehearsal down under its candidate's digest; a later one of the same bytes replaces it."""
    path = _path(candidates_dir, rehearsed.report.candidate.digest)
    make_directory(path.parent)
    plain = asdict(rehearsed)
    plain["report"]["gates"] = redacted(plain["report"]["gates"])  # they may quote the user's code
    write_atomically(path, json.dumps(plain, default=str))


def recall(candidates_dir: Path, digest: str) -> Rehearsed | None:
    """Return the last rehearsal of these bytes, or None.

    Raises:
        StoreError: what was kept cannot be read.
    """
    path = _path(candidates_dir, digest)
    try:
        return TypeAdapter(Rehearsed).validate_python(_named_as_now(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as exc:
        reason = one_line(str(exc), 400)
        raise StoreError(f"'{path}' must hold a rehearsal, got {reason}; run the rehearsal again") from exc


def recall_or_warn(candidates_dir: Path, digest: str) -> Rehearsed | None:
    """Return what is kept of a rehearsal; without it, or with a damaged one, a way back must still be open."""
    try:
        return recall(candidates_dir, digest)
    except StoreError as exc:
        log.warning("%s", exc)
        return None


def _named_as_now(found: Any) -> Any:
    """Return what was read with the names of today: `run_id` of earlier releases is MLflow's."""
    run = found.get("run") if isinstance(found, dict) else None
    if isinstance(run, dict) and "run_id" in run:
        run["mlflow_run_id"] = run.pop("run_id")
    return found


def _path(candidates_dir: Path, digest: str) -> Path:
    return candidates_dir / KEPT / f"{digest}.json"
