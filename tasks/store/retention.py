"""Keeping the last few versions, and never too few."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Layout
from tasks.store.champion import champion_version, predecessor
from tasks.store.history import append, read, state_of
from tasks.store.layout import versions
from tasks.store.publish import remove
from tasks.store.serving_config import labels_of, listed_versions

WAITING = ("awaiting review", "approved")


def prune(model_dir: Path, candidates_dir: Path, layout: Layout, keep: int) -> list[Path]:
    """Remove all but the `keep` newest live versions, and the same of the candidates; return what was removed.

    Never the champion, the version that a rollback goes back to, one that has a label or is listed for production, a
    candidate that waits for a person, or the last live version (an empty base path would unload the model).
    The lock is the caller's.
    """
    if not keep:
        return []
    champion = champion_version(model_dir, layout)
    entries, before = read(model_dir), predecessor(model_dir, champion)
    needed = {champion, before, *labels_of(model_dir).values(), *listed_versions(model_dir)}
    digests = {entry.digest for entry in entries if entry.version in needed and entry.state == "live"}
    removed = []
    for version, version_dir in _old(model_dir, keep):
        if version not in needed and len(versions(model_dir)) > 1:
            remove(version_dir)
            digest = next((entry.digest for entry in reversed(entries) if entry.version == version), "")
            append(model_dir, version, "pruned", digest, reason=f"promote.keep is {keep}")
            removed.append(version_dir)
    for version, version_dir in _old(candidates_dir, keep):
        known = {entry.digest for entry in entries if entry.version == version}
        if version not in needed and not known & digests and state_of(entries, version) not in WAITING:
            remove(version_dir)
            removed.append(version_dir)
    return removed


def _old(directory: Path, keep: int) -> list[tuple[int, Path]]:
    return list(versions(directory).items())[:-keep]
