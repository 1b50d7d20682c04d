"""Fitting a user's model: repeatable, stopped early at the best epoch, and refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.errors import DataError, PipelineError, TrainingError
from tasks.records import TrainedModel

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
Fit = Callable[..., TrainedModel]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Return a function that prepares the rows of a configuration and fits its model."""
    from tasks.training.fit import fit_model

    def fitting(config: Config, file: str = "model.keras") -> TrainedModel:
        splits = prepare_splits(config.data, tmp_path / "data")
        return fit_model(config, splits, tmp_path / file)

    return fitting


def weights(trained: TrainedModel) -> list[Any]:
    import keras

    return list(keras.saving.load_model(trained.keras_file).get_weights())


def one_by_one() -> Iterator[Any]:
    """Yield the digits as a stream."""
    from configs.digits import load

    features, target = load()
    for start in range(0, len(target), 100):
        yield features[start : start + 100], target[start : start + 100]


def test_one_seed_gives_one_model(fit: Fit, make_config: Callable[..., Config]) -> None:
    """Two runs with one seed have equal histories and weights, bit for bit; another seed has others."""
    digits = ("configs.digits:load", "tests.data.user_models:noisy")
    first, again, other = (
        fit(make_config(*digits, **{"seed": seed, "training.epochs": 3}), f"{n}.keras")
        for n, seed in enumerate((1, 1, 2))
    )
    assert first.history == again.history != other.history
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights(first), weights(other), strict=True))


