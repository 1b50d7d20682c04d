"""Says in what two SavedModels differ: variables, operations, and what else their graph files hold.

Runs in the TensorFlow process, with models that this project has exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.words import counted

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def changed_parts(then: Path, now: Path) -> list[tuple[str, str]]:
    """Return the differences of two exports as pairs of a kind, `variable` or `operation`, and a sentence."""
    return [
        *(("variable", line) for line in _changed_variables(_variables(then), _variables(now))),
        *(("operation", line) for line in _changed_operations(_meta_graph(then), _meta_graph(now))),
    ]


def _variables(directory: Path) -> dict[str, Any]:
    """Return the arrays of a checkpoint by the names that the model gave the variables.

    Source: a checkpoint names its entries by paths of objects, and has the variables' own names in its object graph
    (tensorflow/core/protobuf/trackable_object_graph.proto, `full_name`).
    """
    import tensorflow as tf
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    if not (directory / "variables" / "variables.index").is_file():
        return {}
    reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
    keys = [key for key in reader.get_variable_to_shape_map() if key != OBJECT_GRAPH]
    graph = TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH))
    names = {item.checkpoint_key: item.full_name for node in graph.nodes for item in node.attributes}
    seen = Counter(names.get(key, "") for key in keys)
    unique = {key: name for key, name in names.items() if name and seen[name] == 1}
    return {unique.get(key, key): reader.get_tensor(key) for key in sorted(keys)}


def _changed_variables(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    import numpy as np

    for name in sorted({*then, *now}):
        if name not in now or name not in then:
            yield f"{name} is {'gone' if name in then else 'new'}"
            continue
        old, new = np.asarray(then[name]), np.asarray(now[name])
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            yield f"{name} was {old.dtype} {old.shape}, and is {new.dtype} {new.shape}"
        elif old.tobytes() != new.tobytes() if old.dtype != object else not np.array_equal(old, new):
            differ = int(np.sum(old != new))
            if old.dtype.kind in "fiu":
                largest = float(np.max(np.abs(old.astype(np.float64) - new.astype(np.float64)), initial=0))
                yield f"{name}: the largest difference is {largest:.3g}, in {differ:,} of {old.size:,} numbers"
            else:
                yield f"{name}: {differ:,} of {old.size:,} values differ"


def _meta_graph(directory: Path) -> Any:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return SavedModel.FromString((directory / "saved_model.pb").read_bytes()).meta_graphs[0]


def _nodes(meta_graph: Any) -> dict[tuple[str, str], Any]:
    """Return the nodes of the graph and of its functions by (function, name)."""
    graph = meta_graph.graph_def
    found = {("", node.name): node for node in graph.node}
    for function in graph.library.function:
        found |= {(function.signature.name, node.name): node for node in function.node_def}
    return found


def _changed_operations(then: Any, now: Any) -> Iterable[str]:
    before, after = _nodes(then), _nodes(now)
    counts, found = (Counter(node.op for node in nodes.values()) for nodes in (before, after))
    lines = [
        f"{op}: {counts[op]} {'operation' if counts[op] == 1 else 'operations'} then, {found[op]} now"
        for op in sorted({*counts, *found})
        if counts[op] != found[op]
    ]
    if lines:
        return lines
    lines = [
        f"{name} ({before[function, name].op}) in {function or 'the graph'} has other inputs or attributes"
        for function, name in sorted(before.keys() & after.keys())
        if _text(before[function, name]) != _text(after[function, name])
    ]
    if renamed := len(before.keys() - after.keys()):
        lines.append(f"{counted(renamed, 'operation')} of the same kinds have other names")
    parts = [
        field.name for field in then.DESCRIPTOR.fields
        if field.name != "graph_def" and _part(then, field.name) != _part(now, field.name)
    ]  # fmt: skip
    if not lines and parts:
        lines.append(f"the operations are the same, and {', '.join(parts)} of the graph file differ")
    return lines


def _text(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _part(message: Any, name: str) -> bytes:
    """Return one field of a message as bytes."""
    alone = type(message)()
    alone.MergeFrom(message)
    for field in message.DESCRIPTOR.fields:
        if field.name != name:
            alone.ClearField(field.name)
    return _text(alone)
