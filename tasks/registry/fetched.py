"""Find the files of a model that was trained elsewhere, by its path or by its MLflow URI."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import ExportError, TrackingRefused
from tasks.registry.connection import connect, tracking_errors
from tasks.words import one_line

GRAPH, KERAS = "saved_model.pb", ".keras"
URI = re.compile(r"(models:/+[^/].*|runs:/+[^/]+/+[^/].*)")
REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
WITHOUT_CODE = ("Not a proper", "No versions of")  # the beginnings of MLflow's messages about the URI itself
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
    try:
        found = [*place.rglob(f"*{KERAS}"), *(graph.parent for graph in place.rglob(GRAPH))] if place.is_dir() else []
    except OSError as exc:
        raise ExportError(f"--model must be a directory that can be searched, got '{place}': {exc.strerror}") from exc
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
            place = _resolved(connect(config), uri) if uri.startswith("models:") else uri
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=place, dst_path=str(directory), tracking_uri=server, registry_uri=server
            )
        except MlflowException as exc:
            if exc.error_code not in REFUSALS and not str(exc).startswith(WITHOUT_CODE):
                raise
            raise TrackingRefused(
                f"--model must name a model that MLflow at {redact(server)} has, got '{uri}': {one_line(str(exc))}"
            ) from exc
    return Path(found)


def _resolved(client: Any, uri: str) -> str:
    """Return where the files of a registered model are.

    MLflow would ask the registry that is configured in the environment, by default a file in the current directory.
    Source: `ModelsArtifactRepository._get_model_uri_infos` in mlflow/store/artifact/models_artifact_repo.py (3.17).
    """
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    named, path = ModelsArtifactRepository.split_models_uri(uri)
    found = get_model_name_and_version(client, named)
    if len(found) == 1:
        place = client.get_logged_model(found[0]).artifact_location
    else:
        place = client.get_model_version_download_uri(*found)
    place = _resolved(client, place) if place.startswith("models:") else place
    return f"{place}/{path}" if path else place
