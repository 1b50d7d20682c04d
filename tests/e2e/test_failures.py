"""A server that cannot judge says so in seconds: which kind of failure, in its own words, with the remedy."""

from __future__ import annotations

import io
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import numpy as np
import pytest
from mlflow import MlflowClient

from configs.sections.serving import Serving
from tasks.errors import ModelLoadError, PipelineError, PredictionError, ServingError, ServingTimeout
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.serving.launch import throwaway_server
from tests.e2e.conftest import built_image

MODELS = Path("tests/data/tfs_rest/models")
BACKENDS = [pytest.param("embedded"), pytest.param("docker", marks=pytest.mark.docker)]
X, R = TensorSpec("a", "float32", (None, 3)), TensorSpec("r", "float32", (None, 3))


def make_candidate(model: str, directory: Path) -> Candidate:
    """Copy one of the recorded models as version 1."""
    version_dir = directory / model / "1"
    shutil.copytree(MODELS / model / "1", version_dir)
    nowhere = directory / "none"
    return Candidate(model, 1, version_dir, "", Signature((X,), (R,)), 0, nowhere, nowhere, nowhere)


def serve(backend: str, candidate: Candidate, directory: Path, image: str, **settings: float) -> None:
    """Start the server and let it go again."""
    serving = Serving(image=image or "none", **settings)  # type: ignore[arg-type]
    with throwaway_server(Backend(backend, image), serving, candidate, directory / "server.log"):
        pass


def cut_index(version_dir: Path) -> None:
    index = version_dir / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:10])


def garbage_graph(version_dir: Path) -> None:
    (version_dir / "saved_model.pb").write_bytes(b"\xff" * 100)


def unknown_op(version_dir: Path) -> None:
    graph = version_dir / "saved_model.pb"
    assert b"\x06MatMul" in graph.read_bytes()
    graph.write_bytes(graph.read_bytes().replace(b"\x06MatMul", b"\x06MatMux"))


def no_graph(version_dir: Path) -> None:
    (version_dir / "saved_model.pb").unlink()


def bad_warmup(version_dir: Path) -> None:
    extra = version_dir / "assets.extra"
    extra.mkdir()
    record = b"not a PredictionLog"
    (extra / "tf_serving_warmup_requests").write_bytes(struct.pack("<Q", len(record)) + b"\0\0\0\0" + record)


@pytest.fixture
def image(request: pytest.FixtureRequest) -> str:
    """Return the image of docker tests; the embedded server needs none."""
    docker = request.node.get_closest_marker("docker") is not None
    return str(request.getfixturevalue("test_image")) if docker else ""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_index, "DATA_LOSS"),
        (garbage_graph, "parse"),
        (unknown_op, "MatMux"),
        (no_graph, "SavedModel"),
        (bad_warmup, "(?i)warm|record"),
    ],
)
def test_a_broken_model_is_refused_in_the_servers_words(
    backend: str, damage: Callable[[Path], None], words: str, tmp_path: Path, image: str
) -> None:
    """Each way to break a model ends as a ModelLoadError with the server's own reason and its log, not at a timeout."""
    candidate = make_candidate("dense3", tmp_path)
    damage(candidate.version_dir)
    with pytest.raises(ModelLoadError, match=words) as caught:
        serve(backend, candidate, tmp_path, image, startup_timeout_s=600)
    assert "\n" not in str(caught.value)
    assert caught.value.detail
    assert not caught.value.retryable


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_fails_at_the_first_request(backend: str, tmp_path: Path, image: str) -> None:
    """A model that loads and then raises is a PredictionError with TensorFlow's own message."""
    candidate = make_candidate("multi", tmp_path)
    serving = Serving(image=image or "none")
    with (
        throwaway_server(Backend(backend, image), serving, candidate, tmp_path / "log") as (_, client),
        pytest.raises(PredictionError, match="a must be positive"),
    ):
        client.predict(1, {"a": -np.ones((1, 3), np.float32)}, (R,), "fails")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_for_xla_fails_at_the_first_request(backend: str, tmp_path: Path, image: str) -> None:
    """A jit_compile model loads, as in TensorFlow Serving, and its first request is refused in TensorFlow's words."""
    version_dir = tmp_path / "compiled" / "1"
    shutil.copytree("tests/data/serving_models/compiled/1", version_dir)
    candidate = replace(make_candidate("half", tmp_path), name="compiled", version_dir=version_dir)
    y = TensorSpec("y", "float32", (None,))
    with (
        throwaway_server(Backend(backend, image), Serving(image=image or "none"), candidate, tmp_path / "log") as (
            _,
            client,
        ),
        pytest.raises(PredictionError, match="XLA compilation disabled"),
    ):
        client.predict(1, {"x": np.ones(1, np.float32)}, (y,), "serving_default")


