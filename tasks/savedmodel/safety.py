"""What a SavedModel would do and what it holds, read from its files: nothing is loaded, nothing runs.

A server runs three things: the restore operation at load, the initialisation operation at load, and what a signature
names, at every request. Whatever leaves the graph is reported wherever it stands, in functions that nothing calls too.
Two kinds of file access belong to every SavedModel and are told from the rest by following the graph:

    checkpoint  read by the restore operation, from the file name that the server feeds; written by the save
                operation, which no server runs. Reached from a signature or at initialisation, both are refused.
    assets      a table that is filled at load from a file name which is one of the SavedModel's assets.

Source: tensorflow/cc/saved_model/loader.cc (what runs at load, and what is fed), tensorflow/core/ops/*.cc of
TensorFlow 2.21 (which operations there are).
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf.message import DecodeError

from tasks.datasets.seen import RECORD
from tasks.errors import ExportError
from tasks.model_server.tf_protos import message_module
from tasks.records import GraphFacts
from tasks.savedmodel.operations import CHECKPOINTS, DEBUG, PREFIXES, REACHING_OUT, RESTORING, TABLES_FROM_FILES

MAX_DEPTH = 50  # no SavedModel hands a file name through as many nodes and functions
MAX_PB_BYTES = 2**31 - 1  # the most that protocol buffers read

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})  # input i is argument i of the function
INIT_SIGNATURE = "__saved_model_init_op"
INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
NO_NUMBERS = frozenset({7, 20, 21})  # DT_STRING, DT_RESOURCE, DT_VARIANT

Place = tuple[str, str]
"""Where a node stands: ("", its name) in the graph itself, (the function's name, "") in a function."""


def read_graph(version_dir: Path) -> GraphFacts:
    """Return what a SavedModel's files hold: every meta graph, every function.

    `parameters` counts the variables that a signature reaches: Keras writes each weight up to three times, and what
    nothing serves is no weight of what is served.

    Raises:
        ExportError: there is no saved_model.pb that can be read.
    """
    sizes, outside = _files(version_dir)
    meta_graphs = _parsed(version_dir).meta_graphs
    reaching_out: list[tuple[str, str]] = []
    variables: dict[str, int] = {}
    for meta in meta_graphs:
        graph = _Graph(meta)
        reaching_out += graph.reaching_out()
        variables |= graph.variables()
        outside += [f"asset '{name}'" for name in _assets(meta).values() if _escapes(name)]
    return GraphFacts(
        reaching_out=tuple(sorted(set(reaching_out))),
        outside=tuple(sorted(set(outside))),
        graph_bytes=sizes["saved_model.pb"],
        variables_bytes=sum(size for path, size in sizes.items() if path.startswith("variables/")),
        total_bytes=sum(size for path, size in sizes.items() if path != RECORD.as_posix()),  # grows with the data
        parameters=sum(variables.values()),
    )


def _files(version_dir: Path) -> tuple[dict[str, int], list[str]]:
    """Return path to bytes of every plain file, and what is neither such a file nor a directory."""
    sizes: dict[str, int] = {}
    outside: list[str] = []
    for root, names, members in os.walk(version_dir):
        for name in [*names, *members]:
            path = Path(root) / name
            relative = path.relative_to(version_dir).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                outside.append(relative)
            elif path.is_file():
                sizes[relative] = path.stat().st_size
    sizes.setdefault("saved_model.pb", 0)  # a link, which `outside` names
    return sizes, outside


def _parsed(version_dir: Path) -> Any:
    """Read `saved_model.pb`.

    Raises:
        ExportError: it is missing, too large or damaged, or TensorFlow would read another file instead.
    """
    path = version_dir / "saved_model.pb"
    if (version_dir / "saved_model.cpb").exists():  # TensorFlow's reader of chunks prefers it to the .pb
        raise ExportError(
            f"a SavedModel must be one saved_model.pb, got a saved_model.cpb in '{version_dir}'; remove it"
        )
    if not path.is_file():
        text = ", but a saved_model.pbtxt" if (version_dir / "saved_model.pbtxt").exists() else ""
        raise ExportError(
            f"a SavedModel must hold a file saved_model.pb, got none{text} in '{version_dir}'; export the model again"
        )
    size = path.stat().st_size
    if size > MAX_PB_BYTES:
        raise ExportError(
            f"saved_model.pb must be below 2 GB, which is all that protocol buffers can read, got {size / 1e9:.1f} GB; "
            "keep large arrays in variables or assets, not in constants"
        )
    message = message_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        message.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as exc:
        raise ExportError(f"'{path}' must be readable as a SavedModel, got {exc}; export the model again") from exc
    if not message.meta_graphs:
        raise ExportError(f"'{path}' must hold a graph, got a SavedModel without one; export the model again")
    return message


def _assets(meta: Any) -> dict[str, str]:
    """Return the node that is fed an asset's path, to the asset's file name below `assets/`.

    Source: GetAssetFileDefs in tensorflow/cc/saved_model/loader_util.cc, the collection of TensorFlow 1 included.
    """
    defs = list(meta.asset_file_def)
    for packed in meta.collection_def["saved_model_assets"].any_list.value if not defs else ():
        asset = message_module("tensorflow.core.protobuf.meta_graph_pb2").AssetFileDef()
        packed.Unpack(asset)
        defs.append(asset)
    return {_node_name(asset.tensor_info.name): asset.filename for asset in defs}


def _escapes(file_name: str) -> bool:
    """Return whether a path below `assets/` leads out of it."""
    path = PurePosixPath(file_name)
    return path.is_absolute() or ".." in path.parts or not path.parts


class _Graph:
    """One meta graph: its nodes and functions, who calls whom, and what a server would run of it.

    Attributes:
        bodies: function (empty for the graph itself) to node's name to node.
        callers: function to the (function, node) that call it.
    """

    def __init__(self, meta: Any) -> None:
        library = meta.graph_def.library
        self._functions = _by_name(library.function, lambda function: str(function.signature.name))
        self.bodies = {"": _by_name(meta.graph_def.node)}
        self.bodies |= {name: _by_name(function.node_def) for name, function in self._functions.items()}
        self._partners = _partners(library)
        self._variable_names = Counter(_variable_name(n) for _, n in self._all_nodes() if n.op == "VarHandleOp")
        self.callers: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
        self._calls: dict[tuple[str, str], set[str]] = {}
        for scope, node in self._all_nodes():
            if called := self._called(node):
                self._calls[scope, node.name] = called
                for name in called:
                    self.callers[name].append((scope, node))
        saver = meta.saver_def
        self._file_name = frozenset({_node_name(saver.filename_tensor_name)}) - {""}
        self._assets = frozenset(_assets(meta)) - {""}
        self._handed_on: dict[tuple[frozenset[str], str, str], bool] = {}
        self._saved, self._restored = self._reached([saver.save_tensor_name]), self._reached([saver.restore_op_name])
        self._served = self._reached(_outputs(meta, initialising=False))
        self._initialised = self._reached(_outputs(meta, initialising=True))

    def reaching_out(self) -> Iterator[tuple[str, str]]:
        """Give (operation, node's name) of everything that leaves the graph; in a function it is `function/node`."""
        for scope, node in self._all_nodes():
            if _leaves(node) or (
                node.op in CHECKPOINTS | TABLES_FROM_FILES and not self._belongs_to_savedmodel(scope, node)
            ):
                yield node.op, f"{scope}/{node.name}" if scope else node.name

    def variables(self) -> dict[str, int]:
        """Return the variables that a signature reaches: shared name to number of elements, where it is known."""
        nodes = [node for scope, node in self._all_nodes() if _place(scope, node) in self._served]
        return {
            _variable_name(node): prod(dim.size for dim in node.attr["shape"].shape.dim)
            for node in nodes
            if node.op in VARIABLES and node.attr["dtype"].type not in NO_NUMBERS and _known(node.attr["shape"].shape)
        }

    def _belongs_to_savedmodel(self, scope: str, node: Any) -> bool:
        """Return whether a node reads or writes the SavedModel's own checkpoint or assets, and at load only."""
        place = _place(scope, node)
        if place in self._served:  # at a request nothing is fed but what the client sends
            return False
        if node.op in TABLES_FROM_FILES:
            return self._is_one_of(self._assets, scope, _input(node, 1))
        if place in self._initialised:
            return False
        if place in self._restored:
            return node.op in RESTORING and self._is_one_of(self._file_name, scope, _input(node, 0))
        # What nobody reaches in the graph itself is an earlier saver of TensorFlow 1, which nothing can run;
        # a function may still be called by name.
        return place in self._saved or not scope

    def _is_one_of(self, sources: frozenset[str], scope: str, tensor: str, depth: int = 0) -> bool:
        """Return whether a tensor is one of these nodes of the graph itself, handed on unchanged."""
        key = (sources, scope, _node_name(tensor))
        if key not in self._handed_on:
            self._handed_on[key] = False  # while it is looked at: who calls himself proves nothing
            self._handed_on[key] = depth < MAX_DEPTH and self._look(*key, depth + 1)
        return self._handed_on[key]

    def _look(self, sources: frozenset[str], scope: str, name: str, depth: int) -> bool:
        if not scope and name in sources:
            return True
        node = self.bodies[scope].get(name)
        if node is None:
            return self._is_argument_of(sources, scope, name, depth)
        if node.op == "Identity":
            return self._is_one_of(sources, scope, _input(node, 0), depth)
        return node.op == "ReadVariableOp" and not scope and self._holds(sources, _node_name(_input(node, 0)), depth)

    def _is_argument_of(self, sources: frozenset[str], scope: str, name: str, depth: int) -> bool:
        """Return whether every caller of a function hands it one of these nodes as this argument."""
        arguments = [argument.name for argument in self._functions[scope].signature.input_arg] if scope else []
        if name not in arguments or not self.callers[scope]:
            return False
        at = arguments.index(name)
        return all(
            call.op in CALLS | {scope} and self._is_one_of(sources, caller, _input(call, at), depth)
            for caller, call in self.callers[scope]
        )

    def _holds(self, sources: frozenset[str], handle: str, depth: int) -> bool:
        """Return whether a variable never holds anything but one of these nodes: TensorFlow 2 keeps asset paths so."""
        variable = self.bodies[""].get(handle)
        if variable is None or variable.op != "VarHandleOp" or self._variable_names[_variable_name(variable)] > 1:
            return False
        users = [node for node in self.bodies[""].values() if handle in map(_node_name, node.input)]
        assigned = [node for node in users if node.op == "AssignVariableOp"]
        return (
            bool(assigned)
            and {node.op for node in users} <= {"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"}
            and all(self._is_one_of(sources, "", _input(node, 1), depth) for node in assigned)
        )

    def _reached(self, tensors: Iterable[str]) -> set[Place]:
        """Return the nodes that run for these tensors, and the functions that may."""
        reached: set[Place] = set()
        pending = [("", _node_name(tensor)) for tensor in tensors]
        while pending:
            place = pending.pop()
            scope, name = place
            if place in reached or (not scope and name not in self.bodies[""]):
                continue
            reached.add(place)
            nodes = self.bodies[scope] if scope else [name]
            pending += [(function, "") for node in nodes for function in self._calls.get((scope, node), ())]
            pending += [(partner, "") for partner in self._partners[scope]]
            pending += [] if scope else [("", _node_name(tensor)) for tensor in self.bodies[""][name].input]
        return reached

    def _all_nodes(self) -> Iterator[tuple[str, Any]]:
        return ((scope, node) for scope, body in self.bodies.items() for node in body.values())

    def _called(self, node: Any) -> set[str]:
        """Return the functions that a node names: as its operation, or in its attributes however deep."""
        found, pending = {str(node.op)}, list(node.attr.values())
        while pending:
            value = pending.pop()
            functions = [value.func] if value.WhichOneof("value") == "func" else value.list.func
            found |= {str(function.name) for function in functions}
            pending += [inner for function in functions for inner in function.attr.values()]
        return found & self._functions.keys()


def _by_name(items: Iterable[Any], name_of: Callable[[Any], str] = lambda node: str(node.name)) -> dict[str, Any]:
    """Return nodes or functions by name.

    Raises:
        ExportError: a name occurs twice; which of the two TensorFlow takes must not be a guess.
    """
    found: dict[str, Any] = {}
    for item in items:
        name = name_of(item)
        if name in found:
            raise ExportError(f"names in a graph must be unique, got two of '{name}'; export the model again")
        found[name] = item
    return found


def _partners(library: Any) -> defaultdict[str, set[str]]:
    """Return the functions that TensorFlow may run in a function's place: its gradient, its other implementations.

    Source: tensorflow/core/grappler/optimizers/implementation_selector.h (`api_implements`).
    """
    partners: defaultdict[str, set[str]] = defaultdict(set)
    for gradient in library.gradient:
        partners[gradient.function_name].add(gradient.gradient_func)
    alike: defaultdict[bytes, set[str]] = defaultdict(set)
    for function in library.function:
        if "api_implements" in function.attr:
            alike[function.attr["api_implements"].s].add(function.signature.name)
    for names in alike.values():
        for name in names:
            partners[name] |= names
    return partners


def _outputs(meta: Any, initialising: bool) -> Iterator[str]:
    """Give the tensors and operations that a server asks for: once at load, or at requests."""
    for name, signature in meta.signature_def.items():
        if (name == INIT_SIGNATURE) == initialising:
            for info in signature.outputs.values():
                yield from _tensor_names(info)
    if initialising:
        for name in INIT_COLLECTIONS:
            yield from meta.collection_def[name].node_list.value


def _tensor_names(info: Any) -> Iterator[str]:
    """Give the tensors of an output: one, or the parts of a sparse or composite one."""
    sparse = info.coo_sparse
    yield from (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    for part in info.composite_tensor.components:
        yield from _tensor_names(part)


def _leaves(node: Any) -> bool:
    """Return whether an operation leaves the graph by itself, whatever it is connected to."""
    attributes = node.attr
    if node.op in DEBUG:
        return bool(attributes["debug_urls"].list.s)
    if node.op == "PrintV2":
        return bool(attributes["output_stream"].s.startswith(b"file://"))
    if node.op in {"DecodeProtoV2", "EncodeProto"}:  # all else is the path of a file of descriptors
        source = attributes["descriptor_source"].s
        return source not in {b"", b"local://"} and not source.startswith(b"bytes://")
    if node.op == "FixedUnigramCandidateSampler":
        return bool(attributes["vocab_file"].s)
    return node.op in REACHING_OUT or node.op.startswith(PREFIXES)


def _place(scope: str, node: Any) -> Place:
    return (scope, "") if scope else ("", node.name)


def _node_name(tensor: str) -> str:
    """Return the node of `node`, `node:0`, `node:output:0` or the control input `^node`."""
    return tensor.removeprefix("^").partition(":")[0]


def _input(node: Any, at: int) -> str:
    """Return an input of a node, empty where a damaged graph has none."""
    return str(node.input[at]) if at < len(node.input) else ""


def _variable_name(node: Any) -> str:
    return node.attr["shared_name"].s.decode(errors="replace") or str(node.name)


def _known(shape: Any) -> bool:
    return not shape.unknown_rank and all(dim.size >= 0 for dim in shape.dim)
