"""Backs a training up between epochs, so that a killed one goes on when the same run is repeated.

    <work_dir>/trainings/<name>/<identity>/   held by the process that trains
        .partial/        a backup that is being written
        epoch-00000007/  the newest complete backup
            state.json       its epochs, early stopping, and the SHA-256 of its other files
            model.weights.h5 Keras' weights with the optimizer's
            seeds.npz        the states of its random generators, such as those of Dropout, which Keras does not save
            best.npz         the weights of the best epoch, if that is an earlier one

Keras' BackupAndRestore overwrites its files in place, in two steps, and keeps nothing of early stopping
(decision 027).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.schema import Config
from tasks.datasets.rows import Array, load_arrays, save_arrays
from tasks.datasets.user_code import FOREIGN, describe, modules_digest
from tasks.errors import TrainingError
from tasks.owner import hold
from tasks.records import Splits

log = logging.getLogger(__name__)

TRAININGS = "trainings"
PARTIAL, WHOLE, STATE, WEIGHTS, BEST = ".partial", "epoch-*", "state.json", "model.weights.h5", "best.npz"
SEEDS = "seeds.npz"
JSON_TEXT = r'"(?:[^"\\]|\\.)*"'
AT_MOST = 20  # a backup is due after this multiple of the time that the last one took, so that it costs at most 5 %


@dataclass(frozen=True)
class State:
    """What a training must know to go on after an epoch.

    Attributes:
        epochs: how many epochs were finished.
        logs: the figures of each of them.
        stopped: whether early stopping ended the training.
        wait, best, best_epoch: attributes of keras.callbacks.EarlyStopping; `best` is None before its first epoch.
        resumed: after how many epochs the training was taken up again, once for each interruption.
        files: SHA-256 of the other files by name, in hexadecimal.
    """

    epochs: int = 0
    logs: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False
    wait: int = 0
    best: float | None = None
    best_epoch: int = 0
    resumed: tuple[int, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def history(self) -> dict[str, list[float]]:
        """Return the figures by name, one for each finished epoch."""
        names = self.logs[0] if self.logs else {}
        return {name: [figures[name] for figures in self.logs] for name in names}


class Backup:
    """The backup of one training, which this process holds."""

    def __init__(self, directory: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Use a directory that exists; None backs nothing up."""
        self.directory, self._clock = directory, clock
        self.state = State()
        self._due = clock()  # the first one is due after the first epoch

    def restore(self, model: Any) -> State:
        """Load the newest complete backup into a built and compiled model, and return its state.

        A damaged backup is ignored with a warning. Without a backup, the state has no epochs.

        Raises:
            TrainingError: the files are as they were written, but Keras cannot load them.
        """
        found = sorted(self.directory.glob(WHOLE)) if self.directory else []
        for path in reversed(found):
            try:
                state = _read(path)
            except (OSError, ValueError, ValidationError) as exc:
                log.warning("the backup '%s' is damaged and not used: %s", path, describe(exc))
                continue
            try:
                if model.optimizer is not None and not model.optimizer.built:  # else its state would not be loaded
                    model.optimizer.build(model.trainable_variables)
                with warnings.catch_warnings():  # Keras only warns where it leaves the state of an optimizer out
                    warnings.filterwarnings("error", "Skipping variable loading")
                    model.load_weights(path / WEIGHTS)
                for variable, saved in zip(_seeds(model), _listed(path / SEEDS), strict=True):
                    variable.assign(saved)
            except FOREIGN as exc:  # the model is half loaded now
                self.remove()
                raise TrainingError(
                    f"Keras must be able to load the backup of this training, got {describe(exc)}; it was removed, so "
                    "that the next run begins with the first epoch"
                ) from exc
            log.info("an interrupted training of the same model and rows goes on after epoch %d", state.epochs)
            self.state = replace(state, resumed=(*state.resumed, state.epochs))
            break
        return self.state

    def callback(self, stopper: Any) -> Any:
        """Return the callback that writes backups; it must stand behind early stopping, whose state it keeps.

        Args:
            stopper: keras.callbacks.EarlyStopping, or None without it.
        """
        import keras

        backup = self

        class BackUp(keras.callbacks.Callback):  # type: ignore[misc]
            def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
                backup.restore_early_stopping(stopper, self.model)

            def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
                backup.note(self.model, stopper, epoch, logs or {})

        return BackUp()

    def restore_early_stopping(self, stopper: Any, model: Any) -> None:
        """Give early stopping the state that it had, after Keras has reset it at the beginning of `fit`."""
        state = self.state
        if stopper is None or state.best is None:
            return
        stopper.wait, stopper.best, stopper.best_epoch = state.wait, state.best, state.best_epoch
        stopper.best_weights = model.get_weights()
        if BEST in state.files and self.directory:
            stopper.best_weights = _listed(self.directory / _name(state.epochs) / BEST)

    def note(self, model: Any, stopper: Any, epoch: int, logs: Mapping[str, float]) -> None:
        """Record a finished epoch, and write a backup if one is due."""
        figures = {str(name): float(value) for name, value in logs.items()}
        self.state = State(
            epoch + 1, [*self.state.logs, figures], bool(model.stop_training), resumed=self.state.resumed
        )
        best_weights = None
        if stopper is not None and stopper.best is not None:
            best = {"wait": stopper.wait, "best": float(stopper.best), "best_epoch": stopper.best_epoch}
            self.state = replace(self.state, **best)
            best_weights = stopper.best_weights if stopper.best_epoch != epoch else None
        began = self._clock()
        if self.directory is None or began < self._due:
            return
        try:
            _write(self.directory, self.state, model, best_weights)
        except FOREIGN as exc:  # such as a full disk; a training needs no backup, and an earlier one is still good
            shutil.rmtree(self.directory / PARTIAL, ignore_errors=True)
            log.warning("the training goes on without further backups, got %s", describe(exc))
            self._due = math.inf
        else:
            ended = self._clock()
            self._due = ended + AT_MOST * (ended - began)

    def remove(self) -> None:
        """Remove the backup; nothing is backed up afterwards."""
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.directory = None


