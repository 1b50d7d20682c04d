"""Builds and trains the user's Keras model; runs in the TensorFlow process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.loading import DEFAULT_MODEL
from configs.schema import Config
from tasks.datasets.fitting import fit_to_inputs, largest_change, largest_changes
from tasks.datasets.mapped import is_mapped, let_go, mapped_like, pieces
from tasks.datasets.rows import Array, Rows, load_rows
from tasks.datasets.strings import as_objects, dtype_words
from tasks.datasets.user_code import resolve, translated
from tasks.errors import DataError, TrainingError
from tasks.gates.judge import check_slices, judged_output
from tasks.records import Splits, TrainedModel
from tasks.savedmodel.structure import (
    NAMED_INPUTS,
    check_free_batch,
    input_specs,
    output_names,
    pack_features,
    pack_inputs,
    served_inputs,
    served_outputs,
)
from tasks.savedmodel.trial import save_model, try_export
from tasks.training.backup import backup_of
from tasks.training.order import ShuffledRows, StreamedRows, read_ahead
from tasks.training.preprocessing import DeclaredFeatures
from tasks.training.readings import decide_readings
from tasks.training.recipe import recipe_of
from tasks.words import few

log = logging.getLogger(__name__)
TRIED_ROWS = 8


def fit_model(config: Config, splits: Splits, keras_file: Path) -> TrainedModel:
    """Build, train and save a model.

    Args:
        keras_file: the `.keras` file to write.

    Raises:
        TrainingError: the model cannot be built or trained, or its loss is not a number.
        DataError: the inputs of the model do not fit the rows.
        ExportError: the model cannot be served, which is checked before the training. SignatureMismatch: the
            configuration can correct it.
    """
    import keras

    rows, validation = load_rows(splits.train), load_rows(splits.validation)
    model, readings, rounded = _tried(config, splits, rows, validation, keras_file.parent)
    keras.utils.set_random_seed(config.seed)  # the trial must not influence the training
    stopper = keras.callbacks.EarlyStopping(
        config.training.monitor,
        patience=config.training.patience,
        mode=config.training.mode,
        restore_best_weights=True,
    )
    callbacks = [_watch(config), epoch_lines(config.training.epochs), *([stopper] if config.training.patience else [])]
    with backup_of(config, splits, model) as backup:
        start = backup.restore(model)
        callbacks.append(backup.callback(stopper if config.training.patience else None))
        begin = config.training.epochs if start.stopped else start.epochs
        # a fit method of the user's need not take it
        later = {"initial_epoch": begin} if begin else {}
        found = _fit(model, rows, validation, config, callbacks=callbacks, verbose=0, **later)
        save_model(model, keras_file)
    history = {name: [*start.history.get(name, ()), *found.get(name, ())] for name in {**start.history, **found}}
    best_epoch = stopper.best_epoch + 1 if config.training.patience else len(history["loss"])
    trained = _summary(model, history, best_epoch, keras_file)
    resumed, recipe = backup.state.resumed, recipe_of(config, model)
    return replace(trained, readings=readings, rounded=rounded, resumed=resumed, recipe=recipe)


def try_model(config: Config, splits: Splits, directory: Path) -> str:
    """Build the model, train it on a few rows and forget it; return its inputs and outputs in words.

    Raises:
        PipelineError: the same errors as those of `fit_model` up to its first steps.
    """
    rows, validation = load_rows(splits.train), load_rows(splits.validation)
    model, _, _ = _tried(config, splits, rows, validation, directory)
    _try_training(model, rows, validation, config)
    return f"takes {few(input_specs(model))}; answers {few(output_names(model))}; {model.count_params():,} parameters"


def _sample(splits: Splits, rows: Rows) -> Rows:
    """Return the rows that a model is tried with: all of them, or some of a stream."""
    return rows.spread() if splits.streamed else rows


def _tried(
    config: Config, splits: Splits, rows: Rows, validation: Rows, directory: Path
) -> tuple[Any, Any, dict[str, str]]:
    """Build, export and call the model, and return it with the readings of its outputs and the roundings.

    It is built on all rows if the features are declared, because vocabularies and scales are made of blocks of rows.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(config.seed)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    some, some_seen = _sample(splits, rows), _sample(splits, validation)
    model = build_model(config, rows if config.data.features else some, splits.classes)
    _check_names(model, config, some)
    for part in (some, some_seen):  # the test rows are asked of its export
        fit_to_inputs(part.features, input_specs(model))
    try_export(model, config, splits, directory)
    rounded = _rounded(some, model)
    return model, decide_readings(model, config, some, splits), rounded


