"""What MLflow's errors mean: which may pass by themselves, and that a long wait is said."""

from __future__ import annotations

import contextvars
import errno
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST
from sqlalchemy.exc import DatabaseError, OperationalError

from configs.schema import Config
from tasks import waiting
from tasks.errors import TrackingError, TrackingRefused
from tasks.registry import fetched
from tasks.registry.connection import _first_use, tracking_errors
from tasks.waiting import importing, waiting_for


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MlflowException("API request failed"), TrackingError),
        (requests.ConnectionError("refused"), TrackingError),
        (requests.Timeout("late"), TrackingError),
        (OperationalError("select", {}, Exception("database is locked")), TrackingError),
        (OSError(errno.ENOSPC, "No space left on device"), TrackingError),
        (MlflowException("bad name", INVALID_PARAMETER_VALUE), TrackingRefused),
        (MlflowException("no right", PERMISSION_DENIED), TrackingRefused),
        (MlflowException("gone", RESOURCE_DOES_NOT_EXIST), TrackingRefused),
        (DatabaseError("select", {}, Exception("file is not a database")), TrackingRefused),
        (FileNotFoundError(errno.ENOENT, "No such directory"), TrackingRefused),
        (PermissionError(errno.EACCES, "Permission denied"), TrackingRefused),
        (ModuleNotFoundError("No module named 'psycopg'"), TrackingRefused),  # the driver of a database
    ],
)
def test_only_what_can_pass_is_tried_again(error: Exception, kind: type[TrackingError]) -> None:
    """An error that says nothing about the request is tried again; a refusal is not, and both are one line."""
    with pytest.raises(TrackingError) as caught, tracking_errors("http://host:5000"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.retryable is (kind is TrackingError)
    assert str(caught.value).startswith("MLflow at http://host:5000 must answer, got ")
    assert "\n" not in str(caught.value)


class Registry:
    """A registry with one version, whose files are those of a logged model."""

    def get_model_version_by_alias(self, name: str, _alias: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, version="3")

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        if (name, version) != ("m", "3"):
            raise MlflowException(f"Registered Model with name={name} not found", RESOURCE_DOES_NOT_EXIST)
        return "models:/m-0123"

    def get_logged_model(self, _model_id: str) -> SimpleNamespace:
        return SimpleNamespace(artifact_location="file:///artifacts")

    def get_latest_versions(self, _name: str, _stages: list[str]) -> list[str]:
        return []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have that registry, and return the list of what is downloaded."""
    places: list[str] = []

    def download(artifact_uri: str, **_words: str) -> str:
        places.append(artifact_uri)
        return "here"

    monkeypatch.setattr(fetched, "connect", lambda _config: Registry())
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", download)
    return places


def test_a_model_is_looked_up_in_the_configured_registry(tmp_path: Path, asked: list[str]) -> None:
    """MLflow itself would ask the registry of the environment, which may be another one."""
    for uri in ("models:/m/3", "models:/m@best", "models:/m-0123", "models:/m/3/path", "runs:/0123/model"):
        assert fetched.fetch(Config(name="m"), uri, tmp_path / "given") == Path("here")
    assert asked == [*["file:///artifacts"] * 3, "file:///artifacts/path", "runs:/0123/model"]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/other/1", "Registered Model with name=other not found"),
        ("models:/m/Production", "No versions of model with name 'm' and stage 'Production' found"),
        ("models:/m@", "Not a proper models:/ URI: models:/m@. Models URIs must be"),
    ],
)
def test_a_model_that_mlflow_does_not_have(tmp_path: Path, asked: list[str], uri: str, words: str) -> None:
    """The rule and the remedy are those of the option, not of a server that does not answer, and it is asked once."""
    with pytest.raises(TrackingRefused) as caught:
        fetched.fetch(Config(name="m"), uri, tmp_path / "given")
    rule = "--model must name a model that MLflow at sqlite:///mlflow.db has, got"
    assert str(caught.value).startswith(f"{rule} '{uri}': {words}")
    assert asked == []


def test_a_long_wait_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that takes long has lines with whom and how long, in its own context; its end is the end of them."""
    monkeypatch.setattr(waiting, "SILENCE_S", 0.001)
    run = contextvars.ContextVar("run", default="none")
    said, runs = threading.Event(), set()

    def info(*_words: object) -> None:
        runs.add(run.get())
        said.set()

    monkeypatch.setattr(waiting.log, "info", info)
    run.set("this one")  # as Prefect keeps which run it is
    with tracking_errors("sqlite:///x"):
        assert said.wait(600)
        [teller] = [thread for thread in threading.enumerate() if thread.name == "waiting"]
    assert runs == {"this one"}
    teller.join(600)
    assert not teller.is_alive()

def test_a_wait_within_a_log_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that waits for somebody, as that of the progress does, is not waited for by the line that says so."""
    monkeypatch.setattr(waiting, "SILENCE_S", 0.001)
    logger, entered = logging.getLogger("tasks"), threading.Event()

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.threadName != "waiting":
                with waiting_for("a server"):
                    entered.set()
                    tellers.extend(thread for thread in threading.enumerate() if thread.name == "waiting")

    handler, tellers = Asking(), list[threading.Thread]()
    logger.addHandler(handler)
    try:
        asking = threading.Thread(target=logger.warning, args=("progress",), daemon=True)
        asking.start()
        asking.join(600)
        assert not asking.is_alive()
    finally:
        logger.removeHandler(handler)
    assert entered.is_set()
    for teller in tellers:
        teller.join(600)
        assert not teller.is_alive()


def test_making_a_database_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """MLflow takes seconds to make the tables of a new database: the first use says so, and no later one."""
    database = tmp_path / "mlflow.db"
    with caplog.at_level(logging.INFO, "tasks"):
        for _ in range(2):
            with _first_use(f"sqlite:///{database}"):
                database.touch()
    assert caplog.messages == [f"creating MLflow's database sqlite:///{database}"]


def test_an_import_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that takes long is named while it is imported; nobody waits for one that is there already."""
    monkeypatch.setattr(waiting, "SILENCE_S", 0.001)
    said, named = threading.Event(), set()
    monkeypatch.setattr(waiting.log, "info", lambda _words, whom, _seconds: (named.add(whom), said.set()))
    before = set(threading.enumerate())
    with importing("not_imported_yet"):
        assert said.wait(600)
        [teller] = set(threading.enumerate()) - before
    teller.join(600)
    with importing("threading"):
        assert set(threading.enumerate()) <= before
    assert named == {"the import of not_imported_yet"}
