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
    """Repeat a tree with hard links; where there can be none, copy each file and force it to the disk."""

    def link_or_copy(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError as exc:
            if exc.errno not in NO_LINKS:
                raise
            shutil.copyfile(a, b)
            fsync_path(Path(b))

    shutil.copytree(source, target, copy_function=link_or_copy)
    for root, _, _ in os.walk(target):
        fsync_path(Path(root))
