"""The files of a version directory: lists them, links them without copying, and flushes them to the disk."""

from __future__ import annotations

import contextlib
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
    """An entry of a directory: a file, or something that must not be there.

    Attributes:
        name: path below the directory, with slashes.
        size: in bytes.
        odd: what is wrong with it; empty for a regular file.
    """

    name: str
    size: int
    odd: str = ""


def walk(directory: Path) -> Iterator[Entry]:
    """Yield every regular file below a directory, and everything else that is there, by name.

    Links, pipes, sockets and devices are odd. So is what a digest of files would not cover: empty directories,
    directories that cannot be read, and names that are not text. Nothing is opened.
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
    if not name.isprintable():  # control characters, and bytes that are not UTF-8
        return "a name that is not printable text"
    if stat.S_ISLNK(mode):
        return "a link"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "neither a file nor a directory"


def open_plain(path: Path) -> BufferedReader:
    """Open a regular file for reading; never wait if a pipe has replaced it.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "must be a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, most: int) -> bytes:
    """Return what is in a regular file of at most so many bytes, so that none can fill the memory.

    Raises:
        OSError: as `open_plain`, or the file is larger.
    """
    with open_plain(path) as stream:
        if os.fstat(stream.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
        return stream.read()


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, partial: Path, mode: int | None = None) -> None:
    """Replace a file as a whole and flush it to the disk: a reader sees the old or the new bytes, never a part.

    Args:
        partial: a name in the same directory, under which the bytes are written first.
        mode: mode of the file; None uses the umask.

    Raises:
        OSError: the file cannot be written, and the old one is there; or the new one is there, and its directory cannot
            be flushed.
    """
    try:
        with partial.open("wb") as stream:
            if mode is not None and stat.S_IMODE(os.fstat(stream.fileno()).st_mode) != mode:
                os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # on a full disk, the next try needs its space
        raise
    fsync_path(path.parent)


def make_directories(path: Path, mode: int = 0o755) -> None:
    """Create a directory and its parents with this mode, regardless of the umask; setgid is inherited.

    Raises:
        OSError: a directory cannot be created.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        _chmod(directory, mode)


def narrow(tree: Path, directory_mode: int, file_mode: int | None) -> list[tuple[Path, int]]:
    """Return the entries of a tree, including its root, that have the wrong mode, each with the right mode.

    Args:
        file_mode: None accepts files with any mode.
    """
    wanted = [(tree, directory_mode)]
    for root, names, members in os.walk(tree, onerror=_raise):
        wanted += [(Path(root) / name, directory_mode) for name in names]
        wanted += [(Path(root) / name, file_mode) for name in members if file_mode is not None]
    own = [(path, mode) for path, mode in wanted if not path.is_symlink()]
    return [(path, mode) for path, mode in own if stat.S_IMODE(path.stat().st_mode) & ~stat.S_ISGID != mode]


def set_modes(tree: Path, directory_mode: int, file_mode: int | None) -> None:
    """Set the modes of the directories and files of a tree, where they differ.

    Args:
        file_mode: None leaves files as they are.

    Raises:
        OSError: a mode cannot be set, such as that of another user's file.
    """
    for path, mode in narrow(tree, directory_mode, file_mode):
        _chmod(path, mode)


def _chmod(path: Path, mode: int) -> None:
    """Set a mode; a directory keeps its setgid bit."""
    status = path.stat().st_mode
    path.chmod(mode | (status & stat.S_ISGID if stat.S_ISDIR(status) else 0))


def pass_groups_on(tree: Path) -> None:
    """Set the group of files in setgid directories to the directory's, because a hard link keeps its old group.

    Raises:
        OSError: this user is not a member of the group.
    """
    for root, _, members in os.walk(tree, onerror=_raise):
        directory = Path(root).stat()
        for member in members if directory.st_mode & stat.S_ISGID else ():
            if os.lstat(Path(root) / member).st_gid != directory.st_gid:
                os.chown(Path(root) / member, -1, directory.st_gid, follow_symlinks=False)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree into a directory; its directories can be changed and removed, even if those of the source cannot.

    Raises:
        OSError: a file cannot be read or written.
    """
    shutil.copytree(source, target, dirs_exist_ok=True)
    for root, _, _ in os.walk(target, onerror=_raise):
        Path(root).chmod(stat.S_IMODE(Path(root).stat().st_mode) | stat.S_IRWXU)


def link_tree(source: Path, target: Path) -> None:
    """Create a copy of a tree with hard links; where links are not possible, copy each file and flush it.

    Unlike `shutil.copytree`, it stops at the first error and raises it, such as a full disk.
    """
    for root, names, members in os.walk(source, onerror=_raise):
        directory = target / Path(root).relative_to(source)
        directory.mkdir(parents=True)
        links = [name for name in names if (Path(root) / name).is_symlink()]  # copied for the manifest to refuse
        for name in [*members, *links]:
            link_or_copy(Path(root) / name, directory / name)
    for root, _, _ in os.walk(target):
        fsync_path(Path(root))


def _raise(error: OSError) -> None:
    raise error


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file; where links are not possible, copy it and flush it to the disk."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        if not target.is_symlink():
            fsync_path(target)