def _try_training(model: Any, rows: Rows, validation: Rows, config: Config) -> None:
    """Train on a few rows: Keras looks for losses, metrics and what it monitors in its first steps only."""
    once = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})})
    some, seen = (part.take(np.arange(min(len(part), TRIED_ROWS))) for part in (rows, validation))
    _fit(model, some, seen, once, callbacks=[_watch(once)], verbose=0)


def _rounded(rows: Rows, model: Any) -> dict[str, str]:
    """Return and log the inputs and targets whose numbers are rounded for the model."""
    inputs = largest_changes(rows.features, input_specs(model))
    found = {f"input '{name}'": change for name, change in inputs.items()}
    for name, array in rows.targets.items():
        if array.dtype.kind in "iuf" and array.dtype.itemsize > 2:
            cast = _target(array, name) if array.dtype == np.float64 else array.astype(np.float32)
            change = largest_change(array, cast)
            found |= {f"target '{name}'": change} if change else {}
    for name, change in found.items():
        log.info("%s is rounded: %s", name, change)
    return found


def _check_names(model: Any, config: Config, rows: Rows) -> None:
    """Refuse names that the model does not have, before the training."""
    with translated(f"model.build '{config.model.build or DEFAULT_MODEL}' must return a usable model", TrainingError):
        check_free_batch(model)
        served_inputs(model, config.export)
        outputs = served_outputs(model, config.export)
    if config.gates.metrics:
        judged_output(config.gates, list(outputs))
    check_slices(config.gates, rows.features)
    _check_target_names(model, list(rows.targets))


def _check_target_names(model: Any, targets: list[str]) -> None:
    """Refuse targets that Keras cannot assign to an output; a custom training step may use them."""
    import keras

    outputs = output_names(model)
    unknown = [name for name in targets if name not in outputs and targets != ["target"]]
    if unknown and len(outputs) + len(targets) > 2 and type(model).train_step is keras.Model.train_step:
        raise DataError(
            f"every target must have the name of an output of the model, got {', '.join(map(repr, unknown))}; the "
            f"outputs are {', '.join(map(repr, outputs))}"
        )


def _fit(
    model: Any, train: Rows, validation: Rows, config: Config, *, callbacks: Sequence[Any], **options: Any
) -> dict[str, list[float]]:
    """Fit a model and return its history of these epochs."""
    batch_size = config.training.batch_size
    with translated("Keras must be able to train the model on these rows", TrainingError):  # with the user's losses
        rows = _shuffled(_arrays(train, model), len(train), config)
        seen = _arrays(validation, model)
        fitted = model.fit(
            read_ahead(rows.batches(batch_size)),
            validation_data=read_ahead(rows.in_order(seen, len(validation), batch_size)),
            epochs=config.training.epochs,
            shuffle=False,  # the data set shuffles; Keras' default would warn
            callbacks=[rows.callback(), *callbacks],
            **options,
        )
        return {str(name): [float(value) for value in values] for name, values in fitted.history.items()}


def _shuffled(arrays: Any, rows: int, config: Config) -> ShuffledRows | StreamedRows:
    """Return training rows as batches; those of a stream stay on the disk."""
    import tensorflow as tf

    if any(isinstance(array, np.ndarray) and is_mapped(array) for array in tf.nest.flatten(arrays)):
        return StreamedRows(arrays, rows, config.seed, config.training.shuffle_rows)
    return ShuffledRows(arrays, rows, config.seed)


