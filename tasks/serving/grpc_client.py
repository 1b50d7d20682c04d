"""A client of TensorFlow Serving's gRPC interface: the other transport behind `ModelClient`.

Source: tensorflow_serving/apis/prediction_service.proto and model_service.proto.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from tasks.datasets.blocks import row_blocks
from tasks.datasets.strings import Array, as_bytes, bytes_array, is_string, text_array
from tasks.errors import AccessDenied, PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.model_server.tensor_protos import from_proto
from tasks.model_server.tf_protos import message_module
from tasks.records import TensorSpec
from tasks.serving.client import DTYPES, RETRY_WAITS_S, Access, whole
from tasks.serving.exits import remedy
from tasks.serving.streaming import in_order, with_progress
from tasks.words import one_line

# grpc's default refuses messages over 4 MiB; the server has a limit of its own
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


NO_THREAD = "Server Threadpool Exhausted"
"""Source: grpc, src/cpp/server/server_cc.cc, ResourceExhaustedHandler; a server has --grpc_max_threads."""


class GrpcClient:
    """Sends requests about one model of one server over gRPC (a `ModelClient`); every call has a deadline.

    UNAVAILABLE and a server without a free thread are retried a few times, other errors never.
    """

    def __init__(
        self,
        target: str,
        model_name: str,
        timeout_s: float,
        sleep: Callable[[float], None] = time.sleep,
        access: Access | None = None,
    ) -> None:
        """Set the address; nothing is sent yet.

        Args:
            target: host and port. timeout_s: seconds for each call.
            access: what the server requires of its clients; None means nothing.
        """
        self._model_name, self._timeout_s, self._sleep = model_name, timeout_s, sleep
        access = access or Access()
        self._most_rows = access.most_rows
        if access.tls:
            files = (access.ca_file, access.key_file, access.cert_file)
            credentials = grpc.ssl_channel_credentials(*(file and file.read_bytes() for file in files))
            self._channel = grpc.secure_channel(target, credentials, options=OPTIONS)
        else:
            self._channel = open_channel(target)
        self._metadata = [(name.lower(), value) for name, value in access.headers.items()]
        self._target = target

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def states(self) -> dict[int, tuple[str, str]]:
        """Return a mapping from version to (state, error message)."""
        messages = _api("get_model_status_pb2")
        request = messages.GetModelStatusRequest()
        request.model_spec.name = self._model_name
        stub = _api("model_service_pb2_grpc").ModelServiceStub(self._channel)
        answer = self._call(stub.GetModelStatus, request)
        name_of = messages.ModelVersionStatus.State.Name
        return {v.version: (name_of(v.state), v.status.error_message) for v in answer.model_version_status}

    def signature_def(self, version: int, signature_name: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Return the inputs and outputs of a signature as the server reports them, sorted by name."""
        messages = _api("get_model_metadata_pb2")
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        _name(request.model_spec, self._model_name, version)
        answer = self._call(self._prediction_stub().GetModelMetadata, request)
        signatures = messages.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        if signature_name not in signatures.signature_def:
            names = list(signatures.signature_def)
            raise ServingError(f"the metadata must describe the signature '{signature_name}', got {names}")
        found = signatures.signature_def[signature_name]
        return _specs(found.inputs), _specs(found.outputs)

    def labelled(self, label: str) -> int:
        """Return the version that a label names on the server."""
        request = _api("get_model_metadata_pb2").GetModelMetadataRequest(metadata_field=["signature_def"])
        _name(request.model_spec, self._model_name, label)
        return int(self._call(self._prediction_stub().GetModelMetadata, request).model_spec.version.value)

    def predict(
        self,
        version: int | str,
        inputs: Mapping[str, Array],
        outputs: Sequence[TensorSpec],
        signature_name: str,
        *,
        together: bool = False,
    ) -> dict[str, Array]:
        """Return the served answers to all rows, one array for each output, in the order of the rows."""
        stub = self._prediction_stub()

        def ask(block: Mapping[str, Array]) -> dict[str, Array]:
            request = predict_request(self._model_name, version, block, signature_name)
            return _read(self._call(stub.Predict, request), outputs)

        answers = in_order(ask, [inputs] if together else row_blocks(inputs, most=self._most_rows))
        return whole(with_progress(answers, len(next(iter(inputs.values())))), outputs)

    def predict_request(self, version: int, recorded: Any, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
        """Return the answer of a version to a recorded PredictRequest, which is not changed.

        Raises:
            PredictionError: the server refused the request. ServingUnavailable: it does not answer any more.
        """
        request = _api("predict_pb2").PredictRequest()
        request.CopyFrom(recorded)
        request.model_spec.ClearField("version_choice")
        _name(request.model_spec, self._model_name, version)
        wanted = [spec for spec in outputs if not recorded.output_filter or spec.name in recorded.output_filter]
        return _read(self._call(self._prediction_stub().Predict, request), wanted)

    def _prediction_stub(self) -> Any:
        return _api("prediction_service_pb2_grpc").PredictionServiceStub(self._channel)

    def _call(self, method: Any, request: Any) -> Any:
        """Make a call, with retries if the error is temporary, and translate grpc's errors."""
        for wait_s in (*RETRY_WAITS_S, None):
            try:
                return method(request, timeout=self._timeout_s, metadata=self._metadata)
            except grpc.RpcError as exc:
                if not _may_pass(exc) or wait_s is None:
                    raise self._translated(exc) from exc
                self._sleep(wait_s)
        raise AssertionError  # the last try returned or raised

    def _translated(self, exc: Any) -> ServingError:
        code, words = exc.code().name, one_line(str(exc.details()))
        if code == "UNAVAILABLE":
            return ServingUnavailable(f"the server must be reachable at {self._target}, got {code}: {words}")
        if code == "DEADLINE_EXCEEDED":
            return ServingTimeout(
                f"the server must answer within {self._timeout_s:g} s, but {self._target} did not; "
                "raise serving.request_timeout_s"
            )
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return AccessDenied(f"gRPC at {self._target} must accept this client, got {code}: {words}")
        advice = f". {remedy(words)}" if remedy(words) else ""
        return PredictionError(f"gRPC at {self._target} must accept the request, got {code}: {words}{advice}")


def _may_pass(exc: Any) -> bool:
    """Return whether an error is temporary: the server is not to be reached, or had no thread for the request."""
    code = exc.code()
    no_thread = code == grpc.StatusCode.RESOURCE_EXHAUSTED and str(exc.details()) == NO_THREAD
    return no_thread or code == grpc.StatusCode.UNAVAILABLE


def predict_request(model_name: str, version: int | str | None, block: Mapping[str, Array], signature_name: str) -> Any:
    """Return the PredictRequest of some rows; without a version, the server chooses the highest that it serves."""
    request = _api("predict_pb2").PredictRequest()
    _name(request.model_spec, model_name, version)
    request.model_spec.signature_name = signature_name
    for name, array in block.items():
        _fill(request.inputs[name], array)
    return request


def read_answer(body: bytes, outputs: Sequence[TensorSpec]) -> tuple[int, dict[str, Array]]:
    """Read a serialized PredictResponse: the version that it names, and one array for each output.

    Raises:
        ServingError: it does not have these outputs.
    """
    answer = _api("predict_pb2").PredictResponse.FromString(body)
    return int(answer.model_spec.version.value), _read(answer, outputs)


def open_channel(target: str) -> Any:
    """Return a channel to a server without TLS."""
    return grpc.insecure_channel(target, options=OPTIONS)


def _read(answer: Any, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the outputs of a PredictResponse."""
    missing = [spec.name for spec in outputs if spec.name not in answer.outputs]
    if missing:
        raise ServingError(f"an answer must contain the outputs {missing}, got {list(answer.outputs)}")
    return {spec.name: _array(answer.outputs[spec.name], spec) for spec in outputs}


def _api(module: str) -> Any:
    return message_module(f"tensorflow_serving.apis.{module}")


def _types() -> Any:
    return message_module("tensorflow.core.framework.types_pb2")


def _name(spec: Any, model: str, version: int | str | None) -> None:
    """Name a model and its version, by number or by label, in a ModelSpec."""
    spec.name = model
    if isinstance(version, int):
        spec.version.value = version
    elif version is not None:
        spec.version_label = version


def _specs(tensors: Mapping[str, Any]) -> list[TensorSpec]:
    """Read TensorInfo messages; the size -1 means any size."""
    specs = []
    for name, info in sorted(tensors.items()):
        dtype = _types().DataType.Name(info.dtype)
        sizes = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
        specs.append(TensorSpec(name, DTYPES.get(dtype, dtype), None if info.tensor_shape.unknown_rank else sizes))
    return specs


def _fill(message: Any, array: Array) -> None:
    """Write an array into a TensorProto: text as UTF-8, numbers as raw bytes."""
    for size in array.shape:
        message.tensor_shape.dim.add().size = size
    if is_string(array):
        message.dtype = _types().DT_STRING
        message.string_val.extend(as_bytes(array).ravel().tolist())
    else:
        message.dtype = next(
            _types().DataType.Value(tf) for tf, np_name in DTYPES.items() if np_name == array.dtype.name
        )
        message.tensor_content = np.ascontiguousarray(array).tobytes()


def _array(message: Any, spec: TensorSpec) -> Array:
    """Read a TensorProto; as over REST, strings are text except in outputs named `*_bytes`."""
    tensor = from_proto(spec.name, message)
    if not isinstance(tensor.values, list):
        values = bfloat16_values(tensor.values) if tensor.dtype == _types().DT_BFLOAT16 else tensor.values
        return values.reshape(tensor.shape)
    if spec.name.endswith("_bytes"):
        return bytes_array(tensor.values, tensor.shape)
    return text_array((value.decode(errors="replace") for value in tensor.values), tensor.shape)


def bfloat16_values(bits: Array) -> Array:
    """Return bfloat16 numbers, given as their bits in uint16, as float32, because NumPy has no bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
