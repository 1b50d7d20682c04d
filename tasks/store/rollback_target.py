"""Where a rollback goes to, and the bytes that it serves again."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import ManifestMismatch, StoreError
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.champion import predecessor
from tasks.store.history import SERVED, read, served_digest
from tasks.store.layout import versions
from tasks.store.rehearsals import recall_or_warn


def rollback_target(model_dir: Path, champion: int) -> int:
    """Return the version that a rollback goes back to where none is named.

    Raises:
        StoreError: there is none.
    """
    target = predecessor(model_dir, champion)
    if target is not None:
        return target
    entries = read(model_dir)
    own = served_digest(entries, champion)
    others = ", ".join(str(version) for version in _served(model_dir) if served_digest(entries, version) != own)
    found = f"nothing else did; --to N takes one that was rolled back itself: {others}" if others else "nothing did"
    raise StoreError(
        f"a rollback goes back to what served well before, and before version {champion} of '{model_dir.name}' {found}"
    )


def _served(model_dir: Path) -> list[int]:
    """Return every version that has served, in rising order."""
    return sorted({entry.version for entry in read(model_dir) if entry.state in SERVED})


def bytes_of(model_dir: Path, version: int, candidates_dir: Path | None = None) -> tuple[str, Path]:
    """Return digest and directory of the bytes that served under a number.

    Args:
        candidates_dir: where to look besides the version's own directory, and under other numbers then too;
            None where a label shall point to it, which reaches nothing else.

    Raises:
        StoreError: it never served, or its bytes are gone.
    """
    entries, live = read(model_dir), versions(model_dir)
    digest = served_digest(entries, version)
    if not digest:
        served = ", ".join(str(number) for number in _served(model_dir)) or "none"
        raise StoreError(f"--to must be a version that has served, got {version}; those that have: {served}")
    places = [live.get(version)]
    if candidates_dir is not None:
        known = recall_or_warn(candidates_dir, digest)
        places += [path for other, path in live.items() if served_digest(entries, other) == digest]
        places += [known.report.candidate.version_dir] if known else []
    for place in places:
        if place is not None and place.is_dir() and _holds(place, digest):
            return digest, place
    raise StoreError(
        f"the bytes of version {version} must still be there as they served, and were pruned or changed; "
        "choose another --to"
    )


def _holds(directory: Path, digest: str) -> bool:
    try:
        verify_manifest(directory, digest)
    except (ManifestMismatch, OSError):
        return False
    return True
