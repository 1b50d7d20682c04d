"""Decides before the training how the outputs of a built model are read; runs in the TensorFlow process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema import Config
from configs.sections.gates import Gates
from configs.user_code import is_reference
from tasks.datasets.rows import Array, Rows, load_rows
from tasks.datasets.user_code import describe
from tasks.errors import DataError, TrainingError
from tasks.gates.judge import judged_output
from tasks.gates.metrics import OF_NUMBERS, measure, unfit, without_rows
from tasks.gates.reading import decide, of_own_metrics, refuse_misfit, settle, shape_of
from tasks.gates.scores import Scored
from tasks.records import Reading, Splits
from tasks.savedmodel.structure import name_outputs, output_names, pack_features, served_names
from tasks.training.losses import clues_of, ending_of, losses_by_output, unfit_target

log = logging.getLogger(__name__)
FEW_ROWS = 256  # that the untrained model is called with


@dataclass(frozen=True)
class _Output:
    """One output of the untrained model: its target in the training and test rows, and some answers."""

    name: str
    target: Array
    test: Array
    answers: Array


def decide_readings(model: Any, config: Config, rows: Rows, splits: Splits) -> dict[str, Reading]:
    """Return how each output with a target is read, by Keras' name of it.

    Args:
        rows: the training rows.

    Raises:
        DataError: `gates` contradict the judged output, or bound a metric that cannot judge it; or a loss cannot be
            computed from its target.
        TrainingError: the model cannot be called with these rows.
    """
    answers, endings = _answers(model, rows)
    losses, test = losses_by_output(model), load_rows(splits.test).targets
    readings: dict[str, Reading] = {}
    judged = _judged(config, output_names(model))
    for name, served in answers.items():
        target = _target(rows.targets, name)
        if target is not None and served.ndim:
            _check_target(losses.get(name), {"training": target, "test": _target(test, name)}, served, name)
            clues = clues_of(losses.get(name), endings[name], target.shape, served.shape)
            readings[name] = decide(clues, target, served)
        if target is not None and name == judged and name in readings:
            output = _Output(name, target, test[name] if len(test) > 1 else next(iter(test.values())), served)
            readings[name] = _settled(config.gates, readings[name], output)
    return readings


def _check_target(loss: object, targets: Mapping[str, Array | None], served: Array, name: str) -> None:
    for rows, target in targets.items():
        problem = unfit_target(loss, target, served) if target is not None else ""
        if problem:
            raise DataError(f"the target of output '{name}' must fit its loss, got {problem} ({rows} rows)")


def _settled(gates: Gates, found: Reading, output: _Output) -> Reading:
    """Return the reading of the judged output according to `gates`, or refuse an impossible one."""
    found = settle(gates, found, output.target, output.answers, output.name)
    few = Scored(output.target[: len(output.answers)], output.answers, found, output.name)
    _try_own_metrics(gates, few)
    for metric in gates.metrics:
        reason = unfit(metric, found) or ("different shapes" if metric in OF_NUMBERS and not few.same_size else "")
        if reason:
            shapes = f"with answers of shape {shape_of(output.answers)} and targets of shape {shape_of(output.target)}"
            raise DataError(f"metric '{metric}' must fit output '{output.name}' {shapes}, got {reason}")
    if not found.task or of_own_metrics(gates):
        return found
    refuse_misfit(found, output.test, output.answers, output.name)
    few.check()
    test = Scored(output.test, np.zeros((len(output.test), *output.answers.shape[1:])), found, output.name)
    missing = without_rows(test) if "auc" in gates.metrics else []
    if missing:
        some = f"{', '.join(map(str, missing[:5]))}{' and more' if len(missing) > 5 else ''}"
        raise DataError(
            f"the metric 'auc' needs test rows with and without every class of output '{output.name}', but all rows "
            f"have the same value for {some}; use more rows, or bound another metric"
        )
    return found


def _try_own_metrics(gates: Gates, few: Scored) -> None:
    """Warn of a user's metric that fails; the trained model may give other answers, so this is not an error yet."""
    for name in filter(is_reference, gates.metrics):
        try:
            measure(name, few)
        except DataError as exc:
            log.warning("with the answers of the untrained model, %s; after the training that is an error", exc)


def _judged(config: Config, names: list[str]) -> str:
    """Return Keras' name of the output that the metrics judge, or an empty string if none is configured."""
    outputs = served_names(config.export.outputs, names, "export.outputs")
    if len(outputs) > 1 and not config.gates.metric_output:
        return ""
    return outputs[judged_output(config.gates, list(outputs))]


def _target(targets: Mapping[str, Array], name: str) -> Array | None:
    """Return the target of an output: the target of the same name, or the only one."""
    return targets.get(name) if len(targets) > 1 else next(iter(targets.values()))


def _answers(model: Any, rows: Rows) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the answers of the untrained model and the operation that computes each output, by Keras' names."""
    import tensorflow as tf

    endings: dict[str, str] = {}

    def answer(fed: Any) -> Any:
        answers = name_outputs(model, model(fed, training=False))
        endings.update({name: ending_of(tensor) for name, tensor in answers.items()})
        return answers

    fed = pack_features(model, rows.features, slice(FEW_ROWS))
    try:
        answers = tf.function(answer, autograph=False).get_concrete_function(fed)(fed)
        dense = {name: tensor for name, tensor in answers.items() if tf.is_tensor(tensor) and hasattr(tensor, "numpy")}
        return {name: np.asarray(tensor) for name, tensor in dense.items()}, endings
    except Exception as exc:  # Keras and TensorFlow raise many classes for a model that does not fit its data
        raise TrainingError(f"it must be possible to call the model with these rows, got {describe(exc)}") from exc
