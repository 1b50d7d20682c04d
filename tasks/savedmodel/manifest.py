"""The manifest: one digest for all bytes of a version directory."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ManifestMismatch
from tasks.savedmodel.files import fsync_path, open_plain, walk

MANIFEST = Path("assets.extra") / "manifest.json"  # TensorFlow Serving ignores unknown files there


@dataclass(frozen=True)
class Manifest:
    """Path, size in bytes and SHA-256 of every file but the manifest itself, sorted by path."""

    files: tuple[tuple[str, int, str], ...]

    @property
    def digest(self) -> str:
        """Return the SHA-256 over all files, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.files, separators=(",", ":")).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Return the sum of the files' sizes."""
        return sum(size for _, size, _ in self.files)


def write_manifest(directory: Path) -> Manifest:
    """Hash every file, write the manifest, and flush all of them to the disk."""
    manifest = hash_files(directory)
    target = directory / MANIFEST
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(_text(manifest))
    for root, _, names in os.walk(directory):
        for name in names:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))
    return manifest


def _text(manifest: Manifest) -> bytes:
    entries = [{"path": path, "size": size, "sha256": sha} for path, size, sha in manifest.files]
    return (json.dumps({"digest": manifest.digest, "files": entries}, indent=1) + "\n").encode()


def verify_manifest(directory: Path, digest: str) -> Manifest:
    """Hash every file again, and compare the result with `digest` and, byte for byte, with the manifest.

    Raises:
        ManifestMismatch: a file or the digest differs.
    """
    found = hash_files(directory)
    if found.digest != digest:
        raise ManifestMismatch(
            f"'{directory}' must contain the files that were validated (digest {digest[:12]}), "
            f"got digest {found.digest[:12]}: {_difference(directory, found)}"
        )
    kept = (directory / MANIFEST).read_bytes() if (directory / MANIFEST).is_file() else b""
    if kept != _text(found):
        raise ManifestMismatch(
            f"'{directory / MANIFEST}' must be as the export wrote it, but it was {'changed' if kept else 'removed'}; "
            "the other files are unchanged. Restore the manifest, or export the model again"
        )
    return found


def holds(directory: Path, digest: str) -> bool:
    """Return whether a directory has every byte of the files with this digest, and their manifest, and nothing else."""
    try:
        verify_manifest(directory, digest)
    except (ManifestMismatch, OSError):
        return False
    return True


def read_manifest(text: bytes, digest: str) -> Manifest:
    """Return the manifest that a text is, byte for byte, if it has this digest and its paths stay in the directory.

    Raises:
        ManifestMismatch: it is not.
    """
    try:
        listed = tuple((entry["path"], entry["size"], entry["sha256"]) for entry in json.loads(text)["files"])
        found = Manifest(listed)
        good = found.digest == digest and _text(found) == text and all(map(_is_file, listed))
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise ManifestMismatch(f"it is not the manifest of digest {digest[:12]}")
    return found


def _is_file(entry: tuple[object, object, object]) -> bool:
    path, size, sha = entry
    return (
        isinstance(path, str)
        and path.isprintable()
        and path != MANIFEST.as_posix()
        and not {"", ".", ".."} & {*path.split("/")}
        and isinstance(size, int)
        and size >= 0
        and isinstance(sha, str)
        and len(sha) == 64
    )


def _difference(directory: Path, found: Manifest) -> str:
    try:
        entries = json.loads((directory / MANIFEST).read_text())["files"]
        listed = {(e["path"], e["size"], e["sha256"]) for e in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    paths = sorted({entry[0] for entry in listed ^ set(found.files)})
    return f"changed: {', '.join(paths[:5])}" if paths else "its manifest was rewritten too"


def declared_digest(version_dir: Path) -> str:
    """Return the digest that a version's own manifest declares, or an empty string."""
    try:
        with open_plain(version_dir / MANIFEST) as file:
            return str(json.loads(file.read())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def hash_files(directory: Path) -> Manifest:
    """Return the manifest of the files that are on the disk now.

    Raises:
        ManifestMismatch: an entry is not a regular file or cannot be read, so that the digest would not cover it.
    """
    files = []
    for entry in walk(directory):
        path = directory / entry.name
        if entry.odd:
            raise ManifestMismatch(
                f"a version directory must contain regular files only, got {entry.odd}: {str(path)!r}; remove it"
            )
        if entry.name == MANIFEST.as_posix():
            continue
        try:
            with open_plain(path) as stream:
                sha = hashlib.file_digest(stream, "sha256").hexdigest()
                files.append((entry.name, os.fstat(stream.fileno()).st_size, sha))
        except OSError as exc:
            raise ManifestMismatch(
                f"every file of a version directory must be readable, got {str(path)!r} ({exc.strerror}); "
                "make it readable, or remove it"
            ) from exc
    return Manifest(tuple(sorted(files)))
