"""The gRPC interface: Predict, GetModelMetadata and GetModelStatus; everything else is UNIMPLEMENTED.

Source: TensorFlow Serving, model_servers/prediction_service_impl.cc, model_service_impl.cc.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc  # type: ignore[import-untyped, unused-ignore]

from tasks.model_server.servables import ModelSpec, Servables
from tasks.model_server.status import Code, StatusError, invalid_argument
from tasks.model_server.tensor_protos import from_proto, to_proto
from tasks.model_server.tf_protos import proto
from tasks.model_server.tf_runtime import DEFAULT_SIGNATURE

_MAX_MESSAGE: Final = 2**31 - 1
_MAX_ERROR_CHARS: Final = 1024
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def start(servables: Servables, host: str, port: int) -> tuple[grpc.Server, int]:
    """Start serving; return the server and the port that it listens on.

    Raises:
        StatusError: the port cannot be opened.
    """
    service = _Service(servables)
    server = grpc.server(
        ThreadPoolExecutor(4 * (os.cpu_count() or 1), thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
        ],
    )
    apis = "tensorflow_serving.apis"
    prediction = proto(f"{apis}.prediction_service_pb2_grpc")
    prediction_servicer = prediction.PredictionServiceServicer()
    prediction_servicer.Predict = _answering(service.predict)
    prediction_servicer.GetModelMetadata = _answering(service.get_model_metadata)
    prediction.add_PredictionServiceServicer_to_server(prediction_servicer, server)
    model = proto(f"{apis}.model_service_pb2_grpc")
    model_servicer = model.ModelServiceServicer()
    model_servicer.GetModelStatus = _answering(service.get_model_status)
    model.add_ModelServiceServicer_to_server(model_servicer, server)
    try:
        chosen = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise StatusError(Code.UNAVAILABLE, f"Failed to start gRPC server at {host}:{port}: {error}") from error
    server.start()
    return server, chosen


def _answering(method: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    """Turn a StatusError into the status of the call."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(request, context)
        except StatusError as error:
            message = error.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            if len(message) > _MAX_ERROR_CHARS:
                message = message[:_MAX_ERROR_CHARS] + "...TRUNCATED"
            context.abort(_CODES[error.code], message)

    return answer


class _Service:
    """The three methods, each from a request message to a response message."""

    def __init__(self, servables: Servables) -> None:
        self._servables = servables

    def predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        version, model = self._servables.find(_model_spec(request))
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in model.signature_defs:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        inputs = {alias: from_proto(alias, value) for alias, value in request.inputs.items()}
        remaining_s = context.time_remaining()
        timeout_ms = 0 if remaining_s is None else max(int(remaining_s * 1000), 1)
        outputs = model.predict(name, inputs, timeout_ms, request.output_filter)
        response = proto("tensorflow_serving.apis.predict_pb2").PredictResponse()
        _fill_spec(response.model_spec, request.model_spec.name, version)
        response.model_spec.signature_name = name
        for alias, tensor in outputs.items():
            response.outputs[alias].CopyFrom(to_proto(tensor))
        return response

    def get_model_metadata(self, request: Any, _context: grpc.ServicerContext) -> Any:
        spec = _model_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        version, model = self._servables.find(spec)
        messages = proto("tensorflow_serving.apis.get_model_metadata_pb2")
        signatures = messages.SignatureDefMap()
        for name, definition in model.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = messages.GetModelMetadataResponse()
        _fill_spec(response.model_spec, spec.name, version)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def get_model_status(self, request: Any, _context: grpc.ServicerContext) -> Any:
        response = proto("tensorflow_serving.apis.get_model_status_pb2").GetModelStatusResponse()
        for state in self._servables.states(_model_spec(request)):
            entry = response.model_version_status.add(version=state.version, state=int(state.state))
            entry.status.error_code = int(state.code)
            entry.status.error_message = state.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return response


def _model_spec(request: Any) -> ModelSpec:
    """Read the ModelSpec of any request.

    Raises:
        StatusError: there is none.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return ModelSpec(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _fill_spec(spec: Any, name: str, version: int) -> None:
    spec.name = name
    spec.version.value = version
