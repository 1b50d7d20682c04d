"""Sends the files of a version to the store and gets them from there; every byte is compared with the digest."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tasks.errors import ManifestMismatch, StoreError
from tasks.objects.bucket import Bucket, FileObject
from tasks.objects.live import Stored
from tasks.savedmodel.files import fsync_path, open_plain
from tasks.savedmodel.manifest import MANIFEST, Manifest, read_manifest, verify_manifest


def send(bucket: Bucket, model: str, stored: Stored, directory: Path) -> None:
    """Write the files of a directory into the store, and read all of them back.

    Raises:
        ManifestMismatch: the directory, or what the store gives back, is not what was judged.
    """
    manifest = verify_manifest(directory, stored.digest)
    bucket.upload(_objects(model, stored, directory, manifest, (directory / MANIFEST).read_bytes()))


def check(bucket: Bucket, model: str, stored: Stored) -> None:
    """Read all files of a version in the store.

    Raises:
        ManifestMismatch: they are not what its digest says.
    """
    manifest, text = _manifest(bucket, model, stored)
    bucket.check(_objects(model, stored, Path(), manifest, text))


def is_listed(bucket: Bucket, model: str, stored: Stored) -> bool:
    """Return whether the store still has every object of some files, which were read back before; no file is read.

    Raises:
        ManifestMismatch: their manifest is gone, or another one.
    """
    manifest, text = _manifest(bucket, model, stored)
    listed = {found.key for found in bucket.objects(f"{model}/{stored.path}/")}
    return {file.key for file in _objects(model, stored, Path(), manifest, text)} <= listed


def fetch(bucket: Bucket, model: str, stored: Stored, staging: Path) -> None:
    """Fill a directory with the files of a version; complete files from an earlier try are kept.

    Raises:
        ManifestMismatch: the store has other files than the digest says. StoreError: a file cannot be written.
    """
    manifest, text = _manifest(bucket, model, stored)
    files = _objects(model, stored, staging, manifest, text)
    try:
        for path in {file.path.parent for file in files}:
            path.mkdir(parents=True, exist_ok=True)
        wanted = {file.path for file in files}
        for path in [path for path in staging.rglob("*") if not path.is_dir() or path.is_symlink()]:
            if path not in wanted:
                path.unlink()
        bucket.download([file for file in files if not _is_complete(file)])
        for path in [staging, *(path for path in staging.rglob("*") if path.is_dir())]:
            fsync_path(path)
    except OSError as exc:
        raise StoreError(f"'{exc.filename or staging}' must be writable, got {exc.strerror}") from exc
    verify_manifest(staging, stored.digest)


def _manifest(bucket: Bucket, model: str, stored: Stored) -> tuple[Manifest, bytes]:
    key = f"{model}/{stored.path}/{MANIFEST.as_posix()}"
    found = bucket.read(key)
    where = f"'{bucket.address}/{key}'"
    if found is None or found.content is None:
        raise ManifestMismatch(f"{where} is missing")
    try:
        return read_manifest(found.content, stored.digest), found.content
    except ManifestMismatch as exc:
        raise ManifestMismatch(f"{where} cannot be used: {exc}") from exc


def _objects(model: str, stored: Stored, directory: Path, manifest: Manifest, text: bytes) -> list[FileObject]:
    own = (MANIFEST.as_posix(), len(text), hashlib.sha256(text).hexdigest())
    return [
        FileObject(f"{model}/{stored.path}/{path}", directory / path, size, sha)
        for path, size, sha in (*manifest.files, own)
    ]


def _is_complete(file: FileObject) -> bool:
    try:
        with open_plain(file.path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError:
        if file.path.is_dir() and not file.path.is_symlink():  # another version has a directory of this name
            shutil.rmtree(file.path)
        return False
