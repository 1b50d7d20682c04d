"""A version is trained and exported again from what was recorded of it; what differs is named."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.loading import ConfigError, load_config
from flows import rebuild
from tasks.datasets.prepare import prepare_splits
from tasks.errors import StoreError
from tasks.rebuild import find_made
from tasks.records import Candidate, GateResult, TrackedRun, ValidationReport
from tasks.savedmodel.exporter import export_savedmodel
from tasks.savedmodel.safety import read_graph
from tasks.store.history import append, read
from tasks.store.rehearsals import KEPT, Rehearsed, save_rehearsal
from tasks.training.fit import fit_model

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
ROOT = Path(__file__).parents[2]
CODE = """
import csv
from pathlib import Path

import numpy as np

import ourlib


def load():
    with (Path(__file__).parent / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    size, word = (np.array([row[name] for row in rows]) for name in ("size", "word"))
    return {"size": size.astype(np.float32), "word": word}, np.array([row["late"] for row in rows], np.int64)


def build(features, hidden=4):
    import keras

    size, word = keras.Input((1,), name="size"), keras.Input((1,), name="word", dtype="string")
    lookup = keras.layers.StringLookup(output_mode="one_hot")
    lookup.adapt(features["word"])
    joined = keras.layers.Concatenate()([size, lookup(word)])
    start = keras.initializers.RandomUniform(-ourlib.SCALE, ourlib.SCALE)
    middle = keras.layers.Dense(hidden, activation="relu", kernel_initializer=start, name="middle")(joined)
    model = keras.Model([size, word], keras.layers.Dense(2, activation="softmax", name="late")(middle))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
"""
CONFIG = """name: parcel
data: {load: "my_model:load"}
model: {build: "my_model:build"}
training: {epochs: 2}
tracking: {uri: "sqlite:///absent/mlflow.db"}
"""


def write_package(directory: Path, version: str, scale: float) -> None:
    """Install a package of the user's, as pip does: a module and its metadata."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / f"ourlib-{version}.dist-info").mkdir(parents=True)
    (directory / "ourlib.py").write_text(f"SCALE = {scale}\n")
    (directory / f"ourlib-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: ourlib\nVersion: {version}\n"
    )


def rows() -> list[str]:
    return [f"{number % 17 + number / 200},{'abc'[number % 3]},{int(number % 17 > 8)}" for number in range(120)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a user whose version 1 was trained, exported and judged here."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "my_model.py").write_text(CODE)
    (directory / "cfg.yaml").write_text(CONFIG)
    (directory / "rows.csv").write_text("\n".join(["size,word,late", *rows()]) + "\n")
    write_package(directory / "packages", "1.0", 0.5)
    # A run trains in a process of its own: tables are named by what the process has built before.
    making = "import sys, pathlib; from tests.integration.test_rebuild import make_version as made; "
    subprocess.run(
        [sys.executable, "-c", f"{making}made(pathlib.Path(sys.argv[1]))", str(directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(directory / "packages")])},
        check=True,
    )
    sys.path.insert(0, str(directory / "packages"))
    try:
        yield directory
    finally:
        sys.path.remove(str(directory / "packages"))
        for name in ("my_model", "ourlib"):
            sys.modules.pop(name, None)


def make_version(directory: Path) -> None:
    """Do what a run does up to its verdict."""
    config = load_config(directory / "cfg.yaml")
    run_dir, version_dir = config.work_dir / "runs" / "r", config.candidates_dir / "1"
    for made in (run_dir, version_dir):
        made.mkdir(parents=True)
    splits = prepare_splits(config.data, run_dir / "data")
    trained = fit_model(config, splits, run_dir / "model.keras")
    exported = export_savedmodel(config, splits, trained, version_dir, run_dir)
    candidate = Candidate(
        config.name, 1, version_dir, exported.digest, exported.signature, exported.size_bytes,
        run_dir / "requests.npz", run_dir / "reference.npz", splits.test,
    )  # fmt: skip
    gates = (GateResult("size", passed=True, summary=""),)
    report = ValidationReport(candidate, read_graph(version_dir), None, gates)
    save_rehearsal(config.candidates_dir, Rehearsed(splits, trained, report, TrackedRun("", "", config.name, 0, "")))
    append(config.live_dir, 1, "validated", exported.digest)


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project, which is moved with its record, and whose package other processes find."""
    directory = tmp_path / "moved"
    shutil.copytree(project, directory)
    monkeypatch.syspath_prepend(directory / "packages")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(directory / "packages")]))
    importlib.invalidate_caches()
    return directory


@pytest.fixture
def rebuilt(copy: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that rebuilds version 1 by the command line, and returns the exit code and what was said."""

    def running(*options: str) -> tuple[int, str]:
        code = rebuild.main(["--config", str(copy / "cfg.yaml"), "--version", "1", *options])
        out, err = capfd.readouterr()
        return code, " ".join((out + err).split())

    return running


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if "__pycache__" not in path.parts}


