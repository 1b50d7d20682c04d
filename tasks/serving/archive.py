"""Streams a version directory as a tar archive, which is copied into a container without a shared path."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tasks.errors import StoreError

CHUNK_BYTES = 1 << 20


def tar_stream(version_dir: Path, prefix: str) -> Iterator[bytes]:
    """Yield `version_dir` as an uncompressed tar below `<prefix>/<N>/`, in chunks of at most 1 MiB.

    Everything belongs to root and is readable by all users, so that a server without privileges can read the model
    and cannot change it.

    Raises:
        StoreError: a file in it cannot be read.
    """
    try:
        yield _header(prefix)
        for root, names, members in os.walk(version_dir, onerror=_raise):
            place = PurePosixPath(prefix, version_dir.name, Path(root).relative_to(version_dir))
            names.sort()
            yield _header(str(place))
            for member in sorted(members):
                yield from _file(Path(root, member), str(place / member))
        yield bytes(2 * tarfile.BLOCKSIZE)
    except OSError as exc:  # an HTTP client would regard it as a broken connection
        raise StoreError(
            f"The files of a version directory must be readable, but {exc.filename} is not: "
            f"{exc.strerror}. Export it again."
        ) from exc


def tar_file(name: str, content: bytes) -> bytes:
    """Return a tar archive of one small file that all users can read."""
    return _header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def _raise(error: OSError) -> None:
    raise error


def _header(name: str, size: int | None = None) -> bytes:
    """Return the header blocks of a file of `size` bytes, or of a directory."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = (tarfile.DIRTYPE, 0o755) if size is None else (tarfile.REGTYPE, 0o444)
    info.size = size or 0
    return info.tobuf(tarfile.PAX_FORMAT)


def _file(path: Path, name: str) -> Iterator[bytes]:
    """Yield the header of a file, its bytes and the zero padding of its last block."""
    size = path.stat().st_size
    yield _header(name, size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    yield bytes(-size % tarfile.BLOCKSIZE)
