"""Finds out before the training whether the answers of variants can be compared; runs in the TensorFlow process."""

from __future__ import annotations

from configs.schema import Config
from tasks.datasets.rows import load_rows
from tasks.gates.metrics import default_metrics
from tasks.records import Splits
from tasks.savedmodel.structure import served_outputs
from tasks.training.fit import build_model
from tasks.training.readings import decide_readings


def why_no_metric(config: Config, splits: Splits) -> str:
    """Build a model, and return why no metric can be chosen for its answers, or an empty string.

    Args:
        config: of a variant; it names no metric.

    Raises:
        TrainingError: the model cannot be built or called. DataError: the configuration does not fit its answers.
    """
    rows = load_rows(splits.train)
    rows = rows.spread() if splits.streamed else rows
    model = build_model(config, rows, splits.classes)
    outputs = served_outputs(model, config.export)
    if len(outputs) > 1 and not config.gates.metric_output:
        return f"gates.metric_output must name the output by which variants are compared, one of {', '.join(outputs)}"
    reading = decide_readings(model, config, rows, splits).get(
        outputs[config.gates.metric_output or next(iter(outputs))]
    )
    if reading is None or default_metrics(reading):
        return ""
    return f"sweep.metric must be set, because no metric suits {reading}: {reading.reason}"
