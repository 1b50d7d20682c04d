"""A version directory as a tar stream, for putting it into a container without sharing a path with it."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tasks.errors import StoreError

CHUNK_BYTES = 1 << 20


def tar_stream(version_dir: Path, prefix: str) -> Iterator[bytes]:
    """Yield `version_dir` as an uncompressed tar below `<prefix>/<N>/`, never more than 1 MiB at once.

    Owner and mode are set anew: everything belongs to root and can be read by everybody, so that a server
    without privileges can read the model and cannot change it.

    Raises:
        StoreError: something in it cannot be read.
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
    except OSError as exc:  # an HTTP client that is fed from here would take it for a broken connection
        raise StoreError(
            f"A version directory must stay as it is, and {exc.filename} cannot be read: "
            f"{exc.strerror}. Export it again."
        ) from exc


def tar_file(name: str, content: bytes) -> bytes:
    """Return a tar of one small file that everybody can read."""
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
    """Yield a file's header, its bytes and the zeros that fill its last block."""
    size = path.stat().st_size
    yield _header(name, size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    yield bytes(-size % tarfile.BLOCKSIZE)
