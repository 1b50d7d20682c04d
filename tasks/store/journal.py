"""The write-ahead journal: what is being changed, so that a crash leaves nothing half-done.

A change is written down before its first step and closed after its last. Whoever takes the lock next either
finishes what is still written there, or makes it disappear (repair.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

from tasks.errors import StoreError
from tasks.program import command_name
from tasks.records import Change
from tasks.savedmodel.files import fsync_path
from tasks.store.layout import STAGING

JOURNAL = ".journal.json"


def begin(model_dir: Path, change: Change) -> None:
    """Write a change down, forced to the disk; the lock is the caller's.

    Raises:
        StoreError: it cannot be written, or another change is still open.
    """
    if (model_dir / JOURNAL).exists():
        raise StoreError(f"'{model_dir}' has an unfinished change; run {command_name('flows.doctor')}")
    write_atomically(model_dir / JOURNAL, json.dumps(asdict(change), indent=1))


def commit(model_dir: Path) -> None:
    """Close the change that is open.

    Raises:
        StoreError: it cannot be.
    """
    try:
        (model_dir / JOURNAL).unlink(missing_ok=True)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{model_dir}' must be writable, got '{exc.filename}': {exc.strerror}") from exc


def pending(model_dir: Path) -> Change | None:
    """Return the change that is still open, or None.

    Raises:
        StoreError: the journal cannot be read, which no crash can cause: it is replaced as a whole.
    """
    try:
        return Change(**json.loads((model_dir / JOURNAL).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise StoreError(f"'{model_dir / JOURNAL}' must hold one change, got {exc}; look at it and remove it") from exc


def make_directory(path: Path) -> None:
    """Make a directory beside the journal, unless it is there.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as exc:
        raise StoreError(f"'{path}' must be a directory, got {exc.strerror}") from exc


def write_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file as a whole, forced to the disk: a reader sees the old or the new text, never a part.

    Args:
        mode: of the file; None leaves it to the umask.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = path.with_name(f"{STAGING}{path.name.lstrip('.')}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if mode is not None and stat.S_IMODE(os.fstat(stream.fileno()).st_mode) != mode:
                os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_path(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk it holds what the next try needs
        raise StoreError(f"'{path}' must be writable, got '{exc.filename or temporary}': {exc.strerror}") from exc
