"""What MLflow's errors mean: which may pass by themselves, and that a long wait is said."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
)
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from configs.schema import Config
from tasks import waiting
from tasks.errors import TrackingError, TrackingRefused
from tasks.registry import fetched
from tasks.registry.connection import CLASHES, _first_use, tracking_errors, write
from tasks.waiting import importing, waiting_for


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MlflowException("API request failed"), TrackingError),
        (requests.ConnectionError("refused"), TrackingError),
        (requests.Timeout("late"), TrackingError),
        (OperationalError("select", {}, Exception("database is locked")), TrackingError),
        (MlflowException("(psycopg2.errors.UniqueViolation) duplicate key", BAD_REQUEST), TrackingError),
        (MlflowException('(pymysql.err.IntegrityError) (1062, "Duplicate entry")', BAD_REQUEST), TrackingError),
        (MlflowException("no such column", BAD_REQUEST), TrackingRefused),
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


class Rivals:
    """Two clients of one database file, of which the second writes between the first's look and its insertion."""

    def __init__(self, database: Path) -> None:
        uri = f"sqlite:///{database}"
        self.mine, self.theirs = MlflowClient(uri), MlflowClient(uri)
        self.experiment = self.mine.create_experiment("rivals", str(database.parent))

    @contextlib.contextmanager
    def each_time(self, write_theirs: Callable[[int], None], times: int) -> Iterator[list[int]]:
        """Call `write_theirs` with 0, 1, ... before the first `times` of my insertions."""
        done: list[int] = []
        busy = False

        def between(*_: object) -> None:
            nonlocal busy
            if not busy and len(done) < times:
                busy = True
                write_theirs(len(done))
                done.append(len(done))
                busy = False

        event.listen(Session, "before_flush", between)
        try:
            yield done
        finally:
            event.remove(Session, "before_flush", between)


@pytest.fixture
def rivals(mlflow_database: Path, tmp_path: Path) -> Rivals:
    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    return Rivals(tmp_path / "mlflow.db")


def test_rivals_name_the_same_data(rivals: Rivals) -> None:
    """Two first runs on the same rows both succeed: MLflow keeps their data once, and each run names it."""
    runs = [client.create_run(rivals.experiment).info.run_id for client in (rivals.mine, rivals.theirs)]
    data = [DatasetInput(Dataset("rows", "digest", "code", "{}"), [InputTag("mlflow.data.context", "training")])]
    with rivals.each_time(lambda _: rivals.theirs.log_inputs(runs[1], data), 1) as done:
        write(rivals.mine.log_inputs, runs[0], data)
    assert done == [0]
    for run in runs:
        assert [given.dataset.digest for given in rivals.mine.get_run(run).inputs.dataset_inputs] == ["digest"]


def test_rivals_set_the_same_alias(rivals: Rivals) -> None:
    """Two challengers at once are no error; the later one has the alias."""
    rivals.mine.create_registered_model("m")
    for _ in range(2):
        rivals.mine.create_model_version("m", "file:///m")
    with rivals.each_time(lambda _: rivals.theirs.set_registered_model_alias("m", "challenger", "2"), 1):
        write(rivals.mine.set_registered_model_alias, "m", "challenger", "1")
    assert rivals.mine.get_registered_model("m").aliases == {"challenger": 1}


def test_a_write_that_always_clashes(rivals: Rivals) -> None:
    """A clash that does not end is an error that may pass: the stage is tried again, and says what was received."""
    mine = rivals.mine.create_run(rivals.experiment).info.run_id

    def data(number: int) -> list[DatasetInput]:
        return [DatasetInput(Dataset("rows", str(number), "code", "{}"), [])]

    def clash(number: int) -> None:
        rivals.theirs.log_inputs(rivals.theirs.create_run(rivals.experiment).info.run_id, data(number))

    numbers = iter(range(CLASHES + 1))
    with (
        rivals.each_time(clash, CLASHES + 1) as done,
        pytest.raises(TrackingError, match="a clash with another run's write.*; run the same command again") as caught,
        tracking_errors("sqlite:///mlflow.db"),
    ):
        write(lambda: rivals.mine.log_inputs(mine, data(next(numbers))))
    assert len(done) == CLASHES + 1
    assert caught.value.retryable
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
    said = [line for line in caplog.messages if not line.startswith("waiting for ")]  # of a busy machine
    assert said == [f"creating MLflow's database sqlite:///{database}"]


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
