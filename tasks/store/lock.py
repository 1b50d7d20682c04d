"""The lock of a live model directory, with a note about its holder, and the lock for updating MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import LockTimeout, StoreError
from tasks.savedmodel.files import fsync_path, make_directories
from tasks.store.layout import STAGING
from tasks.waiting import waiting_for

LOCK, HOLDER, TELLING = ".lock", ".lock-holder.json", ".telling.lock"
TELLING_S = 60.0  # seconds to wait while another process updates MLflow


@contextlib.contextmanager
def model_lock(model_dir: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a live model directory, and create the directory at first use.

    The lock is reentrant. The kernel releases it when the process ends, in every case.

    Raises:
        LockTimeout: another process held the lock for `timeout_s`.
        StoreError: the directory cannot be created or written.
    """
    try:
        if not model_dir.is_dir():
            make_directories(model_dir)
            fsync_path(model_dir.parent)  # else a power failure could lose the directory with its contents
        lock = FileLock(model_dir / LOCK, is_singleton=True)
        with waiting_for(f"another change of '{model_dir.name}' to end"):
            held = lock.acquire(timeout=timeout_s)
    except Timeout as exc:
        raise LockTimeout(
            f"only one process can change '{model_dir.name}' at a time: '{exc.lock_file}' was held for {timeout_s:g} s "
            f"by {_holder(model_dir)}; wait for it, or raise promote.lock_timeout_s"
        ) from exc
    except OSError as exc:
        raise StoreError(f"models_root must be writable, got '{exc.filename}': {exc.strerror}") from exc
    with held:
        _say_who(model_dir)
        yield


@contextlib.contextmanager
def telling_lock(model_dir: Path) -> Iterator[None]:
    """Hold the lock for updating MLflow in order; production has another lock.

    Raises:
        LockTimeout: another process held the lock for too long. StoreError: the directory cannot be written.
    """
    try:
        with waiting_for("another process that tells MLflow of a change"):
            held = FileLock(model_dir / TELLING).acquire(timeout=TELLING_S)
    except Timeout as exc:
        raise LockTimeout(
            f"only one process can update MLflow at a time: '{exc.lock_file}' was held for {TELLING_S:g} s; try again"
        ) from exc
    except OSError as exc:
        raise StoreError(f"models_root must be writable, got '{exc.filename}': {exc.strerror}") from exc
    with held:
        yield


def _say_who(model_dir: Path) -> None:
    """Write a note about the holder for processes that wait; the lock does not depend on it.

    The rename has a second use: NFS shows a host the versions that were there up to a minute ago, and another host may
    have published one since. A host that changes a directory looks at all of it again.
    Source: nfs4_update_changeattr_locked in Linux' fs/nfs/nfs4proc.c; nfs(5), acdirmax.
    """
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    new = model_dir / f"{STAGING}{HOLDER.lstrip('.')}"
    try:
        new.write_text(json.dumps(note))
        new.replace(model_dir / HOLDER)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _holder(model_dir: Path) -> str:
    try:
        note = json.loads((model_dir / HOLDER).read_text())
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"
