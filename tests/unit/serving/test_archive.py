"""A version directory as a tar stream."""

import errno
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import StoreError
from tasks.serving.archive import CHUNK_BYTES, tar_stream


def make_version(base: Path, sizes: dict[str, int]) -> Path:
    """Write private files of these sizes as version 7."""
    version_dir = base / "00000007"
    for name, size in sizes.items():
        (version_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (version_dir / name).write_bytes(bytes(i % 251 for i in range(size)))
        (version_dir / name).chmod(0o600)
    return version_dir


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    """Unpacking the stream gives the same bytes below <name>/<N>, whatever the files' sizes."""
    sizes = {"saved_model.pb": 511, "fingerprint.pb": 512, "variables/variables.index": 513, "empty": 0}
    version_dir = make_version(tmp_path, sizes)
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(version_dir, "digits")))) as tar:
        found = {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}
    assert found == {f"digits/00000007/{name}": (version_dir / name).read_bytes() for name in sizes}


def test_a_server_without_privileges_can_read_the_model_and_not_change_it(tmp_path: Path) -> None:
    """Every entry belongs to root, is readable by all and writable by no other, even if it was private."""
    version_dir = make_version(tmp_path, {"saved_model.pb": 10, "variables/variables.index": 10})
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(version_dir, "digits")))) as tar:
        entries = {entry.name: (entry.uid, entry.gid, oct(entry.mode)) for entry in tar}
    assert entries == {
        "digits": (0, 0, "0o755"),
        "digits/00000007": (0, 0, "0o755"),
        "digits/00000007/saved_model.pb": (0, 0, "0o444"),
        "digits/00000007/variables": (0, 0, "0o755"),
        "digits/00000007/variables/variables.index": (0, 0, "0o444"),
    }


def test_a_long_path_survives(tmp_path: Path) -> None:
    """A path longer than the 255 characters that old tar headers hold comes through."""
    name = f"{'a' * 100}/{'b' * 100}/{'c' * 100}"
    version_dir = make_version(tmp_path, {name: 3})
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(version_dir, "digits")))) as tar:
        assert f"digits/00000007/{name}" in tar.getnames()


def test_a_large_file_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """No piece of the stream is larger than a chunk, so memory stays flat however large the model."""
    version_dir = tmp_path / "1"
    version_dir.mkdir()
    with (version_dir / "variables.data").open("wb") as file:
        file.truncate(5 * CHUNK_BYTES + 1)
    pieces = [len(piece) for piece in tar_stream(version_dir, "digits")]
    assert max(pieces) == CHUNK_BYTES
    assert sum(pieces) % tarfile.BLOCKSIZE == 0


def test_a_link_to_a_directory_is_that_directory(tmp_path: Path) -> None:
    """A SavedModel of any name gets a number by a link, and the stream has its files below that number."""
    (tmp_path / "1").symlink_to(make_version(tmp_path, {"saved_model.pb": 3, "variables/variables.index": 4}))
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(tmp_path / "1", "digits")))) as tar:
        assert {entry.name: entry.size for entry in tar if entry.isfile()} == {
            "digits/1/saved_model.pb": 3,
            "digits/1/variables/variables.index": 4,
        }


def test_a_directory_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory within the version that cannot be listed raises instead of becoming an empty one."""
    version_dir = make_version(tmp_path, {"saved_model.pb": 3, "variables/variables.index": 4})
    listing = os.scandir

    def refusing(path: str | Path) -> Any:
        if Path(path).name == "variables":  # root may list everything, so that modes would prove nothing
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StoreError, match="variables is not: Permission denied"):
        list(tar_stream(version_dir, "digits"))


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    """A version directory that is not there raises instead of becoming an empty model."""
    with pytest.raises(StoreError, match="must be readable"):
        list(tar_stream(tmp_path / "1", "digits"))
