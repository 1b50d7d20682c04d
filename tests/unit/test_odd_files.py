"""What may lie in a version directory: everything is in the digest, or is refused."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.sections.gates import Safety
from tasks.errors import ManifestMismatch
from tasks.gates.safety import judge_safety
from tasks.savedmodel.files import copy_tree, open_plain
from tasks.savedmodel.manifest import hash_files, verify_manifest, write_manifest
from tests.data.hand_written import Model


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    """Return a small SavedModel, as TensorFlow leaves it: with an empty directory for assets."""
    directory = tmp_path / "1"
    Model().read(directory)
    (directory / "variables").mkdir()
    (directory / "variables" / "variables.index").write_bytes(b"12345")
    (directory / "assets").mkdir()
    return directory


def a_link(directory: Path) -> None:
    (directory / "odd").symlink_to("/etc/passwd")


def a_link_to_a_directory(directory: Path) -> None:
    (directory / "odd").symlink_to("/etc")


def a_link_to_nothing(directory: Path) -> None:
    (directory / "odd").symlink_to("nowhere")


def a_pipe(directory: Path) -> None:
    os.mkfifo(directory / "variables" / "odd")


def a_socket(directory: Path) -> None:
    before = Path.cwd()
    os.chdir(directory)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("odd")
    finally:
        os.chdir(before)


def an_empty_directory(directory: Path) -> None:
    (directory / "assets" / "odd").mkdir()


def a_name_of_two_lines(directory: Path) -> None:
    (directory / "odd\nname").write_text("x")


def a_name_that_is_no_text(directory: Path) -> None:
    Path(os.fsdecode(bytes(directory) + b"/odd\xff")).write_text("x")


def a_directory_that_is_no_text(directory: Path) -> None:
    path = Path(os.fsdecode(bytes(directory) + b"/odd\x1b"))
    path.mkdir()
    (path / "inner").write_text("x")


ODD = [
    a_link,
    a_link_to_a_directory,
    a_link_to_nothing,
    a_pipe,
    a_socket,
    an_empty_directory,
    a_name_of_two_lines,
    a_name_that_is_no_text,
    a_directory_that_is_no_text,
]


@pytest.mark.parametrize("add", ODD)
def test_what_is_no_plain_file_is_refused(add: Callable[[Path], None], version_dir: Path) -> None:
    """Links, pipes, sockets, empty directories and names that are no text have no digest, and fail the gate."""
    add(version_dir)
    for refused in (hash_files, write_manifest):
        with pytest.raises(ManifestMismatch, match="must contain regular files only, got .*odd") as caught:
            refused(version_dir)
        assert str(caught.value).isprintable()
    result = judge_safety(Model().read(version_dir), Safety())
    assert not result.passed
    assert "files must be plain" in result.summary
    assert "odd" in result.summary
    assert result.summary.isprintable()


def forbid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the right to read a path away; root has every right, and is answered as others are."""
    path.chmod(0)
    if os.geteuid():
        return

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(asked: Any, *arguments: Any, **options: Any) -> Any:
            if Path(asked) == path:
                raise PermissionError(13, "Permission denied", str(asked))
            return real(asked, *arguments, **options)

        return opened

    monkeypatch.setattr(os, "open", guarded(os.open))
    monkeypatch.setattr(os, "scandir", guarded(os.scandir))


@pytest.mark.parametrize("name", ["variables/variables.index", "variables"])
def test_what_cannot_be_read_is_refused(name: str, version_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a directory without permission is one line, never left out of the digest."""
    forbid(version_dir / name, monkeypatch)
    with pytest.raises(ManifestMismatch, match=r"variables.*Permission denied|Permission denied.*variables") as caught:
        hash_files(version_dir)
    assert "\n" not in str(caught.value)
    (version_dir / name).chmod(0o700)


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    """Between the look and the opening a file may become a pipe, a link or a device: an error, at once."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("pipe", "link", "."):
        with pytest.raises(OSError, match=r"regular file|symbolic links"):
            open_plain(tmp_path / name)
    with pytest.raises(OSError, match="regular file"):
        open_plain(Path("/dev/zero"))


def test_a_hard_link_is_a_file_like_any_other(version_dir: Path, tmp_path: Path) -> None:
    """Versions share their files by hard links: what counts is the content, which is in the digest."""
    before = write_manifest(version_dir)
    (tmp_path / "elsewhere").hardlink_to(version_dir / "variables" / "variables.index")
    assert hash_files(version_dir) == before
    (version_dir / "variables" / "more").hardlink_to(tmp_path / "elsewhere")
    assert hash_files(version_dir).digest != before.digest


def test_names_that_differ_in_case_are_two_files(version_dir: Path) -> None:
    """A file of the same name in capitals is another file, and is in the digest."""
    before = write_manifest(version_dir)
    (version_dir / "SAVED_MODEL.PB").write_bytes(b"x")
    assert hash_files(version_dir).digest != before.digest


def test_the_digest_of_older_versions_holds(version_dir: Path) -> None:
    """A version that TensorFlow left an empty `assets` in keeps its digest, with the directory and without it."""
    manifest = write_manifest(version_dir)
    assert [path for path, _, _ in manifest.files] == ["saved_model.pb", "variables/variables.index"]
    assert verify_manifest(version_dir, manifest.digest) == manifest
    (version_dir / "assets").rmdir()
    assert verify_manifest(version_dir, manifest.digest) == manifest


def test_a_second_graph_in_text_is_refused(version_dir: Path) -> None:
    """A saved_model.pbtxt beside the saved_model.pb is ambiguous, and is refused by the gate."""
    assert judge_safety(Model().read(version_dir), Safety()).passed
    (version_dir / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    result = judge_safety(Model().read(version_dir), Safety())
    assert not result.passed
    assert "saved_model.pbtxt beside saved_model.pb" in result.summary


def test_a_copy_can_be_changed_and_removed(version_dir: Path, tmp_path: Path) -> None:
    """A model that lies read-only, as in a package store, becomes a candidate that its user can finish and remove."""
    digest = write_manifest(version_dir).digest
    copy = tmp_path / "copy"
    copy.mkdir()
    for directory in (version_dir, version_dir / "variables"):
        directory.chmod(0o555)
    copy_tree(version_dir, copy)
    for directory in (version_dir, version_dir / "variables"):
        directory.chmod(0o755)
    assert all(path.stat().st_mode & 0o700 == 0o700 for path in (copy, *copy.glob("**/")))
    assert verify_manifest(copy, digest)
    shutil.rmtree(copy)
