"""The main job by its command line: promoted, rejected, not promoted; what goes live and what stays as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.datasets.rows import load_arrays
from tasks.datasets.strings import as_bytes

# TensorFlow and MLflow warn while they are imported and used, about the next NumPy, protobuf or Python;
# these tests look at files with them and judge neither.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
EPOCHS = ("--set", "training.epochs=15")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, open_workspace: Callable[[Path], Any]) -> Any:
    """Return the workspace of one user who runs the digits example again and again."""
    return open_workspace(tmp_path_factory.mktemp("digits"))


def runs(workspace: Any) -> list[Any]:
    """Return the MLflow runs of the workspace, the oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(workspace.tracking_uri, workspace.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def served_equals_in_process(live_dir: Path, evidence: Path) -> None:
    """Assert that a live directory, loaded by TensorFlow, gives what the Keras model gave in process."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(live_dir))
    requests, reference = load_arrays(evidence / "requests.npz"), load_arrays(evidence / "reference.npz")
    fed = {name: tf.constant(as_bytes(rows)) for name, rows in requests.items()}
    answers = loaded.signatures["serving_default"](**fed)
    assert sorted(answers) == sorted(reference)
    for name, rows in reference.items():
        np.testing.assert_allclose(answers[name].numpy(), rows, rtol=1e-5, atol=1e-6)


def evidence_of(workspace: Any, number: int) -> Path:
    """Return the directory of the n-th run, counted from 1."""
    return sorted((workspace.work_dir / "runs").iterdir())[number - 1]


def test_the_first_run_promotes_version_1(digits: Any) -> None:
    """With a temporary Prefect server of its own, a first run exits 0, and the judged bytes are live as version 1."""
    address = digits.env.pop("PREFECT_API_URL")
    done = digits.run(*EPOCHS)
    digits.env["PREFECT_API_URL"] = address
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "promoted" in done.stdout
    live, candidate = digits.models_root / "digits" / "1", digits.work_dir / "candidates" / "digits" / "1"
    assert digits.tree(live) == digits.tree(candidate)
    assert (live / "saved_model.pb").stat().st_ino == (candidate / "saved_model.pb").stat().st_ino
    served_equals_in_process(live, evidence_of(digits, 1))


def test_the_second_run_promotes_version_2(digits: Any) -> None:
    """A second run goes live as version 2 and leaves version 1 as it was, byte for byte."""
    before = digits.tree(digits.models_root / "digits" / "1")
    assert before
    done = digits.run(*EPOCHS, "--set", "seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted" in done.stdout
    assert digits.tree(digits.models_root / "digits" / "1") == before
    served_equals_in_process(digits.models_root / "digits" / "2", evidence_of(digits, 2))


def test_a_rejected_run_changes_nothing_live(digits: Any) -> None:
    """A missed bound exits 3 and names metric, value and bound; what is live stays; MLflow says rejected."""
    before = {number: digits.tree(digits.models_root / "digits" / str(number)) for number in digits.versions()}
    assert len(before) == 2
    done = digits.run("--set", "training.epochs=1", "--set", "gates.metrics.accuracy=0.9999")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "rejected" in done.stdout
    assert "at least 0.9999" in done.stdout
    assert {n: digits.tree(digits.models_root / "digits" / str(n)) for n in digits.versions()} == before
    tags = runs(digits)[-1].data.tags
    assert (tags["validation_status"], tags["promotion"], tags["failed_gates"]) == ("rejected", "rejected", "quality")


@pytest.mark.long
def test_without_promotion_nothing_is_live(workspace: Any) -> None:
    """--no-promote judges and logs, exits 0, and creates no live directory; the candidate waits."""
    done = workspace.run(*EPOCHS, "--no-promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not promoted" in done.stdout
    assert workspace.versions() == []
    assert (workspace.work_dir / "candidates" / "digits" / "1" / "saved_model.pb").is_file()
    [run] = runs(workspace)
    assert (run.data.tags["promotion"], run.data.tags["validation_status"]) == ("not promoted", "passed")


@pytest.mark.long
def test_who_reads_decides_nothing(workspace: Any) -> None:
    """A reader that goes away after the first line (`| head -1`) changes neither exit code nor production."""
    process = workspace.start(*EPOCHS)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(600) == 0
    assert workspace.versions() == [1]
    assert "Broken pipe" not in process.stderr.read()


@pytest.mark.long
def test_a_table_of_numbers_and_text_goes_live(workspace: Any, repository: Path) -> None:
    """The penguins example goes live and answers as in process, its vocabulary included."""
    done = workspace.run(config=repository / "configs" / "penguins.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    served_equals_in_process(workspace.models_root / "penguins" / "1", evidence_of(workspace, 1))


@pytest.mark.docker
def test_a_container_judges_and_promotes(workspace: Any, test_image: str) -> None:
    """With serving.backend=docker a real container judges, and its bytes go live and answer as in process."""
    workspace.env["DOCKER_HOST"] = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    done = workspace.run(*EPOCHS, "--set", "serving.backend=docker", "--set", f"serving.image={test_image}")
    assert done.returncode == 0, done.stdout + done.stderr
    served_equals_in_process(workspace.models_root / "digits" / "1", evidence_of(workspace, 1))
    [run] = runs(workspace)
    assert run.data.tags["backend"] == "docker"
    assert run.data.tags["image"] == test_image
