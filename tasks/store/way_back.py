"""Finds the version that a rollback would return to, whether its files are those that served, and what it answered."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import ManifestMismatch, StoreError
from tasks.records import Champion, Recorded, WayBack
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.champion import predecessor
from tasks.store.history import read, served_digest
from tasks.store.layout import versions
from tasks.store.rehearsals import Rehearsed, recall
from tasks.store.rollback_target import bytes_of


def way_back_of(
    model_dir: Path, candidates_dir: Path, champion: Champion | None, digest: str, *, allowed: bool = False
) -> WayBack:
    """Return the version that a rollback would return to after a candidate has become the champion.

    With the layout `labels` that is after the canary has become stable.

    Args:
        champion: the version that is live, or None. digest: of the candidate's files.
        allowed: whether a promotion without a proven way back is allowed.
    """
    if champion is None:
        return WayBack(allowed=allowed)
    if digest and champion.digest == digest:  # a promotion changes nothing
        return WayBack(absent=f"version {champion.version}, which is live, has the same bytes", allowed=allowed)
    target = predecessor(model_dir, None, digest)
    if target is None:
        why = (
            f"the history of '{model_dir.name}' has no version that a rollback could return to, so that it could not "
            f"put back version {champion.version}, which is live"
        )
        return WayBack(champion.version, champion.version_dir, unproven=why, allowed=allowed)
    return served_version(model_dir, candidates_dir, target, allowed=allowed)[0]


def served_version(
    model_dir: Path, candidates_dir: Path, version: int, *, allowed: bool = False
) -> tuple[WayBack, Rehearsed | None]:
    """Return what is known about a version that was in production, and its rehearsal if its answers are still there.

    Args:
        allowed: as for `way_back_of`.
    """
    digest = served_digest(read(model_dir), version)
    if not digest:
        why = f"version {version} is not in the history, so that its validated answers are unknown"
        return WayBack(version, versions(model_dir).get(version), unproven=why, allowed=allowed), None
    try:
        place = _place(model_dir, candidates_dir, version, digest)
    except (ManifestMismatch, StoreError, OSError) as exc:
        return WayBack(version, problem=str(exc), allowed=allowed), None
    known, gone = _rehearsal(candidates_dir, digest)
    if known is None or known.report.served is None:
        why = f"the recorded answers of version {version} are gone: {gone}"
        return WayBack(version, place, unproven=why, allowed=allowed), None
    candidate, answers = known.report.candidate, known.report.served.answers
    recorded = Recorded(candidate.signature, candidate.requests, answers)
    return WayBack(version, place, recorded, allowed=allowed), known


def _place(model_dir: Path, candidates_dir: Path, version: int, digest: str) -> Path:
    """Return the directory of a version's files, which is the live one as long as it is there.

    A rollback could also take the files from another directory, but production serves those that are live.

    Raises:
        ManifestMismatch, StoreError, OSError: the files are not those that were promoted, or are gone.
    """
    live = versions(model_dir).get(version)
    if live is None:
        return bytes_of(model_dir, version, candidates_dir)[1]
    if not live.is_dir():
        raise StoreError(f"a version must be a directory, but '{live}' is a file; remove it")
    verify_manifest(live, digest)
    return live


def _rehearsal(candidates_dir: Path, digest: str) -> tuple[Rehearsed | None, str]:
    """Return the rehearsal of the files with a digest, or None and why its recorded answers cannot be used."""
    try:
        known = recall(candidates_dir, digest)
    except StoreError as exc:
        return None, str(exc)
    if known is None:
        return None, f"'{candidates_dir.parents[1]}' has no rehearsal of its files"
    if known.report.served is None:
        return None, "no server answered when it was judged"
    for path in (known.report.candidate.requests, known.report.served.answers):
        if not path.is_file():
            return None, f"'{path}' is not there any more"
    return known, ""
