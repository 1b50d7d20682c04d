"""Reads the signatures of a SavedModel from its file, without TensorFlow and without loading it."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

from tasks.errors import ExportError, SignatureMismatch
from tasks.model_server.tensors import dtype_name
from tasks.records import Signature, TensorSpec
from tasks.savedmodel.prescan import TooMuchError
from tasks.savedmodel.safety import graph_file, parse_graph

DEFAULT = "serving_default"
INIT = "__saved_model_init_op"  # runs at load; it has no outputs to request
NUMPY_NAMES = {"float": "float32", "double": "float64", "half": "float16"}


def read_signature(directory: Path, name: str, max_bytes: float = inf) -> Signature:
    """Return a signature of a SavedModel from its file; the graph is not loaded.

    Raises:
        ExportError: there is no graph with the tag `serve`, or saved_model.pb is larger than `max_bytes`.
        SignatureMismatch: there is no such signature, or the choice is ambiguous.
    """
    try:
        saved = parse_graph(graph_file(directory), max_bytes)
    except TooMuchError as exc:  # the size is checked before the contents, as in the gate
        raise ExportError(f"a SavedModel must be small enough to be examined, but saved_model.pb has {exc}") from exc
    graph = next((meta for meta in saved.meta_graphs if "serve" in meta.meta_info_def.tags), None)
    if graph is None:
        tags = [", ".join(meta.meta_info_def.tags) or "no tag" for meta in saved.meta_graphs]
        raise ExportError(f"a SavedModel must have a graph with the tag 'serve', got {'; '.join(tags) or 'no graph'}")
    found = {key: value for key, value in graph.signature_def.items() if key != INIT and value.outputs}
    chosen = name or (DEFAULT if DEFAULT in found else next(iter(found), "") if len(found) == 1 else "")
    if chosen not in found:
        if not found:
            raise SignatureMismatch("a SavedModel must have a signature, but this one has none; export it with one")
        rule = f"--signature must name a signature of the SavedModel, got '{name}'" if name else (
            "a SavedModel must have the signature 'serving_default' or only one; set --signature")  # fmt: skip
        raise SignatureMismatch(f"{rule}; it has {_listed(found)}")
    definition = found[chosen]
    sides = (definition.inputs, definition.outputs)
    inputs, outputs = (tuple(_spec(key, info) for key, info in sorted(side.items())) for side in sides)
    if not inputs:
        raise SignatureMismatch(f"the signature '{chosen}' must have an input, but it has none")
    return Signature(inputs, outputs, chosen)


def _spec(name: str, info: Any) -> TensorSpec:
    """Return a tensor of a signature; ragged and sparse tensors, which have several parts, cannot be served."""
    if info.WhichOneof("encoding") != "name":
        raise SignatureMismatch(
            f"the inputs and outputs of a signature must be dense tensors, which TensorFlow Serving needs, got '{name}'"
        )
    shape = info.tensor_shape
    extents = None if shape.unknown_rank else tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    dtype = dtype_name(info.dtype)
    return TensorSpec(name, NUMPY_NAMES.get(dtype, dtype), extents)


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)[:20])
