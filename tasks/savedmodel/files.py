"""Files of a version directory: finding them all, repeating them without copying, and forcing them to the disk."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

NO_LINKS = {
    errno.EXDEV,
    errno.EPERM,
    errno.EMLINK,
    errno.EOPNOTSUPP,
}  # another file system, or one without links

EMPTY = frozenset({"", "assets", "variables"})  # the directory itself, and those that TensorFlow makes and may leave so


@dataclass(frozen=True)
class Entry:
    """A file of a directory, or what has no place in one.

    Attributes:
        name: path below the directory, with slashes.
        size: in bytes.
        odd: what is wrong with it; empty for a plain file.
    """

    name: str
    size: int
    odd: str = ""


def walk(directory: Path) -> Iterator[Entry]:
    """Give every plain file below a directory, and whatever else is there, by name.

    Links, pipes, sockets and devices are odd, and so is what a digest of files would leave out: directories without a
    file, those that may not be read, and names that are not text. Nothing is opened.
    """
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            found = sorted(os.scandir(directory / inside), key=lambda entry: entry.name)
        except OSError as exc:
            yield Entry(inside or ".", 0, f"a directory that cannot be read ({exc.strerror})")
            continue
        if not found and inside not in EMPTY:
            yield Entry(inside or ".", 0, "an empty directory")
        for entry in found:
            name = f"{inside}/{entry.name}" if inside else entry.name
            status = entry.stat(follow_symlinks=False)
            odd = _odd(entry.name, status.st_mode)
            if stat.S_ISDIR(status.st_mode) and not odd:
                pending.append(name)
            else:
                yield Entry(name, status.st_size, odd)


def _odd(name: str, mode: int) -> str:
    """Return what is wrong with a file or directory by its name and kind, or an empty string."""
    if not name.isprintable():  # control characters, and bytes that are no UTF-8
        return "a name that is not printable text"
    if stat.S_ISLNK(mode):
        return "a link"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "neither a file nor a directory"


def open_plain(path: Path) -> BufferedReader:
    """Open a file for reading, and never wait for a pipe that has taken its place.

    Raises:
        OSError: it cannot be read, or is no plain file any more.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "must be a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def fsync_path(path: Path) -> None:
    """Force a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path, mode: int = 0o755) -> None:
    """Make a directory with those above it; what is made gets this mode, whatever the umask is, and passes a group on.

    Raises:
        OSError: it cannot be made.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        _chmod(directory, mode)


def narrow(tree: Path, directory_mode: int, file_mode: int) -> list[tuple[Path, int]]:
    """Return what in a tree, itself included, has another mode than it should have, each with that mode."""
    wanted = [(tree, directory_mode)]
    for root, names, members in os.walk(tree, onerror=_raise):
        wanted += [(Path(root) / name, directory_mode) for name in names]
        wanted += [(Path(root) / name, file_mode) for name in members]
    own = [(path, mode) for path, mode in wanted if not path.is_symlink()]
    return [(path, mode) for path, mode in own if stat.S_IMODE(path.stat().st_mode) & ~stat.S_ISGID != mode]


def set_modes(tree: Path, directory_mode: int, file_mode: int) -> None:
    """Give a tree's directories and files their modes; what has them already is not touched.

    Raises:
        OSError: a mode cannot be set, such as that of somebody else's file.
    """
    for path, mode in narrow(tree, directory_mode, file_mode):
        _chmod(path, mode)


def _chmod(path: Path, mode: int) -> None:
    """Set a mode; a directory that passes its group on (setgid) goes on to do so."""
    status = path.stat().st_mode
    path.chmod(mode | (status & stat.S_ISGID if stat.S_ISDIR(status) else 0))


def pass_groups_on(tree: Path) -> None:
    """Give files the group of a directory that passes it on (setgid): a hard link came with the group that it had.

    Raises:
        OSError: the group is not one of ours.
    """
    for root, _, members in os.walk(tree, onerror=_raise):
        directory = Path(root).stat()
        for member in members if directory.st_mode & stat.S_ISGID else ():
            if os.lstat(Path(root) / member).st_gid != directory.st_gid:
                os.chown(Path(root) / member, -1, directory.st_gid, follow_symlinks=False)


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
