"""A SavedModel in memory: finds and runs its signatures."""

import ctypes
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ctypes import c_char_p, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tasks.model_server.status import invalid_argument
from tasks.model_server.tensors import Tensor
from tasks.model_server.tf_library import Buffer, Output, Status, library
from tasks.model_server.tf_protos import proto
from tasks.model_server.tf_tensors import delete_input, from_handle, to_handle

DEFAULT_SIGNATURE: Final = "serving_default"
_SERVE_TAG: Final = b"serve"
_QUICK_S: Final = 0.001
_LOOPS: Final = frozenset(("While", "StatelessWhile", "Enter", "RefEnter", "MapDefun", "PyFunc"))
"""Operations whose work is not bounded by the size of their inputs."""


@dataclass(frozen=True)
class Signature:
    """A signature that a session can run.

    Attributes:
        inputs: DataType of each input by its name.
        feeds: an array of the graph's outputs that the inputs replace, in their order.
        fetches: the graph's output that each output is read from.
        all_fetches: an array of them, for a request that names none.
    """

    inputs: dict[str, int]
    feeds: ctypes.Array[Output]
    fetches: dict[str, Output]
    all_fetches: ctypes.Array[Output]


class SavedModel:
    """A loaded SavedModel. It is closed when the last reference to it is dropped, including those of running calls."""

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
            self._read_meta_graph(ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length))
        finally:
            api.TF_DeleteSessionOptions(options)
            api.TF_DeleteBuffer(meta_graph)
        self._quick_sizes: dict[str, int] = {}

    def __del__(self) -> None:
        api = library()
        status = Status()
        if self._session:
            api.TF_DeleteSession(self._session, status.handle)
        api.TF_DeleteGraph(self._graph)

    def _read_meta_graph(self, serialized: bytes) -> None:
        meta_graph = proto("tensorflow.core.protobuf.meta_graph_pb2").MetaGraphDef.FromString(serialized)
        self.signature_defs: dict[str, Any] = dict(meta_graph.signature_def)
        self._signatures = self._runnable_signatures()
        graph = meta_graph.graph_def
        bodies = [graph.node, *(function.node_def for function in graph.library.function)]
        self._has_loops = any(node.op in _LOOPS for body in bodies for node in body)

    def signature(self, name: str) -> Signature:
        """Return a signature by name; an empty name means `serving_default`.

        Raises:
            StatusError: there is no signature of that name.
        """
        signature = self._signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise invalid_argument(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
        return signature

    def is_quick(self, name: str, inputs: Mapping[str, Tensor]) -> bool:
        """Return whether a run of this size is known to be faster than a switch of threads.

        It is if a run of at least this size was, in a graph whose work is bounded by the size of its inputs.
        """
        return _size(inputs) <= self._quick_sizes.get(name, -1)

    def predict(
        self,
        name: str,
        inputs: Mapping[str, Tensor],
        timeout_ms: int,
        output_filter: Iterable[str] = (),
        in_caller_thread: bool = False,
    ) -> dict[str, Tensor]:
        """Run a signature.

        Args:
            name: the signature's name, or empty.
            inputs: a tensor for each input.
            timeout_ms: how long TensorFlow may take, in milliseconds; 0 for no limit.
            output_filter: names of the outputs to fetch; all if empty.
            in_caller_thread: run the graph in this thread, not in TensorFlow's; then no timeout holds.

        Raises:
            StatusError: the inputs are wrong, or the graph failed.
        """
        signature = self.signature(name)
        _check_predictable(signature, inputs)
        wanted = _wanted_outputs(signature, output_filter)
        fetches = _outputs(signature.fetches[name] for name in wanted) if wanted else signature.all_fetches
        begin = time.perf_counter()
        values = self._run(
            signature.feeds, [inputs[name] for name in signature.inputs], fetches,
            _run_options(timeout_ms, in_caller_thread),
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        if seconds > _QUICK_S or not in_caller_thread:  # this size is known to be quick
            self._remember(name, _size(inputs), seconds)
        return dict(zip(wanted or signature.fetches, values, strict=True))

    def _remember(self, name: str, size: int, seconds: float) -> None:
        if seconds > _QUICK_S or self._has_loops:
            self._quick_sizes.pop(name, None)
        elif size > self._quick_sizes.get(name, -1):
            self._quick_sizes[name] = size

    def _run(
        self, feeds: ctypes.Array[Output], inputs: list[Tensor], fetches: ctypes.Array[Output], options: "_RunOptions"
    ) -> list[Tensor]:
        api = library()
        status = _this_thread.status
        results = (c_void_p * len(fetches))()
        handles: list[int] = []
        try:
            handles.extend(map(to_handle, inputs))
            api.TF_SessionRun(
                self._session, options.buffer, feeds, (c_void_p * len(feeds))(*handles), len(feeds),
                fetches, results, len(fetches), None, 0, None, status.handle,
            )  # fmt: skip
            status.check()
            return [from_handle(handle) for handle in results if handle]
        finally:
            for handle, tensor in zip(handles, inputs, strict=False):
                delete_input(handle, tensor)
            for result in results:
                if result:
                    api.TF_DeleteTensor(result)

    def _runnable_signatures(self) -> dict[str, Signature]:
        signatures = {}
        for name, definition in self.signature_defs.items():
            # The signature of an initialiser has no tensors to feed or fetch.
            with suppress(KeyError):
                fetches = {alias: self._output(info.name) for alias, info in definition.outputs.items()}
                signatures[name] = Signature(
                    inputs={alias: info.dtype for alias, info in definition.inputs.items()},
                    feeds=_outputs(self._output(info.name) for info in definition.inputs.values()),
                    fetches=fetches,
                    all_fetches=_outputs(fetches.values()),
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


def _size(inputs: Mapping[str, Tensor]) -> int:
    """Return how many elements the inputs have in all."""
    return sum([len(tensor.values) for tensor in inputs.values()])


def _outputs(outputs: Iterable[Output]) -> ctypes.Array[Output]:
    outputs = tuple(outputs)
    return (Output * len(outputs))(*outputs)


class _ThisThread(threading.local):
    """What each thread uses for all its runs: a run clears the status first."""

    def __init__(self) -> None:
        self.status = Status()


_this_thread = _ThisThread()


class _RunOptions:
    """A TF_Buffer with a serialized RunOptions message: timeout_in_ms is field 2, the pool field 3."""

    def __init__(self, timeout_ms: int, in_caller_thread: bool) -> None:
        text = b"\x10"
        while timeout_ms > 0x7F:
            text += bytes((timeout_ms & 0x7F | 0x80,))
            timeout_ms >>= 7
        text += bytes((timeout_ms,))
        if in_caller_thread:
            text += b"\x18" + b"\xff" * 9 + b"\x01"  # inter_op_thread_pool: -1
        self._text = text
        self.buffer = Buffer(ctypes.cast(c_char_p(text), c_void_p), len(text), None)


_run_options = lru_cache(maxsize=256)(_RunOptions)


def _check_predictable(signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    """Refuse what TensorFlow Serving refuses before it runs a graph. Source: predict_util.cc."""
    if inputs.keys() == signature.inputs.keys():
        return
    expected, sent = _listed(signature.inputs), _listed(inputs)
    if len(inputs) != len(signature.inputs):
        raise invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} len({sent}) != "
            f"len({expected}). Sent extra: {_listed(inputs.keys() - signature.inputs.keys())}. "
            f"Missing but required: {_listed(signature.inputs.keys() - inputs.keys())}."
        )
    unknown = min(inputs.keys() - signature.inputs.keys())
    raise invalid_argument(
        f"input tensor alias not found in signature: {unknown}. Inputs expected to be in the set {expected}."
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
    return wanted


def _listed(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
