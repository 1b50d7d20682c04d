"""What each version was made of, as an artifact of its run in MLflow, so that it can be made again elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from configs.redaction import redacted
from configs.schema import Config
from tasks.errors import ManifestMismatch, TrackingRefused
from tasks.records import Candidate, Recipe, Splits, TrainedModel
from tasks.registry.changes import version_of
from tasks.registry.connection import check_tracking, connect, is_empty, tracking_errors
from tasks.registry.packaging import SAVED_MODEL
from tasks.savedmodel.manifest import MANIFEST, Manifest, read_manifest

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a version, to compare a rebuilt one with.

    Attributes:
        digest: of its files. files: path, size in bytes and SHA-256 of each; empty if they are not known.
        recipe: what it was trained with. data: the digest of its rows. rows: number of rows of each split.
    """

    digest: str
    files: tuple[tuple[str, int, str], ...]
    recipe: Recipe
    data: str
    rows: Mapping[str, int]


def recorded(splits: Splits, trained: TrainedModel, candidate: Candidate) -> Recorded | None:
    """Return what is recorded of a candidate; None for a model of an earlier release, or one trained elsewhere."""
    if trained.recipe is None:
        return None
    try:
        manifest = read_manifest((candidate.version_dir / MANIFEST).read_bytes(), candidate.digest)
    except (OSError, ManifestMismatch):  # the files may be gone by now
        manifest = Manifest(())
    return Recorded(candidate.digest, manifest.files, trained.recipe, splits.digest, splits.rows)


def write_recipe(directory: Path, splits: Splits, trained: TrainedModel, candidate: Candidate) -> None:
    """Write what is recorded of a candidate into a directory, which is logged."""
    found = recorded(splits, trained, candidate)
    if found is not None:
        (directory / RECIPE).write_text(json.dumps(redacted(asdict(found)), indent=1), encoding="utf-8")


def fetch_recorded(config: Config, digest: str, directory: Path) -> Recorded | None:
    """Return what MLflow has recorded of the version with a digest, or None.

    Raises:
        TrackingError: MLflow cannot be reached. TrackingRefused: what it has cannot be read.
    """
    file = _fetch(config, digest, RECIPE, directory)
    if file is None:
        return None
    try:
        found = TypeAdapter(Recorded).validate_json(file.read_bytes())
    except (OSError, ValidationError) as exc:
        raise TrackingRefused(f"{RECIPE} of digest {digest[:12]} in MLflow must be as a run wrote it: {exc}") from exc
    return found if found.digest == digest else None


def fetch_files(config: Config, digest: str, directory: Path) -> Path | None:
    """Return a directory with the files that MLflow has registered for a digest, or None; they are not compared.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    return _fetch(config, digest, f"model/{SAVED_MODEL}", directory)


def _fetch(config: Config, digest: str, artifact: str, directory: Path) -> Path | None:
    from mlflow.exceptions import MlflowException

    if is_empty(config.tracking.uri):
        return None
    check_tracking(config.tracking.uri)
    client = connect(config)
    directory.mkdir(parents=True, exist_ok=True)
    with tracking_errors(config.tracking.uri):
        number = version_of(client, config.name, digest)
        if not number:
            return None
        run_id = client.get_model_version(config.name, str(number)).run_id
        if artifact == RECIPE and RECIPE not in {item.path for item in client.list_artifacts(run_id)}:
            return None  # an earlier release logged it
        try:
            return Path(client.download_artifacts(run_id, artifact, str(directory)))
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
