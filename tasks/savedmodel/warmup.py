"""Warm-up requests, which TensorFlow Serving replays before it calls a version AVAILABLE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.datasets.references import translated
from tasks.datasets.strings import Array, as_bytes
from tasks.errors import ExportError
from tasks.records import Signature

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


def write_warmup(
    version_dir: Path, model_name: str, signature: Signature, feeds: Mapping[str, Array], rows: int
) -> None:
    """Write one request of a single row and one of `rows` rows (none for 0).

    Args:
        feeds: one array an input, first axis the row.

    Raises:
        ExportError: the disk is full, or TensorFlow makes no tensor of the rows.

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
                writer.write(record.SerializeToString())
