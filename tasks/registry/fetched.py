"""Find the files of a model that was trained elsewhere, by its path or by its MLflow URI."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import ExportError, TrackingRefused
from tasks.registry.connection import tracking_errors
from tasks.words import one_line

GRAPH, KERAS = "saved_model.pb", ".keras"
URI = re.compile(r"(models:/+[^/].*|runs:/+[^/]+/+[^/].*)")
URIS = "models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/PATH"


def is_uri(model: str) -> bool:
    """Return whether a model is named by an MLflow URI.

    Raises:
        ExportError: it is the start of one, or the address of another place.
    """
    if "://" in model or model.startswith(("models:", "runs:")):
        if not URI.fullmatch(model):
            raise ExportError(f"an address in --model must be one of MLflow's, {URIS}; got '{redact(model)}'")
        return True
    return False


def find_model(place: Path) -> Path:
    """Return the SavedModel directory or `.keras` file that a path is, or the only one below it.

    Raises:
        ExportError: there is none, or there are several.
    """
    if place.suffix == KERAS and place.is_file():
        if not zipfile.is_zipfile(place):  # Keras says of such a file that it is not there
            raise ExportError(f"a {KERAS} file is a zip archive, which '{place}' is not; save or copy the model again")
        return place
    if (place / GRAPH).is_file():
        return place
    found = [*place.rglob(f"*{KERAS}"), *(graph.parent for graph in place.rglob(GRAPH))] if place.is_dir() else []
    if len(found) != 1:
        raise ExportError(
            f"--model must be a SavedModel directory, a {KERAS} file or MLflow's model URI, got "
            f"'{place}'{_why(place, len(found))}"
        )
    return found[0]


def _why(place: Path, found: int) -> str:
    """Return what a path is instead of a model, and what to do, where that is known."""
    if found:
        return f", which has {found} of them"
    if not place.exists():
        return ", which does not exist"
    if place.suffix in (".h5", ".hdf5"):
        return f"; load it with Keras and save it as {KERAS}"
    return "; name its directory" if place.name == GRAPH else ""


def fetch(config: Config, uri: str, directory: Path) -> Path:
    """Copy the files of `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/RUN/PATH` below a directory.

    Raises:
        TrackingError: MLflow cannot be reached, or has no such model.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    directory.mkdir(parents=True, exist_ok=True)
    server = config.tracking.uri
    with tracking_errors(server):
        try:
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(directory), tracking_uri=server, registry_uri=server
            )
        except MlflowException as exc:
            if exc.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise TrackingRefused(
                f"--model must name a model that MLflow at {redact(server)} has, got '{uri}': {one_line(str(exc))}"
            ) from exc
    return Path(found)
