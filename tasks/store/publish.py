"""Bytes into the directory that production watches, and out of it: each by one rename.

A server that watches the directory sees nothing of a version, then the whole of it, then nothing. Everything that is
not whole has a name that is no number. An object store would plug in here: it has no rename, so a version there would
be the last object of a list to be written.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from tasks.datasets.user_code import describe
from tasks.errors import ManifestMismatch, StoreError, VersionExists
from tasks.records import Change
from tasks.savedmodel.files import fsync_path, link_tree, pass_groups_on, set_modes
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.layout import STAGING, versions

WITHDRAWN, PRUNED = ".withdrawn-", ".pruned-"


def bring_in(model_dir: Path, change: Change, directory_mode: int = 0o755, file_mode: int = 0o644) -> Path:
    """Make `change.source` live as `<model_dir>/<change.directory>`: link, verify, rename, force to the disk.

    Where no hard link reaches, each file is copied and forced to the disk before it is verified. The modes are set
    and not inherited, for production runs as another user; a hard link shares them with the candidate. Below a
    directory that passes its group on (setgid), the group is that one's on either file system.

    Raises:
        VersionExists: other bytes are live under the number. ManifestMismatch: they are not the judged bytes.
        StoreError: the directory cannot be written, or a higher number is live.
    """
    live = versions(model_dir)
    if change.version in live:
        return _there_before(change, live[change.version])
    if live and max(live) > change.version:
        raise StoreError(
            f"a promoted version must be the highest, for that is what serves: version {max(live)} "
            f"of '{model_dir.name}' is live, got {change.version}; run again for a new number"
        )
    target = model_dir / change.directory
    staging = model_dir / f"{STAGING}{uuid.uuid4().hex}"
    try:
        link_tree(Path(change.source), staging)
        pass_groups_on(staging)
        set_modes(staging, directory_mode, file_mode)
        verify_manifest(staging, change.digest)
        staging.rename(target)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{staging}' must be filled from '{change.source}', got {describe(exc)}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _there_before(change: Change, live_dir: Path) -> Path:
    """Return the live directory if it holds the same bytes: a second try of the same promotion."""
    try:
        verify_manifest(live_dir, change.digest)
    except (ManifestMismatch, OSError) as exc:
        raise VersionExists(
            f"version {change.version} of '{live_dir.parent.name}' must be free or hold the candidate's "
            f"bytes, but '{live_dir}' holds others"
        ) from exc
    return live_dir


def take_away(model_dir: Path, version: int) -> Path | None:
    """Rename a live version out of production's sight at once; return where it is now, None if it was not there."""
    live_dir = versions(model_dir).get(version)
    if live_dir is None:
        return None
    kept = model_dir / f"{WITHDRAWN}{version}-{uuid.uuid4().hex[:8]}"
    try:
        live_dir.rename(kept)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{live_dir}' must be taken out of production, got {describe(exc)}") from exc
    return kept


def put_aside(version_dir: Path) -> Path:
    """Take a version that nobody needs out of every watcher's sight by one rename; return what is to be removed."""
    doomed = version_dir.with_name(f"{PRUNED}{version_dir.name}-{uuid.uuid4().hex[:8]}")
    try:
        version_dir.rename(doomed)
        fsync_path(version_dir.parent)
    except OSError as exc:
        raise StoreError(f"'{version_dir}' must be removable, got {describe(exc)}") from exc
    return doomed


def remove(path: Path) -> None:
    """Remove what has a name that is no number, file by file."""
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as exc:
        raise StoreError(f"'{path}' must be removable, got {describe(exc)}") from exc