@pytest.mark.docker
def test_an_image_for_another_processor(tmp_path: Path, test_image: str) -> None:
    """A server that dies of an illegal instruction blames its image, and names what to use instead."""
    client = docker.from_env()
    dockerfile = f'FROM {test_image}\nENTRYPOINT ["/bin/sh", "-c", "kill -ILL $$"]\n'
    built, _ = client.images.build(fileobj=io.BytesIO(dockerfile.encode()), rm=True)
    try:
        with pytest.raises(ServingError, match=r"does not run on this processor .*exit status 132"):
            serve("docker", make_candidate("half", tmp_path), tmp_path, str(built.id))
    finally:
        client.images.remove(built.id)
        client.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_answer_in_time(backend: str, tmp_path: Path, image: str) -> None:
    """A server that is not ready in time is a ServingTimeout that names the setting; its log is kept."""
    candidate = make_candidate("half", tmp_path)
    with pytest.raises(ServingTimeout, match=r"not AVAILABLE after 0\.001 s.*startup_timeout_s"):
        serve(backend, candidate, tmp_path, image, startup_timeout_s=0.001)
    assert (tmp_path / "server.log").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_dies_while_it_is_asked(backend: str, tmp_path: Path, image: str) -> None:
    """A server that goes away under a request is explained by its end, not by the broken connection."""
    candidate = make_candidate("dense3", tmp_path)
    x = np.ones((4, 3), np.float32)
    with (
        pytest.raises(PipelineError, match=r"exit status|ended"),
        throwaway_server(Backend(backend, image), Serving(image=image or "none"), candidate, tmp_path / "l") as (
            s,
            c,
        ),
    ):
        kill(s)
        c.predict(1, {"feat": x}, (TensorSpec("d", "float32", (None, 2)),), "serving_default")


def kill(server: object) -> None:
    """Kill a throwaway server as the kernel would."""
    if hasattr(server, "_process"):
        server._process.kill()
    else:
        server._container.kill()  # type: ignore[attr-defined]
    while server.exit_code() is None:  # type: ignore[attr-defined]
        time.sleep(0.02)


