"""Bad input by the command line: one line that says what to do, the right exit code, nothing half-made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# A user's module: everything that can be wrong with one.
PROJECT = """
import numpy as np

def load(): return np.arange(200, dtype=np.float32).reshape(100, 2), np.arange(100) % 2

def broken(): raise RuntimeError("the warehouse\\nis closed")

def garbled():
    import pandas as pd
    table = pd.read_csv("garbled.csv")
    return table[["a"]], table["b"]

def named(features, metric, options=None):
    import keras
    inputs = keras.Input((2,), name="x")
    model = keras.Model(inputs, {"a<b": keras.layers.Dense(2, activation="softmax", name="a_b")(inputs)})
    model.compile("adam", "sparse_categorical_crossentropy",
                  metrics=[keras.metrics.SparseCategoricalAccuracy(name=metric)])
    return model

def build(features, width=2):
    import keras
    inputs = keras.Input((width,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
"""
CONFIG = """
name: mine
data: {load: "project:load"}
model: {build: "project:build"}
training: {epochs: 1}
"""


@pytest.fixture
def user(workspace: Any) -> Any:
    """Return a workspace with a user's own module and configuration, and no database."""
    (workspace.directory / "mlflow.db").unlink()
    (workspace.directory / "project.py").write_text(PROJECT)
    (workspace.directory / "cfg.yaml").write_text(CONFIG)
    (workspace.directory / "garbled.csv").write_bytes(b"a,b\n1,2\n3,4,5,6\n\xff\xfe")
    return workspace


def fail(user: Any, code: int, words: list[str], *overrides: str) -> None:
    """Assert that a run ends with one line with these words and this code, and leaves nothing half-made."""
    arguments = [word for item in overrides for word in ("--set", item)]
    done = user.run(*arguments, config=user.directory / "cfg.yaml")
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stdout + done.stderr
    assert [line for line in lines if line.startswith("error: ")] == lines, done.stderr
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]
    assert user.versions("mine") == []
    assert not user.directory.joinpath("mlflow.db").exists()
    left = {path.name for path in user.work_dir.rglob("*") if path.name != ".lock"}
    ours = {path.name for part in ("runs", "rows") for path in (user.work_dir / part).glob("*")}
    files = {"train.npz", "validation.npz", "test.npz", "model.keras", "owner.json"}
    assert left <= {"candidates", "runs", "rows", "mine", "data"} | files | ours


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.load=project:broken", ["data.load 'project:broken'", "RuntimeError: the warehouse is closed"]),
        pytest.param("data.load=project:garbled", ["data.load 'project:garbled'"], marks=pytest.mark.long),
        pytest.param("model.params={width: 3}", ["input", "(?, 3)", ", 2)"], marks=pytest.mark.long),
        pytest.param("export.inputs={x: nothing}", ["export.inputs", "nothing"], marks=pytest.mark.long),
    ],
)
def test_what_the_user_brought_does_not_work(user: Any, override: str, words: list[str]) -> None:
    """A loader, table, builder, model or name that does not work is one line with exit code 1."""
    fail(user, 1, words, override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        pytest.param("data.load=project:absent", ["project:absent"], marks=pytest.mark.long),
        ("model.build=project:absent", ["project:absent"]),
        pytest.param("model.build=projcet:build", ["no module 'projcet'"], marks=pytest.mark.long),
        ("gates.safety.allow_ops=[ReadFle]", ["gates.safety.allow_ops", "'ReadFle'", "did you mean 'ReadFile'?"]),
        ("trainnig.epochs=2", ["unknown key 'trainnig'", "did you mean 'training'?"]),
    ],
)
def test_the_configuration_is_wrong(user: Any, override: str, words: list[str]) -> None:
    """A name that the user's own module does not have is found before anything runs, with exit code 2."""
    fail(user, 2, words, override)
    assert not user.work_dir.exists()


def test_docker_is_asked_for_and_absent(user: Any) -> None:
    """serving.backend=docker without an engine fails before any row is loaded, and names the remedy."""
    user.env["DOCKER_HOST"] = f"unix://{user.directory}/nobody.sock"
    fail(user, 1, ["Docker", "serving.backend"], "serving.backend=docker", "data.load=project:broken")
    assert not user.work_dir.exists()


def test_the_tracking_server_does_not_answer(user: Any, unused_address: str) -> None:
    """A tracking server that does not answer is found out before any row is loaded."""
    fail(user, 1, ["tracking.uri", unused_address], f"tracking.uri={unused_address}", "data.load=project:broken")
    assert not user.work_dir.exists()


@pytest.mark.long
def test_the_tracking_file_has_no_directory(user: Any) -> None:
    """A database below a file, not a directory, is found out before any row is loaded."""
    uri = f"sqlite:///{user.directory}/cfg.yaml/mlflow.db"
    fail(user, 1, ["tracking.uri", "writable directory"], f"tracking.uri={uri}", "data.load=project:broken")
    assert not user.work_dir.exists()


@pytest.mark.parametrize("section", ["work_dir", pytest.param("models_root", marks=pytest.mark.long)])
def test_an_output_directory_that_cannot_be(user: Any, section: str) -> None:
    """A work_dir or models_root that is a file is one line that names it, and nothing else is touched."""
    before = user.directory.joinpath("cfg.yaml").read_bytes()
    target: Path = user.directory / "cfg.yaml"
    arguments = ["--set", f"{section}={target}"]
    done = user.run(*arguments, config=target)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert section in done.stderr
    assert target.read_bytes() == before


@pytest.mark.long
def test_names_that_mlflow_does_not_take(user: Any) -> None:
    """Metrics, parameters and outputs may be called as people like: MLflow gets them in a form that reads back."""
    from mlflow import MlflowClient

    overrides = ("model.build=project:named", "model.params={metric: 'recall@2', options: {'lr (max)': 0.1}}")
    output = ("export.outputs={ab: 'a<b'}", "gates.metrics={accuracy: {min: 0}}")
    words = [word for item in (*overrides, *output) for word in ("--set", item)]
    done = user.run(*words, config=user.directory / "cfg.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(user.tracking_uri, user.tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert {"recall_x40_2", "val_recall_x40_2"} <= set(run.data.metrics)
    assert run.data.params["model.params.options.lr _x28_max_x29_"] == "0.1"


@pytest.mark.long
def test_a_deleted_experiment_is_found_while_the_model_trains(user: Any) -> None:
    """An experiment that was deleted is one line, said before the training has ended, and is not tried again."""
    from mlflow import MlflowClient

    client = MlflowClient(user.tracking_uri, user.tracking_uri)
    client.delete_experiment(client.create_experiment("mine"))
    words = ("--set", "training.epochs=100000", "--set", "training.patience=0")
    done = user.run(*words, config=user.directory / "cfg.yaml")
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: experiment 'mine' must be active, but it is deleted; restore it"), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout.count("-- train_model") == 1