def test_what_is_tried_before_changes_nothing(
    fit: Fit, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is the same, bit for bit, whether its export was tried before it was fitted or not."""
    config = make_config("configs.digits:load", "tests.data.user_models:noisy", **{"training.epochs": 2})
    tried = fit(config, "tried.keras")
    monkeypatch.setattr("tasks.training.fit.try_export", lambda *_: None)
    untried = fit(config, "untried.keras")
    assert tried.history == untried.history
    assert all(np.array_equal(a, b) for a, b in zip(weights(tried), weights(untried), strict=True))


@pytest.mark.parametrize("load", ["configs.digits:load", "tests.integration.test_fit:one_by_one"])
def test_no_thread_tunes_the_reading(
    fit: Fit, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, load: str
) -> None:
    """Keras gets rows to train and to validate with that tf.data does not tune, from memory and from the disk."""
    import keras

    got: list[Any] = []
    usual = keras.Model.fit

    def noted(self: Any, x: Any, *, validation_data: Any, **options: Any) -> Any:
        got.extend((x, validation_data))
        return usual(self, x, validation_data=validation_data, **options)

    monkeypatch.setattr(keras.Model, "fit", noted)
    fit(make_config(load, "tests.data.user_models:noisy"))
    assert [data.options().autotune.enabled for data in got] == [False, False]


def test_the_history_is_by_epoch(fit: Fit, user_config: Callable[..., Config]) -> None:
    """Without early stopping every epoch is run, recorded for training and validation, and the last is kept."""
    trained = fit(user_config("line", "one_number", **{"training.epochs": 4, "training.patience": 0}))
    assert {name: len(values) for name, values in trained.history.items()} == dict.fromkeys(
        ("loss", "mae", "val_loss", "val_mae"), 4
    )
    assert (trained.parameters, trained.best_epoch) == (2, 4)


def test_early_stopping_keeps_the_best_epoch(fit: Fit, user_config: Callable[..., Config]) -> None:
    """The saved weights are those of the epoch that is reported as the best, not of the last one."""
    import keras

    settings = {"training.epochs": 60, "training.patience": 3, "model.params": "{rate: 0.7}"}
    config = user_config("line", "one_number", **settings)
    trained = fit(config)
    losses = trained.history["val_loss"]
    assert 1 <= trained.best_epoch < len(losses) < 60  # it stopped early, after the best epoch
    assert trained.best_epoch == int(np.argmin(losses)) + 1
    x, y = _validation(trained)
    loss = keras.saving.load_model(trained.keras_file).evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(losses[trained.best_epoch - 1], rel=1e-5)


@pytest.mark.parametrize("monitor", ["val_mae", "val_loss"])
def test_the_reported_epoch_is_the_kept_one(fit: Fit, user_config: Callable[..., Config], monitor: str) -> None:
    """The reported best epoch is the one that Keras keeps, whichever way the monitored figure is better."""
    settings = {"training.epochs": 60, "training.patience": 3, "training.monitor": monitor}
    trained = fit(user_config("line", "one_number", **settings, **{"model.params": "{rate: 0.7}"}))
    assert trained.best_epoch == int(np.argmin(trained.history[monitor])) + 1


def _validation(trained: TrainedModel) -> tuple[Any, Any]:
    from tasks.datasets.rows import load_rows

    rows = load_rows(trained.keras_file.parent / "data" / "validation.npz")
    return rows.features["x"], rows.targets["target"]


@pytest.mark.parametrize(
    ("load", "build", "settings", "error", "words"),
    [
        ("line", "exploding", {"training.epochs": 3}, TrainingError, ["the loss must be a finite number", "in epoch "]),
        ("line", "one_number", {"training.monitor": "val_acc"}, TrainingError, ["val_loss, val_mae", "'val_acc'"]),
        ("line", "no_model", {}, TrainingError, ["must return a keras.Model, got dict"]),
        ("line", "uncompiled", {}, TrainingError, ["must return a compiled model"]),
        ("line", "shapeless", {}, TrainingError, ["start a Sequential with keras.Input"]),
        ("line", "raising", {}, TrainingError, ["ValueError: layers must be positive"]),
        ("line", "of_another_width", {}, DataError, ["x: float32 (?, 3)", "the rows have the shape"]),
        ("line", "of_another_name", {}, DataError, ["there is none for 'z'", "features are 'x'"]),
        ("byte_strings", "one_number", {}, DataError, ["x: float32", "the rows of 'blob' are bytes"]),
        ("people", "one_number", {}, DataError, ["there is none for 'x'", "'age', 'city'"]),
        ("pairs", "two_by_two", {"model.build": "configs.digits:build"}, TrainingError, ["configs.digits:build"]),
    ],
)
def test_no_usable_model_is_one_line(
    fit: Fit,
    user_config: Callable[..., Config],
    load: str,
    build: str,
    settings: dict[str, Any],
    error: type[PipelineError],
    words: list[str],
) -> None:
    """A model that cannot be built or fitted, or whose loss is no number, is one line that says what was received."""
    with pytest.raises(error) as caught:
        fit(user_config(load, build, **settings))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_targets_that_the_loss_does_not_take(fit: Fit, make_config: Callable[..., Config]) -> None:
    """Targets that do not fit the loss are one line with the loss that does, before Keras raises its own."""
    config = make_config("tests.data.user_models:people", "tests.data.user_models:categorical")
    with pytest.raises(DataError, match="must fit its loss, got .*; use sparse_categorical_crossentropy") as caught:
        fit(config)
    assert "\n" not in str(caught.value)


def epochs_said(caplog: pytest.LogCaptureFixture, ran: int, epochs: int, seconds: float) -> list[int]:
    """Return the epochs that have a line, where each of them takes so many seconds."""
    from tasks.training.fit import epoch_lines

    now = [0.0]
    callback = epoch_lines(epochs, lambda: now[0])
    caplog.clear()
    with caplog.at_level("INFO", "tasks"):
        for epoch in range(ran):
            now[0] += seconds
            callback.on_epoch_end(epoch, {"loss": 1 / 3, "val_loss": 0.5})
        callback.on_train_end()
    for record in caplog.records:
        number = int(record.getMessage().split("/")[0].removeprefix("epoch "))
        assert record.getMessage() == f"epoch {number}/{epochs}  loss 0.3333  val_loss 0.5"
        assert record.__dict__["progress"] == number / epochs
    return [int(record.getMessage().split("/")[0].removeprefix("epoch ")) for record in caplog.records]


def test_each_epoch_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A usual fit has a line an epoch, quick or slow, and none twice; so has one that stops early."""
    assert epochs_said(caplog, 30, 30, 0.01) == [*range(1, 31)]
    assert epochs_said(caplog, 7, 30, 0.01) == [*range(1, 8)]
    assert epochs_said(caplog, 250, 1000, 60) == [*range(1, 251)]
    assert epochs_said(caplog, 0, 30, 1) == []


def test_a_thousand_quick_epochs_can_be_followed(caplog: pytest.LogCaptureFixture) -> None:
    """Of very many, a hundred have a line at first, then every tenth, then every hundredth, and always the last."""
    assert epochs_said(caplog, 1000, 1000, 0) == [*range(1, 101), *range(110, 1001, 10)]
    assert epochs_said(caplog, 1234, 9999, 0) == [*range(1, 101), *range(110, 1001, 10), 1100, 1200, 1234]
    assert epochs_said(caplog, 120, 1000, 0.25) == [*range(1, 101), 104, 108, 110, 114, 118, 120]