@pytest.mark.long
def test_the_servers_log_reaches_mlflow(workspace: Any) -> None:
    """A run whose server cannot judge is a failed MLflow run with the reason and the server's log; exit code 1."""
    run = workspace.run(
        *("--set", "training.epochs=1", "--set", "serving.startup_timeout_s=0.05", "--set", "serving.backend=embedded")
    )
    assert run.returncode == 1
    assert "not AVAILABLE after 0.05 s" in next(line for line in run.stderr.splitlines() if line.startswith("error: "))
    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    (logged,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert logged.info.status == "FAILED"
    assert (logged.data.tags["error"], logged.data.tags["validation_status"]) == ("ServingTimeout", "error")
    assert "not AVAILABLE" in logged.data.tags["mlflow.note.content"]
    assert [entry.path for entry in client.list_artifacts(logged.info.run_id)] == ["server.log"]
    assert workspace.versions() == []


COMPILED = """
name: compiled
data: {load: "tests.data.user_models:groups"}
model: {build: "tests.data.user_models:with_layer", params: {layer: compiled}}
training: {epochs: 1}
"""


@pytest.mark.parametrize(
    ("backend", "warmup_rows"),
    [
        pytest.param("docker", 0, marks=pytest.mark.docker),
        pytest.param("embedded", 8, marks=pytest.mark.long),
        pytest.param("embedded", 0, marks=pytest.mark.long),
        pytest.param("docker", 8, marks=[pytest.mark.docker, pytest.mark.long]),
    ],
)
def test_a_refused_model_is_a_verdict(backend: str, warmup_rows: int, workspace: Any, image: str) -> None:
    """A model that a server refuses, at load or at its first request, is rejected: exit 3, what to do, its log kept."""
    config = workspace.directory / "cfg.yaml"
    config.write_text(COMPILED)
    settings = {"export.warmup_rows": warmup_rows, "serving.backend": backend, "serving.image": image or "none"}
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = workspace.run(*overrides, config=config)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr == ""
    [line] = [line for line in done.stdout.splitlines() if line.startswith("  serving ")]
    assert "FAIL" in line
    assert "XLA compilation disabled" in line
    assert "jit_compile=False" in line
    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    (logged,) = client.search_runs([client.get_experiment_by_name("compiled").experiment_id])
    assert (logged.data.tags["validation_status"], logged.data.tags["failed_gates"]) == ("rejected", "serving")
    paths = [entry.path for entry in client.list_artifacts(logged.info.run_id)]
    assert ("serving.log" in paths, "server.log" in paths) == (True, False)
    assert f"refused by {backend}" in done.stdout
    assert workspace.versions("compiled") == []
    (version,) = client.search_model_versions("name='compiled'")
    assert version.tags["validation_status"] == "rejected"


THREADS = """
import ctypes, resource, runpy, sys, threading
stop = threading.Event()
try:
    for _ in range(1200):
        threading.Thread(target=stop.wait, daemon=True).start()
except RuntimeError:
    sys.stderr.write("2026-11-25 10:00:00.000001: F external/tsl/platform/default/env.cc:74] Check failed: ret == 0 "
                     "(11 vs. 0) Thread tf_ModelDiskSizePool creation via pthread_create() failed.\\n")
    sys.stderr.flush()
    ctypes.CDLL(None).abort()
sys.argv = ["tasks.model_server", *sys.argv[1:]]
runpy.run_module("tasks.model_server", run_name="__main__")
"""


@pytest.fixture(scope="module")
def many_threads() -> Iterator[str]:
    """Build an image whose server starts 1,200 threads, as TensorFlow Serving does on a machine of many processors.

    Without them it ends as that one does: by a failed check and a signal, and a shell has the last word.
    """
    base = os.environ["REHEARSAL_TEST_IMAGE"]
    start = (
        "/opt/serving/bin/python /app/threads.py --port=8500 --rest_api_port=8501 --model_name=$MODEL_NAME "
        '--model_base_path=$MODEL_BASE_PATH/$MODEL_NAME "$@"\nstatus=$?\n'
        '[ $status = 134 ] && echo "$0: line 3:     8 Aborted                 (core dumped) python" >&2\nexit $status\n'
    )
    files = {
        "Dockerfile": f'FROM {base}\nCOPY threads.py start.sh /app/\nENTRYPOINT ["/bin/sh", "/app/start.sh"]\n',
        "threads.py": THREADS,
        "start.sh": start,
    }
    with built_image(files) as image:
        yield image


@pytest.mark.docker
def test_the_limits_suit_a_server_of_many_threads(tmp_path: Path, many_threads: str) -> None:
    """The default limits hold for a server with over a thousand threads, two versions included."""
    candidate = make_candidate("half", tmp_path)
    serving = Serving(image=many_threads)
    with throwaway_server(Backend("docker", many_threads), serving, candidate, tmp_path / "log") as (_, client):
        assert client.states() == {1: ("AVAILABLE", "")}


@pytest.mark.docker
def test_too_few_threads_name_the_limit(tmp_path: Path, many_threads: str) -> None:
    """Below what it starts, the server's end is an error, not a verdict, that names serving.pids_limit."""
    candidate = make_candidate("half", tmp_path)
    with pytest.raises(ServingError, match=r"pthread_create.*Raise serving\.pids_limit\.") as caught:
        serve("docker", candidate, tmp_path, many_threads, pids_limit=512)
    assert type(caught.value) is ServingError
