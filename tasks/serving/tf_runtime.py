"""A SavedModel in memory: its signatures, and running them."""

import ctypes
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ctypes import c_char_p, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tasks.serving.status import Code, StatusError, invalid_argument
from tasks.serving.tensors import DT_STRING, NUMPY_DTYPES, Tensor
from tasks.serving.tf_library import TSTRING_SIZE, Output, Status, library
from tasks.serving.tf_protos import proto

DEFAULT_SIGNATURE: Final = "serving_default"
_SERVE_TAG: Final = b"serve"
_PREDICT_METHODS: Final = tuple(f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))


@dataclass(frozen=True)
class Signature:
    """A signature that a session can run.

    Attributes:
        inputs: DataType of each input by its name.
        method_name: as in the SignatureDef.
        feeds: the graph's output that each input replaces.
        fetches: the graph's output that each output is read from.
    """

    inputs: dict[str, int]
    method_name: str
    feeds: dict[str, Output]
    fetches: dict[str, Output]


class SavedModel:
    """A loaded SavedModel. It is closed when the last reference to it goes, runs in flight included."""

    def __init__(self, version_dir: Path) -> None:
        """Load a version directory, restore its variables and run its initialisers.

        Raises:
            StatusError: with TensorFlow's own code and message.
        """
        self._session: int | None = None
        api = library()
        status = Status()
        self._graph = api.TF_NewGraph()
        options = api.TF_NewSessionOptions()
        meta_graph = api.TF_NewBuffer()
        try:
            tags = (c_char_p * 1)(_SERVE_TAG)
            self._session = api.TF_LoadSessionFromSavedModel(
                options, None, bytes(version_dir), tags, 1, self._graph, meta_graph, status.handle
            )
            status.check()
            self.signature_defs = _signature_defs(
                ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
            )
        finally:
            api.TF_DeleteSessionOptions(options)
            api.TF_DeleteBuffer(meta_graph)
        self._signatures = self._runnable_signatures()

    def __del__(self) -> None:
        api = library()
        status = Status()
        if self._session:
            api.TF_DeleteSession(self._session, status.handle)
        api.TF_DeleteGraph(self._graph)

    def signature(self, name: str) -> Signature:
        """Return a signature by name; an empty name stands for `serving_default`.

        Raises:
            StatusError: there is none of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
        return self._signatures[name]

    def predict(
        self, name: str, inputs: Mapping[str, Tensor], timeout_ms: int, output_filter: Iterable[str] = ()
    ) -> dict[str, Tensor]:
        """Run a signature.

        Args:
            name: the signature's name, or empty.
            inputs: a tensor for each input.
            timeout_ms: how long TensorFlow may take, in milliseconds; 0 for no limit.
            output_filter: names of the outputs to fetch; all if empty.

        Raises:
            StatusError: wrong inputs, or what the graph raised.
        """
        signature = self.signature(name)
        _check_predictable(signature, inputs)
        wanted = _wanted_outputs(signature, output_filter)
        names = list(inputs)
        values = self._run(
            [signature.feeds[name] for name in names],
            [inputs[name] for name in names],
            [signature.fetches[name] for name in wanted],
            timeout_ms,
        )
        return dict(zip(wanted, values, strict=True))

    def _run(
        self, feeds: list[Output], inputs: list[Tensor], fetches: list[Output], timeout_ms: int
    ) -> list[Tensor]:
        api = library()
        status = Status()
        results = (c_void_p * len(fetches))()
        options = _run_options(timeout_ms)
        handles: list[int] = []
        try:
            handles.extend(_to_handle(tensor) for tensor in inputs)
            api.TF_SessionRun(
                self._session, options, (Output * len(feeds))(*feeds), (c_void_p * len(feeds))(*handles),
                len(feeds), (Output * len(fetches))(*fetches), results, len(fetches), None, 0, None,
                status.handle,
            )  # fmt: skip
            status.check()
            return [_from_handle(handle) for handle in results if handle]
        finally:
            api.TF_DeleteBuffer(options)
            for handle, tensor in zip(handles, inputs, strict=False):
                _delete_input(handle, tensor)
            for handle in filter(None, results):
                api.TF_DeleteTensor(handle)

    def _runnable_signatures(self) -> dict[str, Signature]:
        signatures = {}
        for name, definition in self.signature_defs.items():
            # An initialiser's signature has no tensors to feed or fetch: such a one stays without them.
            with suppress(KeyError):
                signatures[name] = Signature(
                    inputs={alias: info.dtype for alias, info in definition.inputs.items()},
                    method_name=definition.method_name,
                    feeds={alias: self._output(info.name) for alias, info in definition.inputs.items()},
                    fetches={alias: self._output(info.name) for alias, info in definition.outputs.items()},
                )
        return signatures

    def _output(self, tensor_name: str) -> Output:
        """Find `operation:index` in the graph.

        Raises:
            KeyError: no such operation.
        """
        operation, _, index = tensor_name.partition(":")
        handle = library().TF_GraphOperationByName(self._graph, operation.encode())
        if not handle:
            raise KeyError(tensor_name)
        return Output(handle, int(index or 0))


def _signature_defs(meta_graph: bytes) -> dict[str, Any]:
    """Return the SignatureDef messages of a serialized MetaGraphDef by name."""
    messages = proto("tensorflow.core.protobuf.meta_graph_pb2")
    return dict(messages.MetaGraphDef.FromString(meta_graph).signature_def)


def _check_predictable(signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    """Refuse what TensorFlow Serving refuses before it runs a graph. Source: predict_util.cc."""
    if signature.method_name not in _PREDICT_METHODS:
        raise StatusError(
            Code.INTERNAL,
            "Expected prediction signature method_name to be one of {"
            f"{', '.join(_PREDICT_METHODS)}}}. Was: {signature.method_name}",
        )
    expected, sent = _listed(signature.inputs), _listed(inputs)
    if len(inputs) != len(signature.inputs):
        raise invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} len({sent}) != "
            f"len({expected}). Sent extra: {_listed(inputs.keys() - signature.inputs.keys())}. "
            f"Missing but required: {_listed(signature.inputs.keys() - inputs.keys())}."
        )
    for name in inputs:
        if name not in signature.inputs:
            raise invalid_argument(
                f"input tensor alias not found in signature: {name}."
                f" Inputs expected to be in the set {expected}."
            )


def _wanted_outputs(signature: Signature, output_filter: Iterable[str]) -> list[str]:
    wanted: list[str] = []
    for name in output_filter:
        if name not in signature.fetches:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_listed(signature.fetches)}."
            )
        if name in wanted:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
        wanted.append(name)
    return wanted or list(signature.fetches)


def _listed(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _run_options(timeout_ms: int) -> Any:
    """Return a TF_Buffer with RunOptions{timeout_in_ms}: field 2, a varint."""
    text = b"\x10"
    while timeout_ms > 0x7F:
        text += bytes((timeout_ms & 0x7F | 0x80,))
        timeout_ms >>= 7
    text += bytes((timeout_ms,))
    return library().TF_NewBufferFromString(text, len(text))


def _to_handle(tensor: Tensor) -> int:
    """Copy a tensor into memory of TensorFlow's own, which the graph may keep."""
    api = library()
    is_string = tensor.dtype == DT_STRING
    values: Any = tensor.values
    size = tensor.size * TSTRING_SIZE if is_string else values.nbytes
    rank = len(tensor.shape)
    handle: int = api.TF_AllocateTensor(tensor.dtype, (c_int64 * rank)(*tensor.shape), rank, size)
    data = api.TF_TensorData(handle)
    if not is_string:
        ctypes.memmove(data, values.ctypes.data, size)
        return handle
    for index, value in enumerate(values):
        api.TF_StringInit(data + index * TSTRING_SIZE)
        api.TF_StringCopy(data + index * TSTRING_SIZE, value, len(value))
    return handle


