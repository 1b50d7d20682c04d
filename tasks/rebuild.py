"""Makes a version again from what is recorded of it, and says whether its bytes are the same, and if not, why.

It trains and exports in a directory that the caller removes. Production, the numbers of candidates and MLflow's
registry stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.loading import ConfigError, deciding, shown
from configs.schema import Config
from tasks.datasets.compared import changed_requests, changed_rows
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.seen import RECORD
from tasks.errors import DataError, PipelineError, StoreError, TrackingError
from tasks.objects.store import refresh
from tasks.records import Recipe, Splits, TrainedModel
from tasks.registry.recipes import Recorded, fetch_files, fetch_recorded, recorded
from tasks.savedmodel.compared import changed_parts
from tasks.savedmodel.exporter import export_savedmodel
from tasks.savedmodel.manifest import Manifest, declared_digest, hash_files, holds
from tasks.savedmodel.warmup import WARMUP
from tasks.store.history import read, served_digest
from tasks.store.layout import versions
from tasks.store.rehearsals import Rehearsed, recall
from tasks.training.fit import fit_model
from tasks.training.process import TensorFlowProcess
from tasks.training.recipe import settings_of
from tasks.words import one_line

log = logging.getLogger(__name__)
MOST = 10  # differences of one kind that are named


@dataclass(frozen=True)
class Made:
    """What is recorded of a version.

    Attributes:
        version: its number. recorded: digest, recipe, data. resumed: after how many epochs its training was resumed.
        splits: its rows, if they are still there. directory: its files, unchanged, if they are still there.
        missing: what cannot be compared, one sentence each. edited: whether others may have edited the record, as
            everyone who can write to MLflow may.
    """

    version: int
    recorded: Recorded
    resumed: tuple[int, ...]
    splits: Splits | None
    directory: Path | None
    missing: tuple[str, ...]
    edited: bool = False


@dataclass(frozen=True)
class Difference:
    """One difference: what kind of thing differs, and how."""

    kind: str
    text: str


@dataclass(frozen=True)
class Rebuilt:
    """The result of a rebuild: its digest, and in what everything differs that was compared."""

    digest: str
    same: bool
    differences: tuple[Difference, ...]


def find_made(config: Config, version: int, scratch: Path) -> Made:
    """Return what is recorded of a version: beside the candidates, or else in MLflow.

    Args:
        version: the number of a live version or a candidate. scratch: for files from MLflow.

    Raises:
        ConfigError: there was no such version, or it was trained elsewhere.
        StoreError: what it was trained with is not recorded, or no more.
    """
    if config.object_store:
        refresh(config)
    digest = _digest(config, version)
    known, problems = _recalled(config, version, digest), []
    if known is not None and known.trained.source:
        raise ConfigError(
            f"--version must be a version that was trained here, but version {version} was trained elsewhere "
            f"('{known.trained.source}'); choose another version"
        )
    found = recorded(known.splits, known.trained, known.report.candidate) if known is not None else None
    edited = found is None
    if edited:
        try:
            found = fetch_recorded(config, digest, scratch / "recipe")
        except TrackingError as exc:
            problems.append(str(exc))
    if found is None:
        why = f" ({one_line(problems[0], 300)})" if problems else ""
        raise StoreError(
            f"what version {version} was trained with must be recorded, but neither '{config.candidates_dir}' nor "
            f"MLflow has it{why}; an earlier release exported it, it is a variant that did not win its sweep, or the "
            "record was removed. Run again to make a version that can be rebuilt"
        )
    directory = _files(config, version, digest, known, scratch)
    splits = known.splits if known is not None and known.splits.train.is_file() else None
    return Made(
        version, found, known.trained.resumed if known is not None else (), splits, directory,
        tuple(_missing(found, splits, directory)), edited,
    )  # fmt: skip


def check_functions(config: Config, made: Made) -> None:
    """Refuse a record from MLflow that names other functions than the configuration, because they would be called.

    Raises:
        ConfigError: it does.
    """
    then, now = deciding(made.recorded.recipe.config), deciding(shown(config))
    for field in ("data.load", "model.build"):
        if made.edited and then.get(field) != now[field]:
            raise ConfigError(
                f"{field} must be {json.dumps(then.get(field))}, as MLflow's record of version {made.version} says, "
                f"but it is {json.dumps(now[field])}; anyone who can write to MLflow may have edited that record. Set "
                "the field if you trust the function, or use today's configuration with --as-configured"
            )


def _digest(config: Config, version: int) -> str:
    """Return the digest of a number: as production served it, else as the last candidate with that number."""
    entries, directory = read(config.live_dir), versions(config.candidates_dir).get(version)
    last = next((entry.digest for entry in reversed(entries) if entry.version == version and entry.digest), "")
    digest = served_digest(entries, version) or last or (declared_digest(directory) if directory else "")
    if not digest:
        numbers = sorted({*versions(config.candidates_dir), *(entry.version for entry in entries)})
        there = ", ".join(map(str, numbers)) or "none"
        raise ConfigError(f"--version must be a version of '{config.name}', got {version}; there are {there}")
    return digest


def _recalled(config: Config, version: int, digest: str) -> Rehearsed | None:
    """Return the stored rehearsal of a version, or that of another candidate with its bytes."""
    for number in (version, None):
        try:
            if (known := recall(config.candidates_dir, digest, number)) is not None:
                return known
        except StoreError as exc:
            log.warning("%s", exc)
    return None


def _files(config: Config, version: int, digest: str, known: Rehearsed | None, scratch: Path) -> Path | None:
    """Return a directory with the unchanged files of a digest: live, a candidate, or fetched from MLflow."""
    there = {**versions(config.live_dir), **versions(config.candidates_dir)}
    places = [versions(config.live_dir).get(version), versions(config.candidates_dir).get(version)]
    places += [known.report.candidate.version_dir] if known is not None else []
    places += [path for path in there.values() if declared_digest(path) == digest]
    for place in places:
        if place is not None and place.is_dir() and holds(place, digest):
            return place
    try:
        fetched = fetch_files(config, digest, scratch / "registered")
    except PipelineError as exc:
        log.warning("%s", exc)
        return None
    return fetched if fetched is not None and holds(fetched, digest) else None


def _missing(found: Recorded, splits: Splits | None, directory: Path | None) -> Iterator[str]:
    if directory is None and found.files:
        yield "the files of the version are gone: variables, operations and rows are not compared, files only by hash"
    elif directory is None:
        yield "the files of the version are gone, and so is the list of them: only its digest is compared"
    if splits is None:
        yield "the rows of its run are gone: they are compared by their digest, their number and the version's record"


def rebuild(config: Config, made: Made, scratch: Path) -> Rebuilt:
    """Train and export with a configuration, and compare the result with what was made then.

    Args:
        config: the recorded one, or another one. scratch: an empty directory.

    Raises:
        PipelineError: rows, training or export failed.
    """
    config = config.model_copy(update={"work_dir": scratch / "work"})
    version_dir, evidence = scratch / "version", scratch / "evidence"
    for directory in (version_dir, evidence):
        directory.mkdir()
    with _tensorflow(made.recorded.recipe.settings) as call:
        splits: Splits = call(prepare_splits, config.data, scratch / "data")
        trained: TrainedModel = call(fit_model, config, splits, scratch / "model.keras")
        digest = call(export_savedmodel, config, splits, trained, version_dir, evidence).digest
        same = digest == made.recorded.digest
        parts = call(changed_parts, made.directory, version_dir) if made.directory and not same else []
    assert trained.recipe is not None
    found = [
        *_settings(made.recorded.recipe, trained.recipe, config),
        *_rows(made, splits, version_dir),
        *([] if same else _weights(made, trained.recipe)),
        *([] if same else changed_files(made.recorded.files, hash_files(version_dir), config)),
        *(Difference(kind, text) for kind, text in parts),
    ]
    return Rebuilt(digest, same, tuple(found))


@contextlib.contextmanager
def _tensorflow(settings: Mapping[str, str]) -> Iterator[Callable[..., Any]]:
    """Provide a function that calls others in a TensorFlow process with the recorded settings."""
    with contextlib.closing(TensorFlowProcess(environment=settings_of(settings))) as process:
        yield lambda function, *arguments: process.result(process.submit(function, *arguments))


def changed_settings(then: Mapping[str, Any], config: Config) -> list[Difference]:
    """Return which settings that decide the bytes of a model differ.

    Args:
        then: the recorded configuration.
    """
    return _changed("parameter", deciding(then), deciding(shown(config)), "not set")


def _settings(then: Recipe, now: Recipe, config: Config) -> list[Difference]:
    return [
        *changed_settings(then.config, config),
        *_changed("package", then.packages, now.packages, "not installed", str),
        *_changed("code", then.code, now.code, "not imported", lambda value: str(value)[:12]),
        *_changed("machine", then.machine, now.machine, "unknown", str),
        *_changed("environment", then.settings, now.settings, "not set", str),
    ]


def _changed(
    kind: str, then: Mapping[str, Any], now: Mapping[str, Any], absent: str, words: Callable[[Any], str] = json.dumps
) -> list[Difference]:
    """Return the names whose values differ, with both values."""
    differences = []
    for name in {**then, **now}:
        was, is_now = (words(values[name]) if name in values else absent for values in (then, now))
        if was != is_now:
            differences.append(Difference(kind, f"{name} was {was} and is {is_now}"))
    return differences


def _rows(made: Made, splits: Splits, version_dir: Path) -> list[Difference]:
    """Return in what the rows differ, as far as those of then are still there."""
    if splits.digest == made.recorded.data:
        return []
    counts = [
        f"{name} had {made.recorded.rows.get(name, 0):,} rows and has {count:,}"
        for name, count in splits.rows.items()
        if count != made.recorded.rows.get(name, 0)
    ]
    try:
        if made.splits is not None:
            counts += changed_rows(_split_files(made.splits), _split_files(splits))
        elif made.directory is not None and (made.directory / RECORD).is_file():
            counts += changed_requests(made.directory / RECORD, version_dir / RECORD)
    except DataError as exc:
        log.warning("the rows cannot be compared: %s", exc)
    return [Difference("rows", text) for text in counts or ["the digest of the rows is another one"]]


def _split_files(splits: Splits) -> dict[str, Path]:
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def _weights(made: Made, now: Recipe) -> list[Difference]:
    """Return whether the weights differ, and whether the interruption of a training can be the reason."""
    same = now.weights == made.recorded.recipe.weights
    text = "the trained weights are the same; the export differs" if same else "the trained weights differ"
    found = [Difference("weights", text)]
    if made.resumed:
        epochs = " and ".join(map(str, made.resumed))
        found.append(
            Difference("training", f"it was interrupted and resumed after epoch {epochs}, as its files record")
        )
    return found


def changed_files(then: tuple[tuple[str, int, str], ...], now: Manifest, config: Config) -> list[Difference]:
    """Return the files that differ; of recorded requests, which are no rows, also where they are drawn from.

    Args:
        then: path, size in bytes and SHA-256 of each file; empty if they are not known. config: of the rebuild.
    """
    if not then:
        return []
    drawn = config.export.warmup_from == "requests"
    before, after = ({path: (size, sha) for path, size, sha in files} for files in (then, now.files))
    lines = []
    for path in sorted({*before, *after}):
        if path not in after or path not in before:
            lines.append(f"{path} is {'gone' if path in before else 'new'}")
        elif before[path] != after[path]:
            sizes = f"{before[path][0]:,} bytes then, {after[path][0]:,} now"
            source = f"; it is drawn from gates.replay.file, which is '{config.gates.replay.file}' now"
            lines.append(f"{path} has other bytes ({sizes}){source if drawn and path == str(WARMUP) else ''}")
    return [Difference("file", line) for line in lines]