@contextlib.contextmanager
def backup_of(config: Config, splits: Splits, model: Any) -> Iterator[Backup]:
    """Provide the backup of a training, which is removed when the training ends or cannot succeed.

    It stays after an interrupt and after errors of others, such as a full memory. If another process trains the same
    at this time, nothing is backed up.
    """
    reason = _not_restorable(model) if config.training.resume else ""
    if reason:
        log.info("this training is not backed up, because %s", reason)
    if reason or not config.training.resume:
        yield Backup(None)
        return
    directory = config.work_dir / TRAININGS / config.name / identity(config, splits, model)
    descriptor = _held(directory)
    backup = Backup(directory if descriptor is not None else None)
    try:
        yield backup
        backup.remove()
    except TrainingError as exc:
        if exc.__cause__ is None:  # our own verdict, such as a loss that is not a number, would be the same again
            backup.remove()
        raise
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # it is not empty, or gone
                directory.rmdir()
            os.close(descriptor)


def identity(config: Config, splits: Splits, model: Any) -> str:
    """Return the SHA-256 of everything that decides the numbers of a training, in hexadecimal (32 digits).

    It covers the configuration of the model and its training, the rows and what is declared about them, whether they
    are a stream, which is shuffled in another way, the user's imported modules, the versions of the libraries, and the
    untrained model: its layers, its vocabularies, what it is compiled with, and its initial weights. These may come
    from a file or an environment variable that the configuration does not name.

    Args:
        model: built, compiled and not trained.
    """
    # not as JSON, where a number that is not finite is null
    settings = config.model_dump(
        include={"name": True, "seed": True, "model": True, "training": True, "data": {"features"}}
    )
    versions = [platform.python_version(), platform.machine(), *map(version, ("keras", "tensorflow", "numpy"))]
    sha = hashlib.sha256(
        json.dumps(
            [settings, splits.digest, splits.streamed, modules_digest(), versions], sort_keys=True, default=str
        ).encode()
    )
    sha.update(_layers_and_settings(model).encode())
    for array in model.get_weights():
        sha.update(f"|{array.dtype}|{array.shape}|".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:32]


