"""Stores the rehearsal of each judged candidate beside it, for approval, live verification and rollback.

Two candidates can have the same bytes, and each has a rehearsal of its own: `.rehearsals/DIGEST-N.json`. Earlier
releases wrote `DIGEST.json`. The answers of a candidate that a gate rejected may be those of a server that cannot serve
these bytes; production is therefore compared with one that passed.
"""

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
    """Store a rehearsal under its candidate's digest and number; a later rehearsal of this candidate replaces it."""
    candidate = rehearsed.report.candidate
    path = rehearsal_file(candidates_dir, candidate.digest, candidate.version)
    make_directory(path.parent)
    plain = asdict(rehearsed)
    plain["report"]["gates"] = redacted(plain["report"]["gates"])  # they may quote the user's code
    write_atomically(path, json.dumps(plain, default=str))


def recall(candidates_dir: Path, digest: str, version: int | None = None) -> Rehearsed | None:
    """Return the rehearsal of a candidate with this digest, or None; its paths are where `work_dir` is now.

    Args:
        version: the candidate's number; None takes the last one that passed, or else the last one.

    Raises:
        StoreError: the stored rehearsal cannot be read.
    """
    path = next(iter(rehearsal_files(candidates_dir, digest)), None)
    if version is not None:
        path = record_of(candidates_dir, digest, version)
    known = _read(path, candidates_dir) if path is not None else None
    return known if known is None or version in (None, known.report.candidate.version) else None


def _read(path: Path, candidates_dir: Path) -> Rehearsed | None:
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


def recall_or_warn(candidates_dir: Path, digest: str, version: int | None = None) -> Rehearsed | None:
    """Return what `recall` does, or None if it is missing or damaged, so that a rollback remains possible."""
    try:
        return recall(candidates_dir, digest, version)
    except StoreError as exc:
        log.warning("%s", exc)
        return None


def _named_as_now(found: Any) -> Any:
    """Return what was read with the names of today: `run_id` of earlier releases is MLflow's."""
    run = found.get("run") if isinstance(found, dict) else None
    if isinstance(run, dict) and "run_id" in run:
        run["mlflow_run_id"] = run.pop("run_id")
    return found


def rehearsal_file(candidates_dir: Path, digest: str, version: int) -> Path:
    """Return where the rehearsal of a candidate is stored; it may not exist."""
    return candidates_dir / KEPT / f"{digest}-{version}.json"


def record_of(candidates_dir: Path, digest: str, version: int) -> Path:
    """Return the file that has the rehearsal of a candidate, also if an earlier release wrote it; it may not exist."""
    path, earlier = rehearsal_file(candidates_dir, digest, version), candidates_dir / KEPT / f"{digest}.json"
    return earlier if earlier.exists() and not path.exists() else path


def rehearsal_files(candidates_dir: Path, digest: str) -> list[Path]:
    """Return the stored rehearsals of all candidates with this digest, the most useful one first."""
    found = [path for path in (candidates_dir / KEPT).glob("*.json") if digest_of(path) == digest]
    return sorted(found, key=usefulness, reverse=True)


def usefulness(record: Path) -> tuple[bool, int]:
    """Return by what the best of several rehearsals of the same bytes is chosen: whether it passed, and its number."""
    try:
        gates = json.loads(record.read_bytes())["report"]["gates"]
        passed = bool(gates) and all(gate["passed"] for gate in gates)
    except (OSError, ValueError, KeyError, TypeError):  # `recall` says what is wrong with it
        passed = False
    return passed, number_of(record) or 0


def digest_of(record: Path) -> str:
    """Return the digest that the name of a stored rehearsal begins with."""
    return record.stem.partition("-")[0]


def number_of(record: Path) -> int | None:
    """Return the candidate's number in the name of a stored rehearsal; None in one of an earlier release."""
    number = record.stem.partition("-")[2]
    return int(number) if number.isdecimal() else None
