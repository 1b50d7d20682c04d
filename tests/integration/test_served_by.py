"""What a real server reports beside what the history says: `history --served-by URL`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import history
from tasks.store.history import append
from tasks.store.serving_config import MODELS_CONFIG, labels_of, listed_versions, write_config
from tests.integration.model_server.conftest import RunningServer, ServerStarter
from tests.store_driver import SIGNER, Store

LONG_S = 600


@pytest.fixture
def starter() -> Iterator[ServerStarter]:
    """Start servers that are stopped at the end."""
    starting = ServerStarter()
    yield starting
    starting.stop_all()


def ask(store: Store, server: RunningServer, *more: str) -> int:
    return history.main(["--dir", str(store.live), "--served-by", f"http://127.0.0.1:{server.rest_port}", *more])


def available(server: RunningServer) -> set[str]:
    return {version for version, state in server.states("m").items() if state == "AVAILABLE"}


def test_a_server_of_the_highest_version(
    tmp_path: Path, starter: ServerStarter, capsys: pytest.CaptureFixture[str]
) -> None:
    """It agrees with the history, until a version is put there by hand, files are changed, or it is another model's."""
    store = Store(tmp_path / "live" / "m", tmp_path / "candidates", tmp_path / "aliases.json")
    for _ in range(2):
        store.promote(store.export())
    flags = [f"--model_base_path={store.live}", "--file_system_poll_wait_seconds=1"]
    server = starter.start("--model_name=m", *flags)
    server.wait_for(lambda: available(server) == {"2"}, LONG_S)
    assert ask(store, server) == 0
    out = capsys.readouterr().out
    assert "version 2, which is stable, is AVAILABLE" in out
    assert "reports versions and not bytes" in out

    kept = (store.live / "2" / "saved_model.pb").read_bytes()
    (store.live / "2" / "saved_model.pb").unlink()  # a hard link of the candidate's
    (store.live / "2" / "saved_model.pb").write_bytes(kept[:-1])
    assert ask(store, server) == 3
    assert "the files of version 2" in capsys.readouterr().err
    (store.live / "2" / "saved_model.pb").write_bytes(kept)
    assert ask(store, server) == 0

    shutil.copytree(store.live / "1", store.live / "9")  # by hand
    server.wait_for(lambda: available(server) == {"9"}, LONG_S)
    capsys.readouterr()
    assert ask(store, server) == 3
    said = capsys.readouterr().err
    assert "version 9 is AVAILABLE, but it is not in the history" in said
    assert "requests without a version get version 9, but version 2 is live in the history" in said
    assert "version 2, which is stable in the history, is END" in said

    server.process.terminate()
    server.process.wait(LONG_S)
    assert ask(store, server) == 1


def test_a_server_with_labels(tmp_path: Path, starter: ServerStarter, capsys: pytest.CaptureFixture[str]) -> None:
    """Each label must name the version that the history says, whatever `models.config` has become since."""
    store = Store(tmp_path / "live" / "m", tmp_path / "candidates", tmp_path / "aliases.json", "labels")
    for _ in range(2):
        store.promote(store.export())
    server = starter.start(
        f"--model_config_file={tmp_path / 'live' / MODELS_CONFIG}", "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
    )  # fmt: skip
    server.wait_for(lambda: available(server) == {"1", "2"}, LONG_S)
    assert ask(store, server) == 0
    out = capsys.readouterr().out
    assert "version 1, which is stable, is AVAILABLE, and its label 'stable' names it" in out
    assert "version 2, which is canary, is AVAILABLE, and its label 'canary' names it" in out
    write_config(store.live, listed_versions(store.live), {**labels_of(store.live), "stable": 2})  # by hand
    server.wait_for(lambda: ask(store, server) == 3, LONG_S)
    assert "the label 'stable' names version 2 on the server, and version 1 in the history" in capsys.readouterr().err


def test_a_server_that_serves_nothing_of_the_history(
    tmp_path: Path, starter: ServerStarter, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rollback that a server has not followed shows: it serves what the history no longer names."""
    store = Store(tmp_path / "live" / "m", tmp_path / "candidates", tmp_path / "aliases.json")
    store.promote(store.export())
    server = starter.start("--model_name=m", f"--model_base_path={store.live}", "--file_system_poll_wait_seconds=0")
    server.wait_for(lambda: available(server) == {"1"}, LONG_S)
    append(store.live, 2, "live", "d" * 64, SIGNER)
    append(store.live, 1, "rolled back", "e" * 64, SIGNER)
    assert ask(store, server) == 3
    assert "version 2, which is stable in the history, is not loaded" in capsys.readouterr().err