def _delete_input(handle: int, tensor: Tensor) -> None:
    api = library()
    if tensor.dtype == DT_STRING:  # TensorFlow frees the array, but not what long strings point to
        data = api.TF_TensorData(handle)
        for index in range(tensor.size):
            api.TF_StringDealloc(data + index * TSTRING_SIZE)
    api.TF_DeleteTensor(handle)


def _from_handle(handle: int) -> Tensor:
    """Copy a tensor out of TensorFlow's memory.

    Raises:
        StatusError: a DataType without a dense layout (resource, variant).
    """
    api = library()
    dtype = api.TF_TensorType(handle)
    shape = tuple(api.TF_Dim(handle, axis) for axis in range(api.TF_NumDims(handle)))
    data = api.TF_TensorData(handle)
    if dtype == DT_STRING:
        count = int(np.prod(shape, dtype=np.int64))
        strings = [data + index * TSTRING_SIZE for index in range(count)]
        return Tensor(
            dtype, shape,
            [ctypes.string_at(api.TF_StringGetDataPointer(at), api.TF_StringGetSize(at)) for at in strings],
        )  # fmt: skip
    if dtype not in NUMPY_DTYPES:
        raise StatusError(Code.UNIMPLEMENTED, f"A tensor of DataType {dtype} cannot leave the server")
    raw = ctypes.string_at(data, api.TF_TensorByteSize(handle)) if data else b""
    return Tensor(dtype, shape, np.frombuffer(raw, dtype=NUMPY_DTYPES[dtype]))
