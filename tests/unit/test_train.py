"""The training stage beside an MLflow that fails meanwhile."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

from configs.schema import Config
from tasks import train
from tasks.errors import PipelineError, TrackingError, TrackingRefused
from tasks.records import Splits, TrainedModel

SPLITS = Splits(Path("train"), Path("validation"), Path("test"), {}, "", "", (), {})
TRAINED = TrainedModel(Path("model.keras"), {}, 0, 0)


def called(monkeypatch: pytest.MonkeyPatch, error: PipelineError) -> TrainedModel:
    """Call the stage's function where MLflow answers with an error while the other process trains."""

    def fails(_config: Config) -> None:
        raise error

    monkeypatch.setattr(train, "submit", lambda *_: lambda: TRAINED)
    monkeypatch.setattr(train, "progress_shown", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(train, "preload", lambda: None)
    monkeypatch.setattr(train, "check_experiment", fails)
    return train.train_model.fn(Config(name="m"), SPLITS, Path("run"))


def test_a_service_that_does_not_answer_costs_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that may pass would let Prefect call the stage again, which would train again."""
    caplog.set_level(logging.WARNING)
    assert called(monkeypatch, TrackingError("MLflow must answer")) is TRAINED
    assert "MLflow must answer; the training goes on" in caplog.text


def test_a_refusal_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is final: Prefect does not call the stage again."""
    with pytest.raises(TrackingRefused) as caught:
        called(monkeypatch, TrackingRefused("the experiment is deleted"))
    assert not caught.value.retryable
