"""Judges a single node of a graph by its operation and attributes, regardless of its connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from tasks.model_server.tf_protos import message_module
from tasks.savedmodel.operations import CALLS, group_of

DT_RESOURCE, DT_VARIANT = 20, 21
REFERENCE = 100  # added to the number of a type for a reference to it
HANDLES = frozenset({DT_RESOURCE, DT_VARIANT, DT_RESOURCE + REFERENCE, DT_VARIANT + REFERENCE})
STREAMS = frozenset({b"", b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)"})


def leaves(node: Any) -> bool:
    """Return whether an operation reaches outside the graph; one that is judged by place does if it makes handles."""
    judged = group_of(node.op).judged
    if judged == "by place":  # reading the checkpoint is harmless, like a constant
        return _makes_handles(node)
    return judged == "refused" or (judged == "by attribute" and not _harmless(node))


def _harmless(node: Any) -> bool:
    """Return whether the attributes of an operation that is judged by them name no file, program or handle.

    Source: tensorflow/core/kernels/logging_ops.cc, util/proto/descriptors.cc, candidate_sampler_ops.cc and
    partitioned_function_ops.cc of TensorFlow 2.21.
    """
    attributes = node.attr
    if node.op in CALLS:
        packed = (attributes["config_proto"].s, attributes["config"].s)
        return not attributes["executor_type"].s and all(map(_plain_config, packed))
    if node.op == "PrintV2":
        return attributes["output_stream"].s in STREAMS
    if node.op in {"DecodeProtoV2", "EncodeProto"}:  # other values are the path of a file
        source = attributes["descriptor_source"].s
        return source in {b"", b"local://"} or source.startswith(b"bytes://")
    if node.op == "FixedUnigramCandidateSampler":
        return not attributes["vocab_file"].s
    return not _makes_handles(node)


def _makes_handles(node: Any) -> bool:
    """Return whether an operation creates handles from bytes, according to the types of its outputs."""
    named = {node.attr[name].type for name in ("dtype", "out_type", "dt") if name in node.attr}
    listed = set(node.attr["dtypes"].list.type) if "dtypes" in node.attr else set()
    return bool(HANDLES & (named | listed)) and not node.op.startswith("Save")


def _plain_config(packed: bytes) -> bool:
    """Return whether the ConfigProto of a function names no custom optimizers and no other machines."""
    if not packed:
        return True
    config = message_module("tensorflow.core.protobuf.config_pb2").ConfigProto()
    try:
        config.ParseFromString(packed)
    except DecodeError:
        return False
    optimizers = config.graph_options.rewrite_options
    return not (optimizers.custom_optimizers or optimizers.optimizers or config.cluster_def.job)


def attributes_of(node: Any) -> Iterator[Any]:
    """Yield the values of a node's attributes and, recursively, those of the functions that they name."""
    pending = list(node.attr.values())
    while pending:
        value = pending.pop()
        yield value
        for function in functions_of(value):
            pending += function.attr.values()


def functions_of(value: Any) -> Any:
    """Return the functions that an attribute names."""
    kind = value.WhichOneof("value")
    return (value.func,) if kind == "func" else value.list.func if kind == "list" else ()


def is_open(value: Any) -> bool:
    """Return whether the caller of the function sets the attribute, so that it cannot be judged."""
    return bool(value.WhichOneof("value") == "placeholder")


def holds_handles(value: Any) -> bool:
    """Return whether an attribute is an array of handles, which can only be forged."""
    kind = value.WhichOneof("value")
    arrays = (value.tensor,) if kind == "tensor" else value.list.tensor if kind == "list" else ()
    return any(map(is_handle, arrays))


def is_handle(array: Any) -> bool:
    """Return whether a TensorProto contains resources or variants."""
    return bool(array.dtype in HANDLES or array.resource_handle_val or array.variant_val)
