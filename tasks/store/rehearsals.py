"""Stores the rehearsal of each judged candidate beside it, for approval, live verification and rollback."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
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
class Provenance:
    """What a candidate was made from, besides its rows.

    Attributes:
        configuration: without secrets. packages: `name==version` of everything that was installed, sorted.
        git_commit: of the working directory, or empty.
    """

    configuration: Mapping[str, Any]
    packages: tuple[str, ...]
    git_commit: str


@dataclass(frozen=True)
class Rehearsed:
    """One rehearsal, up to its run in MLflow; `provenance` is None if an earlier release stored it."""

    splits: Splits
    trained: TrainedModel
    report: ValidationReport
    run: TrackedRun
    provenance: Provenance | None = None


def save_rehearsal(candidates_dir: Path, rehearsed: Rehearsed) -> None:
    """Store a rehearsal under its candidate's digest; a later rehearsal of the same files replaces it."""
    path = rehearsal_file(candidates_dir, rehearsed.report.candidate.digest)
    make_directory(path.parent)
    plain = asdict(rehearsed)
    plain["report"]["gates"] = redacted(plain["report"]["gates"])  # they may quote the user's code
    write_atomically(path, json.dumps(plain, default=str))


def recall(candidates_dir: Path, digest: str) -> Rehearsed | None:
    """Return the last rehearsal of the files with this digest, or None; its paths are where `work_dir` is now.

    Raises:
        StoreError: the stored rehearsal cannot be read.
    """
    path = rehearsal_file(candidates_dir, digest)
    try:
        known = TypeAdapter(Rehearsed).validate_python(_named_as_now(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as exc:
        reason = one_line(str(exc), 400)
        raise StoreError(f"'{path}' must contain a rehearsal, got {reason}; run the rehearsal again") from exc
    then = known.report.candidate.version_dir
    if then.parent == candidates_dir or then.parts[-3:-1] != candidates_dir.parts[-2:]:
        return known
    moved: Rehearsed = _moved(known, then.parents[2], candidates_dir.parents[1])
    return moved


def _moved(value: Any, old: Path, new: Path) -> Any:
    """Return a value with every path below `old` at the same place below `new`."""
    if isinstance(value, Path):
        return new / value.relative_to(old) if value.is_relative_to(old) else value
    if is_dataclass(value) and not isinstance(value, type):
        inside = {field.name: _moved(getattr(value, field.name), old, new) for field in fields(value)}
        return replace(value, **inside)
    return value


def recall_or_warn(candidates_dir: Path, digest: str) -> Rehearsed | None:
    """Return a stored rehearsal, or None if it is missing or damaged, so that a rollback remains possible."""
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


def rehearsal_file(candidates_dir: Path, digest: str) -> Path:
    """Return the file of the rehearsal of the files with this digest; it may not exist."""
    return candidates_dir / KEPT / f"{digest}.json"
