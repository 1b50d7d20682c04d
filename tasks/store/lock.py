"""The one lock of a live model directory, with the name of its holder beside it, and the one for telling MLflow."""

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
from tasks.waiting import waiting_for

LOCK, HOLDER, TELLING = ".lock", ".lock-holder.json", ".telling.lock"
TELLING_S = 60.0  # for another process to tell MLflow what waits before ours


@contextlib.contextmanager
def model_lock(model_dir: Path, timeout_s: float) -> Iterator[None]:
    """Hold the one lock of a live model directory, creating the directory at first use.

    Its holder may take it again. The kernel lets go of it when the process ends, however it ends.

    Raises:
        LockTimeout: somebody else held it for the whole of `timeout_s`.
        StoreError: the directory cannot be made or written.
    """
    try:
        if not model_dir.is_dir():
            make_directories(model_dir)
            fsync_path(model_dir.parent)  # or a power cut could take the directory with all that is forced into it
        lock = FileLock(model_dir / LOCK, is_singleton=True)
        with waiting_for(f"another change of '{model_dir.name}' to end"):
            held = lock.acquire(timeout=timeout_s)
    except Timeout as exc:
        raise LockTimeout(
            f"one change of '{model_dir.name}' at a time: '{exc.lock_file}' was held for {timeout_s:g} s by "
            f"{_holder(model_dir)}; wait for it or raise promote.lock_timeout_s"
        ) from exc
    except OSError as exc:
        raise StoreError(f"models_root must be writable, got '{exc.filename}': {exc.strerror}") from exc
    with held:
        _say_who(model_dir)
        yield


@contextlib.contextmanager
def telling_lock(model_dir: Path) -> Iterator[None]:
    """Hold the lock under which MLflow is told, in order; production is changed under another one.

    Raises:
        LockTimeout: somebody else has been telling it for long. StoreError: the directory cannot be written.
    """
    try:
        with waiting_for("another process that tells MLflow of a change"):
            held = FileLock(model_dir / TELLING).acquire(timeout=TELLING_S)
    except Timeout as exc:
        raise LockTimeout(
            f"MLflow is told by one process at a time, and '{exc.lock_file}' was held for {TELLING_S:g} s; wait for it"
        ) from exc
    except OSError as exc:
        raise StoreError(f"models_root must be writable, got '{exc.filename}': {exc.strerror}") from exc
    with held:
        yield


def _say_who(model_dir: Path) -> None:
    """Leave a note for whoever waits; the lock holds without it."""
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    with contextlib.suppress(OSError):
        (model_dir / HOLDER).write_text(json.dumps(note))


def _holder(model_dir: Path) -> str:
    try:
        note = json.loads((model_dir / HOLDER).read_text())
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "somebody who left no name"
