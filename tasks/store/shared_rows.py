"""Stores equal files of rows once: files of several run directories are hard links to `<work_dir>/rows/<SHA-256>.npz`.

A run directory is complete without the shared directory, and the file system counts who uses a file. Whatever goes
wrong, a run keeps the file that it wrote itself.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import logging
import os
import re
from pathlib import Path
from uuid import uuid4

from configs.schema import Config
from tasks.records import Splits

log = logging.getLogger(__name__)

ROWS = "rows"
ENTRY = re.compile(r"[0-9a-f]{64}\.npz")
LINKING = ".linking-"  # prefix of a name that replaces another one next


def share_rows(config: Config, splits: Splits) -> None:
    """Store the rows of a run once with the equal rows of other runs; the paths do not change."""
    for path in (splits.train, splits.validation, splits.test, splits.groups):
        if path is not None:
            share(config, path)


def share(config: Config, path: Path) -> None:
    """Make a complete file a hard link to an equal file of another run, or let other runs link to it.

    Files are only equal if all their bytes are. Without room, permission or hard links, the file stays as it is.
    """
    try:
        with path.open("rb") as file:
            entry = config.work_dir / ROWS / f"{hashlib.file_digest(file, 'sha256').hexdigest()}.npz"
        entry.parent.mkdir(exist_ok=True)
        if not _is_new(path, entry):
            _replace(entry, path) if _is_complete(entry, path) else _mend(entry, path)
    except OSError as exc:
        log.debug("'%s' is not shared: %s", path, exc)


def remove_unused(config: Config) -> None:
    """Remove shared files that no run directory has, and names that a killed process left; files of others stay.

    A run that links to a file at this moment keeps it, because a file exists as long as it has a name.
    """
    for entry in _files(config.work_dir / ROWS):
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if entry.name.startswith(LINKING) or (ENTRY.fullmatch(entry.name) and status.st_nlink == 1):
                entry.unlink()


def _files(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _is_new(path: Path, entry: Path) -> bool:
    """Return whether this is the first file with these bytes, or the entry itself."""
    try:
        os.link(path, entry)
    except FileExistsError:
        return path.samefile(entry)
    return True


def _is_complete(entry: Path, path: Path) -> bool:
    """Return whether an entry is a file with the same bytes; what a link leads to may be removed by somebody."""
    return not entry.is_symlink() and filecmp.cmp(path, entry, shallow=False)


def _mend(entry: Path, path: Path) -> None:
    """Replace an entry that is not what its name says, such as after a power failure, by a complete file."""
    log.warning("'%s' was damaged; this run's rows replace it", entry)
    _replace(path, entry)


def _replace(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`; a reader sees the old or the new file."""
    link = target.with_name(f"{LINKING}{uuid4().hex}")
    os.link(source, link)
    try:
        link.replace(target)
    except OSError:
        link.unlink(missing_ok=True)
        raise
