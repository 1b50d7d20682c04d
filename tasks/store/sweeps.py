"""Directories of sweeps, `<work_dir>/sweeps/<identity>/<key>`: what has been trained, so that a sweep can go on.

    owner.json              as of a run directory; the sweep also holds the directory
    <key>/try-<command>-1/  one try of one variant, with its model.keras
    <key>/trained.json      written last, by a rename: the variant is trained, and by which try
    <key>/failed.json       the variant failed by its own error, in the command that it names

Identity and key are hashes of everything that the training depends on, so that nothing is taken for a variant of
another configuration, of other rows or of other code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import LockTimeout, StoreError
from tasks.owner import hold
from tasks.records import TrainedModel
from tasks.savedmodel.files import fsync_path
from tasks.store.journal import write_atomically
from tasks.store.publish import PRUNED, put_aside, remove
from tasks.store.repair import Finding
from tasks.store.runs import OWNER, file_time, own, owner_of

log = logging.getLogger(__name__)

SWEEPS, TRAINED, FAILED, TRY = "sweeps", "trained.json", "failed.json", "try-"
IDENTITY = re.compile(r"[0-9a-f]{16}")
MODEL = "model.keras"
WRITTEN = 1 << 20  # bytes, to see whether a disk is full
KEPT_S = 7 * 24 * 3600.0  # an interrupted sweep, to be gone on with


@contextlib.contextmanager
def open_sweep(config: Config, identity: str) -> Iterator[Path]:
    """Yield the directory of a sweep, which no other process has meanwhile.

    Raises:
        LockTimeout: another process has it. StoreError: it cannot be created.
    """
    directory = config.work_dir / SWEEPS / identity
    try:
        held = _held(directory)
    except BlockingIOError as exc:
        raise LockTimeout(
            f"only one process at a time can run sweeps of the same model, rows and code, and another one holds "
            f"'{directory}'; wait for its end"
        ) from exc
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename or directory}': {exc.strerror}") from exc
    try:
        own(config, directory)
        yield directory
    finally:
        os.close(held)


def _held(directory: Path) -> int:
    """Create a directory if it does not exist, and hold it."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        held = hold(directory)
        with contextlib.suppress(FileNotFoundError):  # another process was removing it as an old sweep
            if os.path.samestat(os.fstat(held), directory.stat()):
                return held
        os.close(held)


def is_usable(directory: Path, *files: Path) -> bool:
    """Return whether files that a sweep needs are there, and another one can be written to a directory.

    If not, an error of the same time may have that cause, and says nothing about a variant.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as written:
            written.write(bytes(WRITTEN))  # a full disk often still takes a file without content
            written.flush()
            os.fsync(written.fileno())
            return all(file.is_file() for file in files)
    except OSError:
        return False


def end_sweep(directory: Path, keys: Collection[str]) -> None:
    """Remove the variants of a sweep that has come to its end: the same command trains again, as every run does.

    Variants of another sweep of the same rows, which was interrupted, stay.
    """
    try:
        if all(path.name in keys for path in directory.iterdir() if path.is_dir()):
            remove(put_aside(directory))
            return
        for key in keys:
            remove(directory / key)
    except FileNotFoundError:  # somebody was faster
        return
    except StoreError as exc:
        log.warning("%s", exc)


def begin_try(directory: Path, command: str, tries: int) -> Path | None:
    """Create a directory for one more try of a variant, or return None if there were as many as there may be.

    Args:
        command: identifies the command that runs the sweep; tries of earlier ones do not count.
    """
    directory.mkdir(exist_ok=True)
    for number in range(1, tries + 1):
        with contextlib.suppress(FileExistsError):  # two workers may begin at the same time
            own_try = directory / f"{TRY}{command}-{number}"
            own_try.mkdir()
            return own_try
    return None


def tries_of(directory: Path, command: str) -> int:
    """Return how often a command has begun to train a variant."""
    return len(list(directory.glob(f"{TRY}{command}-*")))


def signs_of(directory: Path, command: str) -> tuple[tuple[str, int], ...]:
    """Return the tries of a variant in a command, each with the time in ns of its last sign of life."""
    found = []
    for path in directory.glob(f"{TRY}{command}-*"):
        with contextlib.suppress(OSError):  # it has just been removed
            found.append((path.name, path.stat().st_mtime_ns))
    return tuple(sorted(found))


def save_trained(directory: Path, trained: TrainedModel, seconds: float) -> None:
    """Record that a variant is trained, after its model is on the disk.

    Raises:
        StoreError: the record cannot be written.
    """
    relative = replace(trained, keras_file=trained.keras_file.relative_to(directory))
    try:
        fsync_path(trained.keras_file)
        fsync_path(trained.keras_file.parent)
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc
    write_atomically(directory / TRAINED, json.dumps({"trained": asdict(relative), "seconds": seconds}, default=str))


def read_trained(directory: Path) -> tuple[TrainedModel, float] | None:
    """Return a trained variant with the seconds of its training, or None if it is not trained."""
    try:
        found = json.loads((directory / TRAINED).read_text(encoding="utf-8"))
        trained = TypeAdapter(TrainedModel).validate_python(found["trained"])
        trained = replace(trained, keras_file=directory / trained.keras_file)
        return (trained, float(found["seconds"])) if trained.keras_file.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):  # there is none, or somebody edited it
        return None


def save_failed(directory: Path, command: str, reason: str) -> None:
    """Record that a variant failed by its own error.

    Raises:
        StoreError: the record cannot be written.
    """
    directory.mkdir(exist_ok=True)
    write_atomically(directory / FAILED, json.dumps({"command": command, "reason": redact(reason)}))


def read_failed(directory: Path, command: str) -> str:
    """Return why a variant failed in this command, or an empty string; another command tries it again."""
    try:
        found = json.loads((directory / FAILED).read_text(encoding="utf-8"))
        return str(found["reason"]) if found["command"] == command else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remove_tries(directory: Path) -> None:
    """Remove the tries of a variant that gave no model, such as those of an interrupted command."""
    found = read_trained(directory)
    for path in directory.glob(f"{TRY}*"):
        if found is None or found[0].keras_file.parent != path:
            shutil.rmtree(path, ignore_errors=True)


def find_old_sweeps(config: Config, *, only_look: bool = False) -> list[Finding]:
    """Return the sweeps of a model that were not continued for a week, and remove them unless `only_look` is set.

    A sweep that ended has removed itself, so they were interrupted, or no variant could be judged.
    """
    parent = config.work_dir / SWEEPS
    if not parent.is_dir():
        return []
    now, findings = file_time(parent), []
    for path in sorted(parent.iterdir()):
        owner = owner_of(path) if IDENTITY.fullmatch(path.name) else None
        is_ours = owner is not None and owner.is_of(config) and not owner.may_live(path, now)
        if is_ours and now - _last_used(path) > KEPT_S:
            findings.append(_removed(path, only_look))
    for path in parent.glob(f"{PRUNED}*"):  # a process was killed while it removed it
        if not only_look:
            remove(path)
    return [finding for finding in findings if finding is not None]


def _last_used(directory: Path) -> float:
    try:
        return (directory / OWNER).stat().st_mtime
    except OSError:
        return 0.0


def _removed(path: Path, only_look: bool) -> Finding | None:
    """Remove a sweep, unless a command has just begun to use it."""
    try:
        held = hold(path)
    except OSError:
        return None
    try:
        if not only_look:
            remove(put_aside(path))
    except StoreError as exc:
        return Finding("reported", f"'{path}', an old sweep, cannot be removed: {exc}")
    finally:
        os.close(held)
    return Finding("removed", f"'{path}', an old sweep")
