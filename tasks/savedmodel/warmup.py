"""Warm-up requests, which TensorFlow Serving replays before it calls a version AVAILABLE."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.strings import Array, as_bytes
from tasks.datasets.user_code import FOREIGN, describe, translated
from tasks.errors import DataError, ExportError
from tasks.model_server.status import StatusError
from tasks.model_server.tensor_protos import from_proto
from tasks.model_server.tensors import Tensor
from tasks.model_server.tf_protos import message_module
from tasks.model_server.tf_records import records
from tasks.records import Signature
from tasks.replay.bodies import array_of, message_of
from tasks.replay.draw import drawn

log = logging.getLogger(__name__)
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


def write_warmup(
    version_dir: Path, model_name: str, signature: Signature, feeds: Mapping[str, Array], rows: int
) -> None:
    """Write one request of a single row and one of `rows` rows (none for 0).

    Args:
        feeds: one array for each input; the first axis is the row.

    Raises:
        ExportError: the disk is full, or TensorFlow cannot convert the rows to tensors.

    Source: a TFRecord file of `PredictionLog`, at most 1000 records:
    https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    if not rows:
        return
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    target = version_dir / WARMUP
    with translated("warm-up requests must be written", ExportError):
        target.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(target)) as writer:
            for n_rows in sorted({1, rows}):
                record = prediction_log_pb2.PredictionLog()
                request = record.predict_log.request
                request.model_spec.name = model_name
                request.model_spec.signature_name = signature.name
                for name, array in feeds.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(as_bytes(array[:n_rows])))
                writer.write(record.SerializeToString(deterministic=True))


def write_drawn(
    version_dir: Path, config: Config, signature: Signature, serve: Callable[[dict[str, Any]], Any], most: int = 0
) -> None:
    """Write recorded requests that are drawn from `gates.replay.file`, one record for each.

    A server does not load a model that refuses one of them, so the model is called with each, and those that it refuses
    are left out. The same file and seed give the same bytes.

    Args:
        serve: the function that is exported; it takes a tensor for each input.
        most: how many requests of the file are looked at; 0 means all.

    Raises:
        DataError: the file cannot be read, or no drawn request fits the inputs. ExportError: the model refuses all.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    assert config.gates.replay.file is not None
    found = drawn(config.gates.replay.file, signature, config, most)
    target, written, why = version_dir / WARMUP, 0, ""
    with translated("warm-up requests must be written", ExportError):
        target.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(target)) as writer:
            for rows in found:
                try:
                    serve({spec.name: tf.constant(as_bytes(rows[spec.name]), spec.dtype) for spec in signature.inputs})
                except FOREIGN as exc:  # TensorFlow raises many classes for a request
                    why = describe(exc)
                    continue
                record = prediction_log_pb2.PredictionLog()
                record.predict_log.request.CopyFrom(message_of(rows, signature, config.name))
                writer.write(record.SerializeToString(deterministic=True))
                written += 1
    if not written:
        raise ExportError(f"the model must accept recorded requests to be warmed up with, but it refused all: {why}")
    log.info("%d recorded requests are the warm-up, of %d that were drawn", written, len(found))


def read_example(version_dir: Path, signature: Signature) -> dict[str, Array] | None:
    """Return the first row of the first warm-up request of a signature, one array for each input, or None.

    The result is also None if the file cannot be read or the row does not fit the signature; the server will report
    that. TensorFlow is not needed.
    """
    from google.protobuf.message import DecodeError

    logs = message_module("tensorflow_serving.apis.prediction_log_pb2").PredictionLog
    try:
        with (version_dir / WARMUP).open("rb") as file:
            for record in records(file):
                request = logs.FromString(record).predict_log.request
                if request.inputs and request.model_spec.signature_name in ("", signature.name):
                    inputs = {name: from_proto(name, value) for name, value in request.inputs.items()}
                    return _first_row(inputs, signature)
    except (OSError, DecodeError, StatusError, DataError):
        return None
    return None


def _first_row(inputs: Mapping[str, Tensor], signature: Signature) -> dict[str, Array] | None:
    row = {name: array_of(tensor)[:1] for name, tensor in inputs.items() if tensor.shape}
    if set(row) != {spec.name for spec in signature.inputs} or not all(map(_can_be_sent, row.values())):
        return None
    return fit_to_inputs(row, signature.inputs)


def _can_be_sent(array: Array) -> bool:
    """Return whether an array has one row, and only numbers that JSON can represent."""
    return len(array) == 1 and (array.dtype.kind != "f" or bool(np.isfinite(array).all()))