def _layers_and_settings(model: Any) -> str:
    """Return as JSON what a compiled model is besides its weights.

    Keras numbers the names that it chooses within a process (`dense`, `dense_1`), so that a name is replaced by its
    place among the names.
    """
    import keras

    vocabularies = [layer.get_vocabulary() for layer in model._flatten_layers() if hasattr(layer, "get_vocabulary")]
    found = [keras.saving.serialize_keras_object(model), vocabularies]
    text = json.dumps(found, sort_keys=True, default=str)
    names = dict.fromkeys(re.findall(rf'"name": ({JSON_TEXT})', text))
    places = {name: f"#{place}" for place, name in enumerate(names)}
    return re.sub(JSON_TEXT, lambda name: places.get(name[0], name[0]), text)


def _not_restorable(model: Any) -> str:
    """Return why a training of this model cannot go on from its epochs and weights, or an empty string."""
    import keras

    if type(model).fit is not keras.Model.fit:
        return "the model has a fit method of its own, whose progress is unknown"
    known = (model.optimizer, getattr(model.optimizer, "inner_optimizer", None))
    held = [value for layer in model._flatten_layers() for value in vars(layer).values()]
    own = [part for value in held for part in _parts(value) if isinstance(part, keras.optimizers.Optimizer)]
    if any(value not in known for value in own):  # Keras does not load their state before their first step
        return "the model has more optimizers than the one of compile"
    return ""


def _parts(value: Any) -> Iterator[Any]:
    """Yield what lists and dictionaries hold, or the value itself."""
    if not isinstance(value, Mapping | list | tuple):
        yield value
        return
    for part in value.values() if isinstance(value, Mapping) else value:
        yield from _parts(part)


def _held(directory: Path) -> int | None:
    """Create and hold a directory; return None if another process holds it or it cannot be created."""
    try:
        for _ in range(3):  # the process that has just ended the same training may be removing it
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = hold(directory)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), directory.stat()):
                    return descriptor
            os.close(descriptor)
    except OSError as exc:
        what = "another process trains the same model now" if isinstance(exc, BlockingIOError) else str(exc)
        log.warning("this training is not backed up and would begin with the first epoch if it were killed: %s", what)
    return None


def _name(epochs: int) -> str:
    return f"epoch-{epochs:08d}"


def _write(directory: Path, state: State, model: Any, best: list[Any] | None) -> None:
    """Write a backup, which gets its name when it is complete and on the disk; then remove the earlier one."""
    partial = directory / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    model.save_weights(partial / WEIGHTS)
    seeds = [variable.numpy() for variable in _seeds(model)]
    for name, arrays in ((SEEDS, seeds), (BEST, best)):
        if arrays is not None:
            save_arrays(partial / name, {str(number): array for number, array in enumerate(arrays)})
    files = {path.name: _flushed(path) for path in sorted(partial.iterdir())}
    (partial / STATE).write_text(json.dumps({**asdict(state), "files": files}), encoding="utf-8")
    _flushed(partial / STATE)
    partial.rename(directory / _name(state.epochs))
    for path in sorted(directory.glob(WHOLE))[:-1]:
        shutil.rmtree(path)


def _seeds(model: Any) -> list[Any]:
    """Return the variables that belong to random generators and not to the weights."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _listed(path: Path) -> list[Array]:
    saved = load_arrays(path)
    return [saved[str(number)] for number in range(len(saved))]


def _flushed(path: Path) -> str:
    """Force a file to the disk, and return its SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> State:
    """Return the state of a backup whose files are as they were written.

    Raises:
        OSError, ValueError: a file is missing or differs.
    """
    state = TypeAdapter(State).validate_json((path / STATE).read_bytes())
    for name in {WEIGHTS, SEEDS, *state.files}:
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != state.files.get(name):
                raise ValueError(f"{name} has changed since it was written")
    return state
