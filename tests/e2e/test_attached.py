"""The main job on a server that is running already."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.attached_server import SharedServer

COMPILED = """
name: compiled
data: {load: "tests.data.user_models:groups"}
model: {build: "tests.data.user_models:with_layer", params: {layer: compiled}}
training: {epochs: 1}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """Run a server on a shared directory."""
    server = SharedServer(tmp_path_factory.mktemp("attached") / "shared").start()
    yield server
    server.kill()


@pytest.mark.long
def test_the_main_job(workspace: Any, shared: SharedServer) -> None:
    """A candidate that passes goes live; the screen, the report and MLflow say which server judged it."""
    done = workspace.run(*shared.overrides, "--set", "training.epochs=2", "--set", "gates.metrics.accuracy=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"judged by attached {shared.url}: AVAILABLE after" in done.stdout
    assert "-rehearsal-" not in done.stdout
    assert workspace.versions() == [1]
    assert shared.is_empty

    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    (logged,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    tags = logged.data.tags
    assert (tags["backend"], tags["server_url"], tags.get("server_version")) == ("attached", shared.url, None)
    [report] = workspace.directory.rglob("report.html")
    page = html.unescape(report.read_text(encoding="utf-8"))
    assert f"test rows served by the server at {shared.url}" in page
    assert "This run did not start this server" in page
    assert "-rehearsal-" not in page


@pytest.mark.long
def test_a_refused_model(workspace: Any, shared: SharedServer) -> None:
    """A model that the server refuses is rejected by the user's name of it, with what to do, and taken out again."""
    config = workspace.directory / "cfg.yaml"
    config.write_text(COMPILED)
    done = workspace.run(*shared.overrides, config=config)
    assert done.returncode == 3, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("  serving ")]
    assert "'compiled' version 1 but refused it" in line
    assert "XLA compilation disabled" in line
    assert "jit_compile=False" in line
    assert f"refused by attached {shared.url}" in done.stdout
    assert "-rehearsal-" not in done.stdout
    assert workspace.versions("compiled") == []
    assert shared.is_empty
