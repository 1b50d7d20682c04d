"""Judging a given model: which models and signatures are refused before Prefect and TensorFlow are started."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from flows import rehearse_cli
from tasks.errors import ExportError, StoreError, named_as
from tasks.registry.fetched import find_model, is_uri

MODEL = Path("tests/data/tfs_rest/models/twov/1").absolute()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a directory with a configuration, rows, and models that are none."""
    (tmp_path / "cfg.yaml").write_text("name: m\nserving: {backend: embedded}\n")
    (tmp_path / "rows.csv").write_text("x\n1\n")
    (tmp_path / "old.h5").touch()
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04")
    shutil.copytree(MODEL, tmp_path / "cut")
    (tmp_path / "cut" / "saved_model.pb").write_bytes((MODEL / "saved_model.pb").read_bytes()[:200])
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "{}/none"], "/none', which does not exist"),
        (["--model", "{}/old.h5"], "/old.h5'; load it with Keras and save it as .keras"),
        (["--model", "{}/cut/saved_model.pb"], "/cut/saved_model.pb'; name its directory"),
        (["--model", "{}/cut.keras"], "a .keras file is a zip archive, which"),
        (["--model", "{}/cut"], "/cut/saved_model.pb' must be a valid SavedModel"),
        (["--model", str(MODEL), "--signature", "other"], "got 'other'; it has 'serve', 'serving_default'"),
        (["--model", "foo://x"], "models:/NAME@ALIAS or runs:/RUN/PATH; got 'foo://x'"),
        (["--model", "models:/"], "or runs:/RUN/PATH; got 'models:/'"),
        (["--model", "runs:/"], "or runs:/RUN/PATH; got 'runs:/'"),
        (["--model", "runs:/run"], "or runs:/RUN/PATH; got 'runs:/run'"),
    ],
)
def test_a_mistake_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """A model that cannot be one, or a signature that it does not have, ends with exit code 2 and what to do."""
    placed = [word.replace("{}", str(project)) for word in words]
    options = ["--config", str(project / "cfg.yaml"), "--rows", str(project / "rows.csv"), *placed]
    assert rehearse_cli.main(options) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert said in shown.err
    assert not (project / ".rehearsal").exists()


@pytest.mark.parametrize("option", ["--model", "--rows", "--target", "--trained-on", "--signature", "--image"])
def test_an_empty_value_is_no_default(project: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """An option whose variable of the shell is not set ends the command, which would judge something else."""
    with pytest.raises(SystemExit, match="2"):
        rehearse_cli.main(["--config", str(project / "cfg.yaml"), "--live", option, ""])
    assert f"{option} must have a value, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["models:/m/3", "models:/m@best", "models:/m-0123", "runs:/0123/model", "runs:/1/a/b"])
def test_models_in_mlflow(uri: str) -> None:
    """Every form of MLflow's model URIs is one; a path is none."""
    assert is_uri(uri)
    assert not is_uri("models/m/3")


def test_a_model_below_the_directory_that_is_named(tmp_path: Path) -> None:
    """It is taken if it is the only one there."""
    shutil.copytree(MODEL, tmp_path / "artifacts" / "model")
    assert find_model(tmp_path) == tmp_path / "artifacts" / "model"
    with pytest.raises(ExportError, match=r"which has \d+ of them"):
        find_model(MODEL.parents[1])


def test_a_directory_that_cannot_be_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As those of a kernel's own file systems cannot."""

    def fails(_path: Path, _pattern: str) -> list[Path]:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(Path, "rglob", fails)
    with pytest.raises(ExportError, match=r"that can be searched, got '.*': Invalid argument"):
        find_model(tmp_path)


def test_errors_name_the_users_file(tmp_path: Path) -> None:
    """An error about our copy of a model is told of the model, and keeps its class and its details."""
    with pytest.raises(StoreError) as caught, named_as(tmp_path / "copy", Path("model")):
        raise StoreError(f"'{tmp_path}/copy/variables' must be readable", detail="more")
    assert (str(caught.value), caught.value.detail) == ("'model/variables' must be readable", "more")