def test_the_same_bytes_are_made_again(copy: Path, rebuilt: Callable[..., tuple[int, str]]) -> None:
    """Another process makes the same digest of what was recorded, and leaves nothing behind; the file is not used."""
    (copy / "cfg.yaml").write_text(CONFIG.replace("epochs: 2", "epochs: 3"))
    before, history = tree(copy), read(load_config(copy / "cfg.yaml").live_dir)
    code, said = rebuilt()
    assert code == 0, said
    assert "parcel version 1 was rebuilt with the same bytes: digest " in said
    assert "cfg.yaml differs from the record, which is used: training.epochs was 2 and is 3" in said
    assert tree(copy) == before
    assert read(load_config(copy / "cfg.yaml").live_dir) == history


def test_one_changed_row_is_named(copy: Path, rebuilt: Callable[..., tuple[int, str]]) -> None:
    """A changed value gives other bytes, code 3, and the row with both values; variables and files follow."""
    lines = rows()
    lines[5] = lines[5].replace("5.025", "5.75")
    (copy / "rows.csv").write_text("\n".join(["size,word,late", *lines]) + "\n")
    code, said = rebuilt()
    assert code == 3, said
    assert "parcel version 1 was rebuilt with other bytes: its digest is " in said
    assert "rows 1 row is gone, and 1 row is new" in said
    assert "has other values: size was 5.025 and is 5.75" in said
    assert "package" not in said
    assert "parameter" not in said
    assert "variable middle/kernel: the largest difference is " in said
    assert "file variables/variables.data-00000-of-00001 has other bytes" in said


def test_one_changed_package_is_named(copy: Path, rebuilt: Callable[..., tuple[int, str]]) -> None:
    """A new version of a package that initializes the weights is named, and the variables; the rows are the same."""
    write_package(copy / "packages", "2.0", 0.25)
    code, said = rebuilt()
    assert code == 3, said
    assert "package ourlib was 1.0 and is 2.0" in said
    assert said.count("package ") == 1
    assert "weights the trained weights differ" in said
    assert "rows " not in said
    assert "operation " not in said


def test_one_changed_parameter_is_named(rebuilt: Callable[..., tuple[int, str]]) -> None:
    """With --as-configured a parameter of today is used and named, and so are the shapes and operations it changes."""
    code, said = rebuilt("--as-configured", "--set", "model.params={hidden: 6}")
    assert code == 3, said
    assert "parameter model.params.hidden was not set and is 6" in said
    assert said.count("parameter ") == 1
    assert "package " not in said
    assert "variable middle/kernel was float32 (5, 4), and is float32 (5, 6)" in said


def test_a_version_that_does_not_exist(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another number ends with code 2 and names the numbers that there are, before anything is trained."""
    assert rebuild.main(["--config", str(copy / "cfg.yaml"), "--version", "7"]) == 2
    assert "--version must be a version of 'parcel', got 7; there are 1" in capfd.readouterr().err


def test_no_database_is_made(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where neither a record nor MLflow's database is there, code 1 says so, and no database is made to look into."""
    shutil.rmtree(copy / ".rehearsal")
    words = ["--config", str(copy / "cfg.yaml"), "--set", "tracking.uri=sqlite:///new.db", "--version", "1"]
    assert rebuild.main(words) == 1
    assert "what version 1 was trained with must be recorded, but neither" in capfd.readouterr().err
    assert not (copy / "new.db").exists()


def test_where_nothing_is_recorded(copy: Path, tmp_path: Path) -> None:
    """Without a record of the training, such as of an earlier release, one line says so and what to do."""
    config = load_config(copy / "cfg.yaml")
    [record] = (config.candidates_dir / KEPT).glob("*.json")
    kept = json.loads(record.read_text())
    del kept["trained"]["recipe"]
    record.write_text(json.dumps(kept))
    with pytest.raises(StoreError, match=r"what version 1 was trained with must be recorded, but neither.*Run again"):
        find_made(config, 1, tmp_path / "found")
    kept["trained"]["source"] = "models:/other/1"
    record.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"version 1 was trained elsewhere \('models:/other/1'\)"):
        find_made(config, 1, tmp_path / "found")


def test_what_is_gone_is_not_compared(copy: Path, tmp_path: Path) -> None:
    """Where files and rows are gone, the digest, the list of files and the number of rows are left to compare."""
    config = load_config(copy / "cfg.yaml")
    shutil.rmtree(config.work_dir / "runs")
    made = find_made(config, 1, tmp_path / "a")
    assert made.splits is None
    assert made.directory == config.candidates_dir / "1"
    assert made.missing == (
        "the rows of its run are gone: they are compared by their digest, their number and the version's record",
    )
    (config.candidates_dir / "1" / "saved_model.pb").write_bytes(b"damaged")
    made = find_made(config, 1, tmp_path / "b")
    assert made.directory is None
    assert len(made.recorded.files) > 4
    assert made.missing[0].startswith("the files of the version are gone: variables, operations and rows")