def build_model(config: Config, rows: Rows, classes: Sequence[Any] = ()) -> Any:
    """Call the user's function, or the one of the default model, on the training features and check its result."""
    import keras

    reference = config.model.build or DEFAULT_MODEL
    build = resolve(reference, "model.build", TrainingError)
    as_given = _for_keras if config.data.features else as_objects
    features: Any = {name: as_given(array) for name, array in rows.features.items()}
    if config.data.features:
        features = DeclaredFeatures(features, config.data, rows.targets, classes)
    elif list(features) == ["features"]:
        features = features["features"]  # the function gets the array that the loader returned
    with translated(f"model.build '{reference}' must return a model", TrainingError):
        model = build(features, **config.model.params)
    if not isinstance(model, keras.Model):
        raise TrainingError(f"model.build '{reference}' must return a keras.Model, got {type(model).__name__}")
    if not getattr(model, "inputs", None):
        raise TrainingError(f"model.build '{reference}' must return {NAMED_INPUTS}")
    if not model.compiled:
        raise TrainingError(f"model.build '{reference}' must return a compiled model; call model.compile in it")
    return model


def _arrays(rows: Rows, model: Any) -> tuple[Any, Any]:
    """Return inputs and targets in the structures that Keras accepts."""
    targets: Any = {name: _target(array, name) for name, array in rows.targets.items()}
    outputs = output_names(model)
    if list(targets) == ["target"] or (len(targets) == len(outputs) == 1 and list(targets) != outputs):
        [targets] = targets.values()  # a single target and a single output belong together
    if not any(is_mapped(array) for array in (*rows.features.values(), *rows.targets.values())):
        return pack_features(model, rows.features), targets
    fed = fit_to_inputs(rows.features, input_specs(model))
    for name, array in fed.items():
        if not is_mapped(array):
            log.warning(
                "all rows of input '%s' are in memory, because they are %s; only numbers and short %s stay on the disk",
                name,
                dtype_words(array),
                dtype_words(array),
            )
    return pack_inputs(model, {name: _for_keras(array) for name, array in fed.items()}), targets


def _for_keras(array: Array) -> Array:
    """Return text and bytes as objects; those on the disk stay there until they are read in batches."""
    return array if is_mapped(array) else as_objects(array)


def _target(array: Array, name: str) -> Array:
    """Return a target for Keras: float64 becomes float32, Keras' default, and text becomes objects."""
    if array.dtype != np.float64:
        return _for_keras(array)
    cast, row = mapped_like(array, np.dtype(np.float32)), 0  # those of a stream stay on the disk
    for piece in pieces(array):
        with np.errstate(over="ignore"):  # too large numbers become infinite
            part = piece.astype(np.float32)
        if not np.isfinite(part).all():
            raise DataError(f"targets must fit float32, which Keras uses, got larger numbers in '{name}'; scale them")
        cast[row : row + len(part)] = part
        row += len(part)
        let_go([cast])
    return cast


def _watch(config: Config) -> Any:
    """Return a callback that stops a training that cannot succeed."""
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            logs = logs or {}
            if config.training.patience and config.training.monitor not in logs:
                raise TrainingError(
                    f"training.monitor must be one of {', '.join(sorted(logs))}, got '{config.training.monitor}'"
                )
            if not math.isfinite(logs.get("loss", math.nan)):
                raise TrainingError(
                    f"the loss must be a finite number, got {logs.get('loss')} in epoch {epoch + 1}; "
                    "lower the learning rate or scale the features"
                )

    return Watch()


def epoch_lines(epochs: int, clock: Callable[[], float] = time.monotonic) -> Any:
    """Return a callback that logs one line for each epoch, or for some of very many epochs.

    Lines are logged for the first hundred epochs, then for every tenth up to a thousand, every hundredth up to ten
    thousand and so on, for each epoch that ends at least a second after the last line, and for the last epoch.
    """
    import keras

    class Lines(keras.callbacks.Callback):  # type: ignore[misc]
        said_at = clock()
        waiting: tuple[Any, ...] = ()  # for its line: epoch, epochs, figures

        def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
            self.waiting = (epoch + 1, epochs, figures)
            if (epoch + 1) % 10 ** max(len(str(epoch)) - 2, 0) == 0 or clock() - self.said_at >= 1:
                self._say()

        def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
            if self.waiting:
                self._say()

        def _say(self) -> None:
            done = {"progress": self.waiting[0] / epochs}
            log.info("epoch %d/%d  %s", *self.waiting, extra=done)
            self.said_at, self.waiting = clock(), ()

    return Lines()


def _summary(model: Any, history: Mapping[str, list[float]], best_epoch: int, keras_file: Path) -> TrainedModel:
    curves = {name: tuple(values) for name, values in history.items()}
    return TrainedModel(keras_file, curves, model.count_params(), best_epoch)
