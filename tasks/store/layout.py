"""Version directories: reads their numbers as TensorFlow Serving does, and claims the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import LockTimeout, StoreError, VersionExists
from tasks.savedmodel.files import fsync_path
from tasks.store.history import read

STAGING = ".staging-"  # not a number, so TensorFlow Serving ignores it
HIGHEST = ".highest"  # the highest number ever used; survives the removal of old versions
MAX_VERSION = 2**63 - 1
LOCK_S = 60  # claiming a number takes milliseconds


def version_number(name: str) -> int | None:
    """Return the version that TensorFlow Serving sees in a child's name, or None.

    Source: `strings::safe_strto64` on the whole name in
    tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc: a file counts, too, and so does a sign.
    """
    if not re.fullmatch(r"[+-]?\d+", name, flags=re.ASCII):
        return None
    return int(name) if -MAX_VERSION <= int(name) <= MAX_VERSION else None


def versions(model_dir: Path) -> dict[int, Path]:
    """Return a mapping from number to path of the versions in a model's directory, in ascending order.

    Raises:
        VersionExists: two children have the same number (`1` and `00001`).
    """
    found: dict[int, Path] = {}
    for child in sorted(model_dir.iterdir()) if model_dir.is_dir() else []:
        number = version_number(child.name)
        if number is None:
            continue
        if number in found:
            raise VersionExists(
                f"a version number must be unique in '{model_dir}', got '{found[number].name}' and '{child.name}'; "
                "remove the wrong one"
            )
        found[number] = child
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Claim:
    """A staging directory that becomes the next version when it is complete."""

    staging: Path
    model_dir: Path
    live_dir: Path
    width: int

    def publish(self) -> Path:
        """Rename the staging directory to the next number and return it.

        Raises:
            LockTimeout, StoreError: the number cannot be claimed.
        """
        with next_number(self.model_dir, self.live_dir) as number:
            target = self.model_dir / f"{number:0{self.width}d}"
            try:
                self.staging.rename(target)
                fsync_path(self.model_dir)
            except OSError as exc:
                raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc
        return target


@contextlib.contextmanager
def next_number(model_dir: Path, live_dir: Path) -> Iterator[int]:
    """Yield the next number, which is unique; it is not used again even if the block fails.

    Raises:
        LockTimeout, StoreError: no number can be claimed.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(model_dir / ".lock", timeout=LOCK_S):
            number = next_version(model_dir, live_dir)
            _write_highest(model_dir, number)
            yield number
    except Timeout as exc:
        raise LockTimeout(
            f"only one export can claim a number at a time: '{exc.lock_file}' was held for {LOCK_S} s; run it again"
        ) from exc
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc


@contextlib.contextmanager
def claim_version(model_dir: Path, live_dir: Path, width: int) -> Iterator[Claim]:
    """Yield a staging directory below `model_dir`; if it is not published, it is removed at the end."""
    try:
        staging, held = _held_directory(model_dir)
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc
    try:
        yield Claim(staging, model_dir, live_dir, width)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(held)


def _held_directory(model_dir: Path) -> tuple[Path, int]:
    """Create a staging directory that is locked until this process ends; return it and its descriptor.

    The lock lets the doctor recognise what a killed export left behind.
    """
    while True:
        staging = model_dir / f"{STAGING}{uuid.uuid4().hex}"
        staging.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):
            held = os.open(staging, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
            if staging.is_dir():
                return staging, held
            os.close(held)  # a doctor removed it before it was locked


def remove_abandoned(model_dir: Path, *, only_look: bool) -> list[Path]:
    """Remove the staging directories of exports whose process has ended, and return their paths.

    Raises:
        StoreError: one cannot be removed.
    """
    found = []
    for staging in sorted(model_dir.glob(f"{STAGING}*/")):
        try:
            descriptor = os.open(staging, os.O_RDONLY)
        except FileNotFoundError:
            continue  # it has just become a version
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if staging.is_dir():
                found.append(staging)
                if not only_look:  # while it is locked: an export that has just created it notices, and creates another
                    shutil.rmtree(staging)
        except BlockingIOError:
            pass  # its export is running
        except OSError as exc:
            raise StoreError(f"'{staging}' must be removable, got {exc.strerror or exc}") from exc
        finally:
            os.close(descriptor)
    return found


def check_writable(directory: Path, field: str) -> None:
    """Raise `StoreError` if a directory is not writable, or cannot be created.

    A temporary file is written, because modes do not show that a file system is full or read-only.

    Args:
        field: name of the directory in the configuration.
    """
    there = directory
    try:
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as exc:
        raise StoreError(
            f"{field} must be in a writable directory, but '{there}' is not writable: {exc.strerror}; change its "
            f"permissions, or set {field}"
        ) from exc


def next_version(model_dir: Path, live_dir: Path) -> int:
    """Return a number that is higher than every number of candidates and live versions so far."""
    try:
        highest = int((model_dir / HIGHEST).read_text())
    except (OSError, ValueError):
        highest = 0
    ever_live = (entry.version for entry in read(live_dir))
    number = max([highest, *versions(model_dir), *versions(live_dir), *ever_live]) + 1
    if number > MAX_VERSION:
        raise VersionExists(f"a version number must be below 2**63, but '{live_dir}' has used all of them")
    return number


def _write_highest(model_dir: Path, number: int) -> None:
    temporary = model_dir / f"{STAGING}highest"
    with temporary.open("w") as stream:
        stream.write(f"{number}\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(model_dir / HIGHEST)
    fsync_path(model_dir)
