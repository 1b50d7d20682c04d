"""Files of a version directory: repeating them without copying, and forcing them to the disk."""

from __future__ import annotations

import errno
import os
import shutil
import stat
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


def make_directories(path: Path, mode: int = 0o755) -> None:
    """Make a directory with those above it; what is made gets this mode, whatever the umask is.

    Raises:
        OSError: it cannot be made.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        directory.chmod(mode)


def narrow(tree: Path, directory_mode: int, file_mode: int) -> list[tuple[Path, int]]:
    """Return what in a tree, itself included, has another mode than it should have, each with that mode."""
    wanted = [(tree, directory_mode)]
    for root, names, members in os.walk(tree, onerror=_raise):
        wanted += [(Path(root) / name, directory_mode) for name in names]
        wanted += [(Path(root) / name, file_mode) for name in members]
    own = [(path, mode) for path, mode in wanted if not path.is_symlink()]
    return [(path, mode) for path, mode in own if stat.S_IMODE(path.stat().st_mode) != mode]


def set_modes(tree: Path, directory_mode: int, file_mode: int) -> None:
    """Give a tree's directories and files their modes; what has them already is not touched.

    Raises:
        OSError: a mode cannot be set, such as that of somebody else's file.
    """
    for path, mode in narrow(tree, directory_mode, file_mode):
        path.chmod(mode)


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
