"""Finds the version that a rollback goes back to, and its files."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import StoreError
from tasks.savedmodel.manifest import holds
from tasks.store.champion import predecessor
from tasks.store.history import SERVED, read, served_digest
from tasks.store.layout import versions
from tasks.store.rehearsals import recall_or_warn


def rollback_target(model_dir: Path, champion: int) -> int:
    """Return the version that a rollback goes back to by default.

    Raises:
        StoreError: there is no such version.
    """
    target = predecessor(model_dir, champion)
    if target is not None:
        return target
    entries = read(model_dir)
    own = served_digest(entries, champion)
    others = [version for version in _served(model_dir) if served_digest(entries, version) != own]
    champions = {entry.version for entry in entries if entry.state == "live"}
    kind = "was rolled back itself" + (", or was only the canary" if set(others) - champions else "")
    remedy = f"; set --to N to a version that {kind}: {', '.join(map(str, others))}" if others else ""
    raise StoreError(
        f"a rollback needs an earlier version that was not rolled back, but version {champion} of '{model_dir.name}' "
        f"has none before it{remedy}"
    )


def _served(model_dir: Path) -> list[int]:
    """Return every version that was in production, in ascending order."""
    return sorted({entry.version for entry in read(model_dir) if entry.state in SERVED})


def bytes_of(model_dir: Path, version: int, candidates_dir: Path | None = None) -> tuple[str, Path]:
    """Return the digest and a directory of the files that were served as a version.

    Args:
        candidates_dir: also search for the same files here and in other live versions; None searches only the
            directory of the version itself, which a label needs.

    Raises:
        StoreError: the version was never in production, or its files are gone.
    """
    entries, live = read(model_dir), versions(model_dir)
    digest = served_digest(entries, version)
    if not digest:
        served = ", ".join(str(number) for number in _served(model_dir)) or "none"
        raise StoreError(f"--to must be a version that was in production, got {version}; these were: {served}")
    places = [live.get(version)]
    if candidates_dir is not None:
        known = recall_or_warn(candidates_dir, digest)
        places += [path for other, path in live.items() if served_digest(entries, other) == digest]
        places += [known.report.candidate.version_dir] if known else []
    for place in places:
        if place is not None and place.is_dir() and holds(place, digest):
            return digest, place
    raise StoreError(
        f"the files of version {version} must still be there unchanged, but they were pruned or changed; choose "
        "another version with --to"
    )
