"""Adds versions to the directory that production watches, and removes them, each with one rename.

A server that watches the directory sees either nothing of a version or all of it. Incomplete directories have names
that are not numbers. An object store is published by tasks/objects, from a directory that is filled here.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from tasks.datasets.user_code import describe
from tasks.errors import ManifestMismatch, StoreError, VersionExists
from tasks.records import Change
from tasks.savedmodel.files import fsync_path, link_tree, pass_groups_on, set_modes
from tasks.savedmodel.manifest import Manifest, verify_manifest
from tasks.store.layout import STAGING, versions

WITHDRAWN, PRUNED = ".withdrawn-", ".pruned-"


def bring_in(
    model_dir: Path,
    change: Change,
    directory_mode: int = 0o755,
    file_mode: int | None = 0o644,
    prove: Callable[[Path, Manifest], None] = lambda _directory, _manifest: None,
) -> Path:
    """Make `change.source` live as `<model_dir>/<change.directory>`: link, verify, rename, flush to the disk.

    If hard links are not possible, each file is copied and flushed before it is verified. The modes are set explicitly,
    because production runs as another user; a hard link shares them with the candidate. In a setgid directory, files
    get its group, whether they are linked or copied.

    Args:
        file_mode: None leaves modes and groups of files as they are, for a copy that only its owner uses.
        prove: writes the proof of the verified files in a directory, just before they go live.

    Raises:
        VersionExists: the number is live with other files. ManifestMismatch: the files are not those that were judged.
        StoreError: the directory cannot be written, or a higher number is live.
    """
    live = versions(model_dir)
    if change.version in live:
        return _there_before(change, live[change.version])
    if live and max(live) > change.version:
        raise StoreError(
            f"a promoted version must be the highest, because that is the one that is served, but version {max(live)} "
            f"of '{model_dir.name}' is live, got {change.version}; run again to get a new number"
        )
    target = model_dir / change.directory
    staging = model_dir / f"{STAGING}{uuid.uuid4().hex}"
    try:
        link_tree(Path(change.source), staging)
        if file_mode is not None:
            pass_groups_on(staging)
        set_modes(staging, directory_mode, file_mode)
        prove(staging, verify_manifest(staging, change.digest))
        staging.rename(target)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{staging}' must be filled from '{change.source}', got {describe(exc)}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _there_before(change: Change, live_dir: Path) -> Path:
    """Return the live directory if it has the same files, as at a second try of the same promotion."""
    try:
        verify_manifest(live_dir, change.digest)
    except (ManifestMismatch, OSError) as exc:
        raise VersionExists(
            f"version {change.version} of '{live_dir.parent.name}' must be unused or contain the candidate's files, "
            f"but '{live_dir}' contains others"
        ) from exc
    return live_dir


def take_away(model_dir: Path, version: int) -> Path | None:
    """Hide a live version from production by a rename; return its new path, or None if it was not there."""
    live_dir = versions(model_dir).get(version)
    if live_dir is None:
        return None
    kept = model_dir / f"{WITHDRAWN}{version}-{uuid.uuid4().hex[:8]}"
    try:
        live_dir.rename(kept)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{live_dir}' must be removable from production, got {describe(exc)}") from exc
    return kept


def put_aside(version_dir: Path) -> Path:
    """Hide a version that is no longer needed by a rename; return the new path, which is removed next."""
    doomed = version_dir.with_name(f"{PRUNED}{version_dir.name}-{uuid.uuid4().hex[:8]}")
    try:
        version_dir.rename(doomed)
        fsync_path(version_dir.parent)
    except OSError as exc:
        raise StoreError(f"'{version_dir}' must be removable, got {describe(exc)}") from exc
    return doomed


def remove(path: Path) -> None:
    """Remove a hidden file, link or directory, which another process may be removing, too."""
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise StoreError(f"'{path}' must be removable, got {describe(exc)}") from exc
