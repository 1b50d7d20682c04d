"""Warm-up: replays the requests in a SavedModel before it becomes available.

Source: TensorFlow Serving, servables/tensorflow/saved_model_warmup_util.cc.
"""

from pathlib import Path
from typing import BinaryIO, Final

from tasks.model_server.log import log
from tasks.model_server.status import Code, StatusError, invalid_argument
from tasks.model_server.tensor_protos import from_proto
from tasks.model_server.tf_protos import proto
from tasks.model_server.tf_records import records
from tasks.model_server.tf_runtime import SavedModel

WARMUP_FILE: Final = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS: Final = 1000


def load_warm(version_dir: Path) -> SavedModel:
    """Load a SavedModel and replay its warm-up requests.

    Raises:
        StatusError: the SavedModel does not load, or a warm-up request fails.
    """
    model = SavedModel(version_dir)
    path = version_dir / WARMUP_FILE
    try:
        with path.open("rb") as file:
            count = _replay(model, file, path)
    except FileNotFoundError:
        return model
    except OSError as error:
        raise StatusError(Code.FAILED_PRECONDITION, f"{path}; {error.strerror}") from error
    else:
        log(f"Finished reading warmup data for model at {path}. Number of warmup records read: {count}.")
    return model


def _replay(model: SavedModel, file: BinaryIO, path: Path) -> int:
    messages = proto("tensorflow_serving.apis.prediction_log_pb2")
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

    count = 0
    for record in records(file):
        try:
            entry = messages.PredictionLog.FromString(record)
        except DecodeError:
            raise invalid_argument(f"Failed to parse warmup record {count} from {path}") from None
        kind = entry.WhichOneof("log_type")
        if kind not in ("predict_log", None):
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
        if kind:
            request = entry.predict_log.request
            inputs = {name: from_proto(name, value) for name, value in request.inputs.items()}
            model.predict(request.model_spec.signature_name, inputs, 0, request.output_filter)
        count += 1
        if count > MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    return count
