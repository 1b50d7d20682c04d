"""The experiment on real users that runs, and the rule about who may take part in it.

It is in `<models_root>/<name>/.experiment.json`, which is written after every version of the experiment was verified in
production, and removed when the experiment ends. Its labels are in `models.config`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from configs.errors import ConfigError
from tasks.errors import ManifestMismatch, StoreError
from tasks.records import Arm, Change
from tasks.savedmodel.files import fsync_path
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.history import SERVED, read, served_digest, state_of
from tasks.store.journal import pending, write_atomically
from tasks.store.layout import versions
from tasks.store.serving_config import labels_of
from tasks.words import one_line

EXPERIMENT = ".experiment.json"


@dataclass(frozen=True)
class Experiment:
    """An experiment that runs.

    Attributes:
        name: also the salt of its hash. since: ISO 8601, UTC. actor: who started it.
    """

    name: str
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]
    since: str
    actor: str = ""

    def arm(self, label: str) -> Arm | None:
        """Return the arm with this label, or None."""
        return next((arm for arm in self.arms if arm.label == label), None)


def running(model_dir: Path) -> Experiment | None:
    """Return the experiment that runs, or None.

    Raises:
        StoreError: its record cannot be read. A crash cannot cause this, because the file is replaced as a whole.
    """
    path = model_dir / EXPERIMENT
    try:
        return TypeAdapter(Experiment).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:  # the latter is also what pydantic raises
        raise StoreError(
            f"'{path}' must contain one experiment, got {one_line(str(exc), 300)}; remove it, and the labels of the "
            "experiment from models.config"
        ) from exc


def keep(model_dir: Path, change: Change, since: str) -> None:
    """Record that an experiment runs."""
    put(model_dir, Experiment(change.experiment, change.arms, since, change.actor))


def put(model_dir: Path, experiment: Experiment) -> None:
    """Write the record of an experiment."""
    write_atomically(model_dir / EXPERIMENT, json.dumps(asdict(experiment), indent=1), 0o644)


def forget(model_dir: Path) -> None:
    """Remove the record of the experiment, if there is one.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        (model_dir / EXPERIMENT).unlink(missing_ok=True)
        fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"'{model_dir / EXPERIMENT}' must be removable, got {exc.strerror}") from exc


def moved(model_dir: Path, experiment: Experiment) -> list[str]:
    """Return for each label that no longer names its version of the experiment what it names now, in words."""
    labels = labels_of(model_dir)
    return [
        f"the label '{arm.label}' names {f'version {now}' if now else 'no version'} instead of version {arm.version}"
        for arm in experiment.arms
        if (now := labels.get(arm.label)) != arm.version
    ]


def rolled_back(model_dir: Path, name: str, arms: Sequence[Arm]) -> list[str] | None:
    """Return which versions were rolled back while an experiment ran, in words, even if it has ended since.

    That a label names its version again does not show that its users got another version in between.

    Returns:
        None if the history has no experiment with this name and these versions, labels and shares.
    """
    entries = read(model_dir)
    noted = [(entry.state, entry.version, entry.reason) for entry in entries]
    starts = [("in experiment", arm.version, f"experiment {name}: {arm}") for arm in arms]
    if not set(starts) <= set(noted):
        return None
    begun = max(index for index, line in enumerate(noted) if line in starts)
    while_it_ran = itertools.takewhile(lambda entry: entry.state != "experiment ended", entries[begun:])
    labels = {arm.version: arm.label for arm in arms}
    return [
        f"version {entry.version}, which was '{labels[entry.version]}', was rolled back at {entry.time}"
        for entry in while_it_ran
        if entry.state == "rolled back" and entry.version in labels
    ]


def spoiled(model_dir: Path, experiment: Experiment) -> list[str]:
    """Return why the outcomes of the experiment that runs decide nothing, in words.

    While the experiment is being ended, its labels are gone already, and come back if its winner does not answer.
    """
    change = pending(model_dir)
    ends = change is not None and change.experiment == experiment.name
    labels = [] if ends else moved(model_dir, experiment)
    return [*labels, *(rolled_back(model_dir, experiment.name, experiment.arms) or [])]


def eligible(model_dir: Path, version: int, *, option: str = "--versions", files: bool = True) -> str:
    """Return the digest of a version that may take part in an experiment.

    Args:
        option: that named the version, for the message. files: also read its files.

    Raises:
        ConfigError: it was never in production, which only judged versions reach; it was rolled back; or its files are
            not those that were judged.
    """
    entries = read(model_dir)
    digest, state = served_digest(entries, version), state_of(entries, version)
    if not digest:
        served = sorted({entry.version for entry in entries if entry.state in SERVED} & versions(model_dir).keys())
        raise ConfigError(
            f"{option} must name versions that passed and were promoted, as the canary or as stable, got "
            f"{version}{f', which is {state}' if state else ''}; these were: {', '.join(map(str, served)) or 'none'}"
        )
    if state == "rolled back":
        raise ConfigError(
            f"{option} must not name a version that was rolled back, got {version}; if it is good after all, make it "
            f"live again first (rollback --to {version})"
        )
    directory = versions(model_dir).get(version)
    if directory is None:
        raise ConfigError(f"{option} must name versions whose files are in '{model_dir}', got {version} ({state})")
    try:
        if files:
            verify_manifest(directory, digest)
    except (ManifestMismatch, OSError) as exc:
        raise ConfigError(f"{option} must name files that were judged, got {version}, but {exc}") from exc
    return digest
