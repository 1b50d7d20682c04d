"""The doctor: finds what a crash left in a model's directories, and finishes it or takes it away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ManifestMismatch, PipelineError, StoreError, TrackingError
from tasks.savedmodel.manifest import hash_files, verify_manifest
from tasks.store.history import read
from tasks.store.journal import commit, pending
from tasks.store.layout import STAGING, abandoned_stagings, versions
from tasks.store.publish import PRUNED
from tasks.store.serving_config import labels_of
from tasks.store.transaction import Production, finish, tell, untold


@dataclass(frozen=True)
class Finding:
    """Something that was not as it should be.

    Attributes:
        done: `finished`, `removed`, or `reported`: what only a person may decide.
        text: one line: what was found and, where a person decides, what to do.
    """

    done: str
    text: str


def repair(production: Production, candidates_dir: Path, *, only_look: bool = False) -> list[Finding]:
    """Look a model's directories through, and mend what has only one right end; the lock is the caller's.

    Args:
        only_look: change nothing; say what would be done.

    """
    found = [*_leftovers(production.model_dir, candidates_dir, only_look)]
    try:
        found += _open_change(production, only_look)
    except StoreError as exc:
        found.append(Finding("reported", str(exc)))
    found += _tell(production, only_look)
    found += _reports(production)
    return found


def _tell(production: Production, only_look: bool) -> Iterator[Finding]:
    waiting = untold(production.model_dir)
    if not waiting:
        return
    if only_look:
        yield Finding("finished", f"MLflow would be told of {len(waiting)} changes")
        return
    try:
        for change in tell(production):
            yield Finding("finished", f"MLflow was told of the {change.operation} of version {change.version}")
    except TrackingError as exc:
        yield Finding("reported", f"MLflow does not know of {len(untold(production.model_dir))} changes yet: {exc}")


def _leftovers(model_dir: Path, candidates_dir: Path, only_look: bool) -> Iterator[Finding]:
    """Remove what was being filled or emptied; the lock is ours, so nobody is at it."""
    doomed = [*sorted(model_dir.glob(f"{STAGING}*")), *sorted(model_dir.glob(f"{PRUNED}*"))]
    doomed += [*abandoned_stagings(candidates_dir), *sorted(candidates_dir.glob(f"{PRUNED}*"))]
    for path in doomed:
        if not only_look:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if not path.is_dir() else None
        yield Finding("removed", f"'{path}', which a killed process left behind")


def _open_change(production: Production, only_look: bool) -> Iterator[Finding]:
    change = pending(production.model_dir)
    if change is None:
        return
    what = f"{change.operation} of version {change.version}"
    live_dir = versions(production.model_dir).get(change.version)
    if change.operation == "publish":
        if live_dir is None:
            if not only_look:
                commit(production.model_dir)
            yield Finding("removed", f"the {what}, which had not come to its rename; run the promotion again")
            return
        try:
            verify_manifest(live_dir, change.digest)
        except ManifestMismatch as exc:
            yield Finding("reported", f"the {what} is open, and {exc}; remove that directory or take the bytes back")
            return
    if only_look:
        yield Finding("finished", f"the {what} would be finished")
        return
    result = finish(production, change)
    yield Finding("finished", f"the {what}: {' '.join(filter(None, (result.state, result.reason)))}")


def _reports(production: Production) -> Iterator[Finding]:
    """Name what is wrong and may be meant."""
    model_dir = production.model_dir
    try:
        live = versions(model_dir)
    except StoreError as exc:
        yield Finding("reported", str(exc))
        return
    digests = {entry.version: entry.digest for entry in read(model_dir) if entry.state == "live"}
    for version, path in live.items():
        if not path.is_dir():
            yield Finding("reported", f"'{path}' is a file, and a server takes it for a version; remove it")
            continue
        try:
            found = hash_files(path).digest
        except (PipelineError, OSError) as exc:
            yield Finding("reported", f"'{path}' cannot be read: {exc}")
            continue
        if version not in digests:
            yield Finding("reported", f"'{path}' was not promoted by this project: its history does not know it")
        elif digests[version] != found:
            yield Finding(
                "reported",
                f"'{path}' was changed after its promotion: its digest is {found[:12]}, promoted was "
                f"{digests[version][:12]}; roll back or promote anew",
            )
    if production.layout == "labels":
        for label, version in labels_of(model_dir).items():
            if version not in live:
                yield Finding("reported", f"label '{label}' names version {version}, which is not in '{model_dir}'")
