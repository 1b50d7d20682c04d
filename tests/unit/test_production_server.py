"""What is looked at before training where production is concerned, and what is made for it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.loading import load_config
from configs.schema import Config
from tasks.errors import StoreError
from tasks.production.server import look_at_production, make_startable, production_flags, start_command
from tasks.records import ServerFacts
from tasks.store.layout import check_writable


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """Return a configuration with labels, whose production server is not there."""
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen: nobody else can, either
        url = f"promote.live_url=http://127.0.0.1:{held.getsockname()[1]}"
        yield load_config(tmp_path / "cfg.yaml", ["promote.layout=labels", url])


def test_looking_changes_nothing(config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A look at production says how to start it and makes nothing; what it is started on is made when it is asked."""
    file = tmp_path / "models" / "models.config"
    with caplog.at_level(logging.WARNING):
        look_at_production(config)
    assert f"--model_config_file={file}" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["cfg.yaml"]
    make_startable(config)
    assert file.read_text() == "model_config_list {}\n"
    file.write_text("model_config_list { }\n")
    make_startable(config)
    assert file.read_text() == "model_config_list { }\n"


def test_how_production_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is of the kind that judged, and can be pasted wherever the live directory lies."""
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    config, embedded = load_config(tmp_path / "cfg.yaml"), ServerFacts("embedded", "", "", "", "", 1.0, tmp_path)
    monkeypatch.chdir(tmp_path)
    usual = "--port=8500 --rest_api_port=8501 --max_num_load_retries=0 --model_name=m --model_base_path="
    assert start_command(config, embedded).endswith(f" {usual}$PWD/models/m")
    far = config.model_copy(update={"models_root": Path("/mnt/all models")})
    assert start_command(far, embedded).endswith(f" {usual}'/mnt/all models/m'")
    assert production_flags(far).endswith(" --model_name=m --model_base_path='/mnt/all models/m'")
    docker = start_command(far, ServerFacts("docker", "", "tensorflow/serving:2.19.1", "", "", 1.0, tmp_path))
    assert "-v '/mnt/all models/m':/models/m:ro tensorflow/serving:2.19.1 --max_num_load_retries=0" in docker


def test_nothing_is_made_without_labels(config: Config, tmp_path: Path) -> None:
    """With the layout `latest` a server is started on a directory alone."""
    promote = config.promote.model_copy(update={"layout": "latest"})
    make_startable(config.model_copy(update={"promote": promote}))
    assert [path.name for path in tmp_path.iterdir()] == ["cfg.yaml"]


@pytest.mark.parametrize("where", ["file", "file/below/it", "/proc/models", "/dev/null", "link"])
def test_no_writable_directory(tmp_path: Path, where: str) -> None:
    """What is no directory, or one that nobody can write to, is named with the field and the system's own words."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(StoreError, match=r"^models_root must be in a writable directory, but '.*' is not writable: \w"):
        check_writable(tmp_path / where, "models_root")


def test_a_directory_that_can_be_made(tmp_path: Path) -> None:
    """A directory that is there, or can be made where the nearest one is, passes, and nothing is left in it."""
    for directory in (tmp_path, tmp_path / "a" / "b"):
        check_writable(directory, "models_root")
    assert list(tmp_path.iterdir()) == []
