"""The write-ahead journal of the change in progress, so that a crash leaves nothing half-done.

A change is recorded before its first step and closed after its last. The next process that takes the lock either
finishes an open change or removes it (repair.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.errors import StoreError
from tasks.program import command_name
from tasks.records import Arm, Change
from tasks.savedmodel.files import fsync_path, replace_file
from tasks.store.layout import STAGING

JOURNAL = ".journal.json"


def begin(model_dir: Path, change: Change) -> None:
    """Record a change and flush it to the disk; the caller must hold the lock.

    Raises:
        StoreError: the journal cannot be written, or another change is still open.
    """
    if (model_dir / JOURNAL).exists():
        raise StoreError(f"'{model_dir}' has an unfinished change; run {command_name('flows.doctor')}")
    write_atomically(model_dir / JOURNAL, json.dumps(asdict(change), indent=1))


def commit(model_dir: Path) -> None:
    """Close the open change.

    Raises:
        StoreError: the journal cannot be removed.
    """
    try:
        (model_dir / JOURNAL).unlink(missing_ok=True)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{model_dir}' must be writable, got '{exc.filename}': {exc.strerror}") from exc


def pending(model_dir: Path) -> Change | None:
    """Return the change that is still open, or None.

    Raises:
        StoreError: the journal cannot be read. A crash cannot cause this, because the file is replaced as a whole.
    """
    try:
        return read_change(json.loads((model_dir / JOURNAL).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise StoreError(f"'{model_dir / JOURNAL}' must contain one change, got {exc}; check it and remove it") from exc


def read_change(found: Any) -> Change:
    """Return a change from its JSON.

    Raises:
        TypeError: it is not the JSON of a change.
    """
    if not isinstance(found, dict):
        raise TypeError(f"a change must be a JSON object, got {type(found).__name__}")
    return Change(**{**found, "arms": tuple(Arm(**arm) for arm in found.get("arms", ()))})


def make_directory(path: Path) -> None:
    """Create a directory beside the journal if it does not exist.

    Raises:
        StoreError: the directory cannot be created.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as exc:
        raise StoreError(f"'{path}' must be a directory, got {exc.strerror}") from exc


def write_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a text file, as `replace_file` does, under a name of this store until it is whole.

    Args:
        mode: mode of the file; None uses the umask.

    Raises:
        StoreError: the file cannot be written.
    """
    temporary = path.with_name(f"{STAGING}{path.name.lstrip('.')}")
    try:
        replace_file(path, text.encode(), temporary, mode)
    except OSError as exc:
        raise StoreError(f"'{path}' must be writable, got '{exc.filename or temporary}': {exc.strerror}") from exc
