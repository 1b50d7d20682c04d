"""Connect to MLflow: one client, one experiment, and MLflow's errors translated into ours."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import TrackingError, TrackingRefused
from tasks.registry.reasons import clashed, reason
from tasks.waiting import importing, waiting_for

log = logging.getLogger(__name__)
SQLITE = "sqlite:///"
HEALTH_S = 10.0  # for a server's first word
CLASHES = 4  # of one write, before its error is reported
FIRST_USE_S = 600.0  # until another process must have made a database's tables
FINAL = ImportError | FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its pages then show training, not prompts


def preload() -> None:
    """Import what logging a run needs (seconds), at a time when this process has nothing else to do."""
    with importing("mlflow.pyfunc"):
        import mlflow.data
        import mlflow.pyfunc
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def check_tracking(uri: str) -> None:
    """Raise `TrackingError` if a tracking server does not answer, `TrackingRefused` if a database file cannot be used.

    MLflow itself would find out only after training, and then try for minutes.
    """
    if uri.startswith(("http://", "https://")):
        import requests

        try:
            with waiting_for(f"MLflow at {redact(uri)}"):
                # any answer will do: it may want a login here
                requests.get(f"{uri.rstrip('/')}/health", timeout=HEALTH_S)
        except requests.RequestException as exc:
            words, remedy = reason(exc)
            raise TrackingError(
                f"tracking.uri must be a running MLflow server, but {redact(uri)} does not answer ({redact(words)}); "
                f"{remedy}"
            ) from exc
    elif uri.startswith(SQLITE):
        database = _file(uri)
        directory = database.parent
        if not (directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)):
            raise TrackingRefused(
                f"tracking.uri must lie in a writable directory, but '{directory}' is not one; make it writable, or "
                "set tracking.uri"
            )
        if database.exists() and not (database.is_file() and os.access(database, os.R_OK | os.W_OK)):
            raise TrackingRefused(
                f"tracking.uri must name a file that can be read and written, got '{database}'; change its "
                "permissions, or set tracking.uri"
            )


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Translate errors of MLflow and its transports into `TrackingError`, and report a slow answer.

    Raises:
        TrackingRefused: trying again cannot help. TrackingError: it may.
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with waiting_for(f"MLflow at {redact(uri)}"):
            yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError, ImportError) as exc:
        words, remedy = reason(exc)
        kind = TrackingError if _can_pass(exc) else TrackingRefused
        raise kind(f"MLflow at {redact(uri)} must answer, got {redact(words)}; {remedy}") from exc


def _can_pass(error: Exception) -> bool:
    """Return whether the same request may be answered later: only errors that do not concern the request itself."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    if clashed(error):
        return True
    if isinstance(error, requests.HTTPError) and error.response is not None:  # of an artifact
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, MlflowException):  # also raised for a server that cannot be reached
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ABORTED")
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, OperationalError)  # a database that is locked, or away
    return not isinstance(error, FINAL)


def write(call: Callable[..., Any], *arguments: Any) -> None:
    """Write what rivals may write at the same time; a call that clashed with theirs is repeated.

    Args:
        call: a write whose repetition changes nothing, such as setting an alias or naming a run's data.
    """
    from mlflow.exceptions import MlflowException

    for _ in range(CLASHES):
        try:
            call(*arguments)
            return
        except MlflowException as exc:
            if not clashed(exc):
                raise
            log.info("MLflow refused a write beside another run's; it is repeated")
    call(*arguments)


def is_empty(uri: str) -> bool:
    """Return whether MLflow's database is not there yet; connecting to it would make it."""
    return uri.startswith(SQLITE) and not _file(uri).exists()


def check_experiment(config: Config) -> None:
    """Raise `TrackingRefused` if the experiment was deleted; a database that is not there yet is not made for it."""
    uri = config.tracking.uri
    if is_empty(uri):
        return
    client = connect(config)
    with tracking_errors(uri):
        found = client.get_experiment_by_name(config.tracking.experiment or config.name)
        if found is not None:
            _check_active(found)


def _check_active(found: Any) -> None:
    if found.lifecycle_stage != "active":
        raise TrackingRefused(
            f"experiment '{found.name}' must be active, but it is deleted; restore it "
            f"(mlflow experiments restore -x {found.experiment_id}) or set tracking.experiment"
        )


def connect(config: Config) -> Any:
    """Return a client of the configured tracking and registry server; nothing global is set."""
    with importing("mlflow"):
        from mlflow import MlflowClient

    uri = config.tracking.uri
    with tracking_errors(uri), _first_use(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _file(uri: str) -> Path:
    """Return the database file of a sqlite URI, without the settings behind its name."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


@contextlib.contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Let one process at a time open a database file: at the first use MLflow makes its tables, and two clash."""
    if not uri.startswith(SQLITE):
        yield
        return
    with FileLock(f"{_file(uri)}.lock", timeout=FIRST_USE_S):
        if not _file(uri).exists():
            log.info("creating MLflow's database %s", redact(uri))
        yield


def experiment_id(client: Any, config: Config) -> str:
    """Return the experiment's id, creating it at first use; a local database keeps its artifacts beside it."""
    from mlflow.exceptions import MlflowException

    name = config.tracking.experiment or config.name
    found = client.get_experiment_by_name(name)
    if found is None:
        beside = _beside(config.tracking.uri)
        try:
            location = f"{beside}/{name}" if beside else None
            return str(client.create_experiment(name, location, tags=EXPERIMENT_TAGS))
        except MlflowException:  # another run created it since
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    _check_active(found)
    return str(found.experiment_id)


def _beside(uri: str) -> str:
    """Return the artifact directory beside a sqlite file, as a URI, or nothing for a server."""
    return (_file(uri).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else ""
