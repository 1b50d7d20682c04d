"""Publishing a judged candidate into the directory that production watches."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.datasets.references import describe
from tasks.errors import LockTimeout, ManifestMismatch, StoreError, VersionExists
from tasks.records import Candidate
from tasks.savedmodel.files import fsync_path, link_tree
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.layout import STAGING, versions


@contextlib.contextmanager
def model_lock(model_dir: Path, timeout_s: float) -> Iterator[None]:
    """Hold the one lock of a live model directory, creating the directory at first use.

    Raises:
        LockTimeout: somebody else held it for the whole of `timeout_s`.
        StoreError: the directory cannot be made or written.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(model_dir / ".lock", is_singleton=True)  # one a path: its holder may take it again
        held = lock.acquire(timeout=timeout_s)
    except Timeout as exc:
        raise LockTimeout(
            f"one promotion of '{model_dir.name}' at a time: '{exc.lock_file}' was held for "
            f"{timeout_s:g} s; wait for the other run or raise promote.lock_timeout_s"
        ) from exc
    except OSError as exc:
        raise StoreError(f"models_root must be writable, got '{exc.filename}': {exc.strerror}") from exc
    with held:
        yield


def publish(candidate: Candidate, models_root: Path, lock_timeout_s: float) -> Path:
    """Make a candidate live as `<models_root>/<name>/<N>`: link, verify, rename, force to the disk.

    A server that watches the directory sees nothing, then the whole version.

    Raises:
        VersionExists: other bytes are live under the number. ManifestMismatch: they are not the judged bytes.
        LockTimeout, StoreError: the directory is busy, or cannot be written.
    """
    model_dir = models_root / candidate.name
    with model_lock(model_dir, lock_timeout_s):
        live = versions(model_dir)
        if live and max(live) > candidate.version:
            raise StoreError(
                f"a promoted version must be the highest, for that is what serves: version {max(live)} "
                f"of '{candidate.name}' is live, got {candidate.version}; run again for a new number"
            )
        if candidate.version in live:
            return _published_before(candidate, live[candidate.version])
        for stale in model_dir.glob(f"{STAGING}*"):  # of a killed promotion: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        target = model_dir / candidate.version_dir.name
        staging = model_dir / f"{STAGING}{uuid.uuid4().hex}"
        try:
            link_tree(candidate.version_dir, staging)
            verify_manifest(staging, candidate.digest)
            staging.rename(target)
            fsync_path(model_dir)
        except OSError as exc:
            raise StoreError(f"'{staging}' must be filled from '{candidate.version_dir}', got {describe(exc)}") from exc
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _published_before(candidate: Candidate, live_dir: Path) -> Path:
    """Return the live directory if it holds the candidate's bytes: a second try of the same promotion."""
    try:
        verify_manifest(live_dir, candidate.digest)
    except (ManifestMismatch, OSError) as exc:
        raise VersionExists(
            f"version {candidate.version} of '{candidate.name}' must be free or hold the candidate's "
            f"bytes, but '{live_dir}' holds others"
        ) from exc
    return live_dir
