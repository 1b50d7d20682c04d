"""The modes of what is published: production runs as another user, whatever the umask of a run is."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import pytest

from configs.loading import ConfigError, load_config
from tasks.store.history import read, state_of
from tasks.store.layout import versions
from tasks.store.repair import repair
from tasks.store.serving_config import EMPTY, MODELS_CONFIG, ensure_config
from tests.store_driver import Store

READER = """
import os, sys
os.setgid(65534), os.setuid(65534)
for root, _, names in os.walk(sys.argv[1], onerror=lambda error: sys.exit(str(error))):
    for name in names:
        open(os.path.join(root, name), "rb").read()
"""


@pytest.fixture(params=[0o077, 0o027, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run a test under a narrow umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(params=["latest", "labels"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "root" / "models" / "m", tmp_path / "candidates", tmp_path / "aliases.json", request.param)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_readable(store: Store) -> None:
    """Production's user can read every version, and what leads to it below the root that was made."""
    for version_dir in versions(store.live).values():
        assert {mode(path) for path in (version_dir, *version_dir.rglob("*")) if path.is_dir()} == {0o755}
        assert {mode(path) for path in version_dir.rglob("*") if path.is_file()} == {0o644}
    for directory in (store.live, store.live.parent, store.live.parent.parent):
        assert mode(directory) == 0o755
    if store.layout == "labels":
        assert mode(store.live.parent / MODELS_CONFIG) == 0o644


def test_what_is_published_can_be_read(umask: int, store: Store) -> None:
    """Under any umask a promotion, a second one and a rollback publish what everyone can read."""
    if umask == 0o777 and os.geteuid() != 0:
        pytest.skip("under umask 777 only root gets on")
    for _ in range(2):
        store.promote(store.export())
        is_readable(store)
    if store.layout == "latest":  # under labels nothing is published again
        store.rollback()
        is_readable(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_it(store: Store, tmp_path: Path) -> None:
    """A process of another user reads every file of the live directory that was published under umask 077."""
    before = os.umask(0o077)
    try:
        store.promote(store.export())
    finally:
        os.umask(before)
    for directory in [tmp_path, *tmp_path.parents]:  # pytest's own are closed to others
        if directory.is_relative_to(gettempdir()) and directory != Path(gettempdir()):
            directory.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(store.live / "1")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to any group")
@pytest.mark.parametrize("linked", [True, False])
def test_a_group_is_passed_on(store: Store, linked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where models_root passes its group on, production's group gets every file, linked or copied, after a rollback."""
    root = store.live.parent
    root.mkdir(parents=True)
    os.chown(root, -1, 54321)
    root.chmod(0o2755)
    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    for _ in range(2):
        store.promote(store.export())
    if store.layout == "latest":
        store.rollback()
    found = [path for version_dir in versions(store.live).values() for path in (version_dir, *version_dir.rglob("*"))]
    assert len(found) > 4
    assert {path.stat().st_gid for path in (store.live, *found)} == {54321}
    assert {mode(path) for path in found if path.is_dir()} == {0o2755}
    assert {mode(path) for path in found if path.is_file()} == {0o644}
    assert repair(store.production, store.candidates) == []


def no_links(*_: object, **__: object) -> None:
    """Stand in for a file system without hard links."""
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    """A models.config whose mode somebody has chosen is replaced with that mode."""
    store = Store(tmp_path / "models" / "m", tmp_path / "candidates", tmp_path / "aliases.json", "labels")
    ensure_config(tmp_path / "models").chmod(0o640)
    store.promote(store.export())
    assert mode(tmp_path / "models" / MODELS_CONFIG) == 0o640


def test_the_doctor_opens_what_was_published_before(tmp_path: Path) -> None:
    """A version that lies closed, as an earlier release published it under umask 077, is named and opened."""
    store = Store(tmp_path / "models" / "m", tmp_path / "candidates", tmp_path / "aliases.json")
    store.promote(store.export())
    for path in (store.live / "1").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    (store.live / "1").chmod(0o700)
    [finding] = repair(store.production, store.candidates, only_look=True)
    assert mode(store.live / "1") == 0o700
    assert (finding.done, f"'{store.live / '1'}' must have mode 0755" in finding.text) == ("finished", True)
    assert [found.text for found in repair(store.production, store.candidates)] == [finding.text]
    is_closed = [path for path in (store.live / "1").rglob("*") if mode(path) not in (0o755, 0o644)]
    assert is_closed == []
    assert repair(store.production, store.candidates) == []
    group = replace(store.production, directory_mode=0o750, file_mode=0o640)
    assert len(repair(group, store.candidates)) == 1
    assert mode(store.live / "1") == 0o750
    assert state_of(read(store.live), 1) == "live"


@pytest.mark.parametrize(
    ("value", "found"), [("0750", "0750"), ("'0750'", "0750"), ("'750'", "0750"), ("0o750", ""), ("750", ""), ("8", "")]
)
def test_modes_in_a_configuration(tmp_path: Path, value: str, found: str) -> None:
    """A mode is octal, as text or as YAML writes it; a decimal number is refused with the way to write it."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    if found:
        assert load_config(path, [f"promote.directory_mode={value}"]).promote.directory_mode == found
        return
    with pytest.raises(ConfigError, match="such as 0755|begin with 07"):
        load_config(path, [f"promote.directory_mode={value}"])


@pytest.mark.parametrize("override", ["directory_mode=0055", "directory_mode=0655", "file_mode=0044"])
def test_modes_that_lock_us_out(tmp_path: Path, override: str) -> None:
    """A mode that closes a directory or a file to its owner is refused."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    with pytest.raises(ConfigError, match="begin with 07"):
        load_config(path, [f"promote.{override}"])


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_the_first_list_replaces_no_other(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list is only begun where there is none: not where NFS hides what another host has written."""
    path = tmp_path / MODELS_CONFIG
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no links")))
    assert ensure_config(tmp_path).read_text() == EMPTY
    assert sorted(found.name for found in tmp_path.iterdir()) == [f".{MODELS_CONFIG}.lock", MODELS_CONFIG]
    if links:
        path.write_text("a list")
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda found: found != path and exists(found))
        assert ensure_config(tmp_path).read_text() == "a list"
