"""Find the files of a model that was trained elsewhere, by its path or by its MLflow URI."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from tasks.errors import ExportError
from tasks.registry.connection import tracking_errors

GRAPH, KERAS = "saved_model.pb", ".keras"
SCHEMES = ("models:/", "runs:/")


def is_uri(model: str) -> bool:
    """Return whether a model is named by an MLflow URI."""
    return model.startswith(SCHEMES)


def find_model(place: Path) -> Path:
    """Return the SavedModel directory or `.keras` file that a path is, or the only one below it.

    Raises:
        ExportError: there is none, or there are several.
    """
    if (place.suffix == KERAS and place.is_file()) or (place / GRAPH).is_file():
        return place
    found = [*place.rglob(f"*{KERAS}"), *(graph.parent for graph in place.rglob(GRAPH))] if place.is_dir() else []
    if len(found) != 1:
        several = f", which has {len(found)} of them" if found else ""
        raise ExportError(
            f"--model must be a SavedModel directory, a {KERAS} file or MLflow's model URI, got '{place}'{several}"
        )
    return found[0]


def fetch(config: Config, uri: str, directory: Path) -> Path:
    """Copy the files of `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/RUN/PATH` below a directory.

    Raises:
        TrackingError: MLflow cannot be reached, or has no such model.
    """
    import mlflow.artifacts

    directory.mkdir(parents=True, exist_ok=True)
    server = config.tracking.uri
    with tracking_errors(server):
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(directory), tracking_uri=server, registry_uri=server
        )
    return Path(found)
