"""Version directories: reads their numbers as TensorFlow Serving does, and claims the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import LockTimeout, StoreError, VersionExists
from tasks.savedmodel.files import fsync_path
from tasks.store.history import read

STAGING = ".staging-"  # not a number, so TensorFlow Serving ignores it
HELD = ".lock"  # suffix of the file that an export locks while it fills a staging directory
HIGHEST = ".highest"  # the highest number ever used; survives the removal of old versions
MAX_VERSION = 2**63 - 1
LOCK_S = 60  # claiming a number takes milliseconds
Free = Callable[[int], bool]
"""Claims a number among all machines that share no disk, and returns whether it was free."""


def _free(number: int) -> bool:
    """Claim a number where all machines share the disk, whose lock is enough."""
    return True


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
    is_free: Free = _free

    def publish(self) -> Path:
        """Rename the staging directory to the next number and return it.

        Raises:
            LockTimeout, StoreError: the number cannot be claimed.
        """
        with next_number(self.model_dir, self.live_dir, self.is_free) as number:
            target = self.model_dir / f"{number:0{self.width}d}"
            try:
                self.staging.rename(target)
                fsync_path(self.model_dir)
            except OSError as exc:
                raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc
        return target


@contextlib.contextmanager
def next_number(model_dir: Path, live_dir: Path, is_free: Free = _free) -> Iterator[int]:
    """Yield the next number, which is unique; it is not used again even if the block fails.

    Args:
        is_free: asked for one number after the other, until one is.

    Raises:
        LockTimeout, StoreError: no number can be claimed.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(model_dir / ".lock", timeout=LOCK_S):
            number = next_version(model_dir, live_dir)
            while not is_free(number):
                number += 1
            _write_highest(model_dir, number)
            yield number
    except Timeout as exc:
        raise LockTimeout(
            f"only one export can claim a number at a time: '{exc.lock_file}' was held for {LOCK_S} s; run it again"
        ) from exc
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc


@contextlib.contextmanager
def claim_version(model_dir: Path, live_dir: Path, width: int, is_free: Free = _free) -> Iterator[Claim]:
    """Yield a staging directory below `model_dir`; if it is not published, it is removed at the end."""
    with staging_directory(model_dir) as staging:
        yield Claim(staging, model_dir, live_dir, width, is_free)


@contextlib.contextmanager
def staging_directory(model_dir: Path) -> Iterator[Path]:
    """Yield an empty directory below `model_dir` that is removed at the end, or by the next run if this process dies.

    Raises:
        StoreError: it cannot be created.
    """
    try:
        staging, held = _held_directory(model_dir)
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _lock_of(staging).unlink(missing_ok=True)
        os.close(held)


def _lock_of(staging: Path) -> Path:
    return staging.with_name(f"{staging.name}{HELD}")


def _held_directory(model_dir: Path) -> tuple[Path, int]:
    """Create a staging directory whose lock is held until this process ends; return it and the lock's descriptor.

    The lock lets the doctor recognise what a killed export left behind. It is a file beside the directory, because NFS
    does not pass the lock of a directory to other hosts. Sources: flock(2); nfs_dir_operations in Linux' fs/nfs/dir.c.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    while True:
        staging = model_dir / f"{STAGING}{uuid.uuid4().hex}"
        held = os.open(_lock_of(staging), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if _is_named(held, _lock_of(staging)):  # else a doctor removed it before it was locked
                staging.mkdir()
                return staging, held
        except BaseException:
            _lock_of(staging).unlink(missing_ok=True)
            os.close(held)
            raise
        os.close(held)


def _is_named(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has this name; NFS renames a file that is removed while it is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def remove_abandoned(model_dir: Path, *, only_look: bool) -> list[Path]:
    """Remove the staging directories of exports whose process has ended, and return their paths.

    Raises:
        StoreError: one cannot be removed.
    """
    found = []
    files = {path.with_suffix("") for path in model_dir.glob(f"{STAGING}*{HELD}")}
    for staging in sorted({*files, *model_dir.glob(f"{STAGING}*/")}):
        with _abandoned(staging) as is_abandoned:
            if is_abandoned:
                found += [staging] if staging.is_dir() else []
                if not only_look:  # while it is locked: an export that has just begun notices, and begins again
                    _remove(staging)
    return found


def _remove(staging: Path) -> None:
    try:
        if staging.is_dir():
            shutil.rmtree(staging)
        _lock_of(staging).unlink(missing_ok=True)
    except OSError as exc:
        raise StoreError(f"'{staging}' must be removable, got {exc.strerror or exc}") from exc


@contextlib.contextmanager
def _abandoned(staging: Path) -> Iterator[bool]:
    """Yield whether no export fills a directory, and hold its lock meanwhile; earlier releases lock the directory."""
    lock = _lock_of(staging)
    try:
        descriptor = os.open(lock, os.O_RDWR) if lock.exists() else os.open(staging, os.O_RDONLY)
    except OSError:  # it has just become a version, or belongs to another user
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its export is running
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


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
