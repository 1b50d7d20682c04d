"""Files of a version directory: repeating them without copying, and forcing them to the disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

NO_LINKS = {
    errno.EXDEV,
    errno.EPERM,
    errno.EMLINK,
    errno.EOPNOTSUPP,
}  # another file system, or one without links


def fsync_path(path: Path) -> None:
    """Force a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_tree(source: Path, target: Path) -> None:
    """Repeat a tree with hard links; where there can be none, copy each file and force it to the disk.

    Unlike `shutil.copytree` it ends at the first error, which then says what it is (a full disk, above all).
    """
    for root, names, members in os.walk(source, onerror=_raise):
        directory = target / Path(root).relative_to(source)
        directory.mkdir(parents=True)
        links = [name for name in names if (Path(root) / name).is_symlink()]  # repeated, for the manifest to refuse
        for name in [*members, *links]:
            _link_or_copy(Path(root) / name, directory / name)
    for root, _, _ in os.walk(target):
        fsync_path(Path(root))


def _raise(error: OSError) -> None:
    raise error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        if not target.is_symlink():
            fsync_path(target)
