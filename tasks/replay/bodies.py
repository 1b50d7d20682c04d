"""Converts recorded requests to arrays, and to each other: JSON by TensorFlow Serving's rules, and PredictRequest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tasks.datasets.predict_body import predict_body
from tasks.datasets.strings import Array, as_bytes, bytes_array, is_string, plain, text_array
from tasks.errors import DataError
from tasks.model_server.rest_json import decode_predict
from tasks.model_server.status import StatusError, invalid_argument
from tasks.model_server.tensor_protos import from_proto
from tasks.model_server.tensors import Tensor
from tasks.model_server.tf_protos import message_module
from tasks.records import Signature
from tasks.replay.files import Request
from tasks.words import one_line

DATA_TYPES: Mapping[str, int] = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "string": 7, "int64": 9, "bool": 10,
    "bfloat16": 14, "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
"""The number of each DataType. Source: tensorflow/core/framework/types.proto."""
BFLOAT16 = DATA_TYPES["bfloat16"]
DEFAULT = "serving_default"


def is_for(request: Request, signature: Signature) -> bool:
    """Return whether a request asks for a signature."""
    return (request.signature_name or DEFAULT) == signature.name


def arrays_of(request: Request, signature: Signature) -> dict[str, Array]:
    """Return the rows of a request, one array for each input.

    A server takes `[[1], [2]]` for an input of shape (n,) as well, if the model does; the values are the same.

    Raises:
        DataError: the request does not fit the inputs.
    """
    try:
        tensors = (_of_body if request.message is None else _of_message)(request, signature)
        arrays = {name: array_of(tensor) for name, tensor in tensors.items()}
    except StatusError as exc:
        raise DataError(one_line(exc.message, 300)) from exc
    except ValueError as exc:  # more dimensions than NumPy has
        raise DataError(one_line(str(exc), 300)) from exc
    for spec in signature.inputs:
        shape = arrays[spec.name].shape
        if spec.shape is not None and len(spec.shape) == 1 and len(shape) == 2 and shape[1] == 1:
            arrays[spec.name] = arrays[spec.name].reshape(shape[0])
            shape = shape[:1]
        fits = spec.shape is None or (
            len(shape) == len(spec.shape)
            and all(want in (None, got) for want, got in zip(spec.shape, shape, strict=True))
        )
        if not fits or not shape:
            raise DataError(f"the input is {spec}, and it has the shape {shape}")
    rows = {len(array) for array in arrays.values()}
    if len(rows) != 1:
        raise DataError(f"its inputs have {' and '.join(map(str, sorted(rows)))} rows")
    return arrays


def _of_body(request: Request, signature: Signature) -> dict[str, Tensor]:
    types = {spec.name: DATA_TYPES[spec.dtype] for spec in signature.inputs}

    def inputs_of(name: str) -> Mapping[str, int]:
        if (name or DEFAULT) != signature.name:
            raise invalid_argument(f"it asks for the signature '{name or DEFAULT}'")
        return types

    return decode_predict(request.body, inputs_of).inputs


def _of_message(request: Request, signature: Signature) -> dict[str, Tensor]:
    message = request.message
    if not is_for(request, signature):
        raise DataError(f"it asks for the signature '{one_line(request.signature_name, 60)}'")
    wanted, sent = {spec.name for spec in signature.inputs}, set(message.inputs)
    if wanted != sent:
        raise DataError(f"its inputs are {', '.join(sorted(sent))}, and those of the model {', '.join(sorted(wanted))}")
    tensors = {spec.name: from_proto(spec.name, message.inputs[spec.name]) for spec in signature.inputs}
    for spec in signature.inputs:
        if tensors[spec.name].dtype != DATA_TYPES[spec.dtype]:
            raise DataError(f"the input is {spec}, and its DataType is {tensors[spec.name].dtype}")
    return tensors


def array_of(tensor: Tensor) -> Array:
    """Return a tensor as an array; strings are text, or bytes if one of them is not UTF-8."""
    if not isinstance(tensor.values, list):
        values = tensor.values
        if tensor.dtype == BFLOAT16:  # NumPy has no bfloat16
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(tensor.shape)
    try:
        return text_array((item.decode() for item in tensor.values), tensor.shape)
    except UnicodeDecodeError:
        return bytes_array(tensor.values, tensor.shape)


def body_of(request: Request) -> bytes:
    """Return a request as a JSON body; NaN and infinity are written as TensorFlow Serving reads them.

    Raises:
        DataError: a tensor of a PredictRequest is damaged, or has a dtype that JSON does not have.
    """
    if request.message is None:
        return request.body
    try:
        arrays = {name: array_of(from_proto(name, sent)) for name, sent in request.message.inputs.items()}
    except StatusError as exc:
        raise DataError(exc.message) from exc
    for name, array in arrays.items():
        if array.dtype.kind == "c":
            raise DataError(f"the input '{one_line(name, 60)}' has complex numbers, which JSON does not have")
    name = request.signature_name or DEFAULT
    if all(array.dtype.kind != "f" or np.isfinite(array).all() for array in arrays.values()):
        return predict_body(arrays, name)
    columns = {name: orjson.loads(predict_body({name: a}))["inputs"][name] if is_string(a) else a.tolist()
               for name, a in arrays.items()}  # fmt: skip
    return json.dumps({"signature_name": name, "inputs": columns}).encode()


def message_of(arrays: Mapping[str, Array], signature: Signature, model: str) -> Any:
    """Return rows as a PredictRequest for a model."""
    request = message_module("tensorflow_serving.apis.predict_pb2").PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature.name
    for spec in signature.inputs:
        array, message = arrays[spec.name], request.inputs[spec.name]
        message.dtype = DATA_TYPES[spec.dtype]
        for size in array.shape:
            message.tensor_shape.dim.add().size = size
        if is_string(array):
            message.string_val.extend(as_bytes(array).ravel().tolist())
        elif spec.dtype == "bfloat16":
            bits = np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16
            message.tensor_content = bits.astype(np.uint16).tobytes()
        else:
            message.tensor_content = np.ascontiguousarray(array).tobytes()
    return request


MOST_VALUES, MOST_LETTERS = 15, 120  # of one input in a row that is shown


def shown(row: Mapping[str, Array], number: int) -> dict[str, Any]:
    """Return the values of one row as JSON-ready values of bounded size."""
    return {name: _short(array[number]) for name, array in row.items()}


def _short(value: Any) -> Any:
    flat = np.asarray(value).reshape(-1)
    if flat.size > MOST_VALUES:
        return [*(_short(item) for item in flat[:MOST_VALUES]), f"and {flat.size - MOST_VALUES:,} more"]
    found = plain(value)
    if isinstance(found, list):
        return [_short(item) for item in value]
    if isinstance(found, float) and not np.isfinite(found):
        return str(found)
    return one_line(found, MOST_LETTERS) if isinstance(found, str) else found
