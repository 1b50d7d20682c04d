"""One meta graph of a SavedModel: its calls, the nodes that a server would run, and what reaches outside the graph.

A server runs the restore operation and the initialisation operation at load, and the nodes of a signature at every
request. Operations that reach outside the graph are reported wherever they are, even in functions that are never
called. Two kinds of file access are part of every SavedModel; they are recognised by following the graph:

    checkpoint  The restore operation reads it, from the file name that the server feeds, and the save operation, which
                no server runs, writes it. Both are refused if a signature or the initialisation reaches them.
    assets      A table is filled at load from a file that is one of the SavedModel's assets.

Source: tensorflow/cc/saved_model/loader.cc (what runs at load, and what is fed),
tensorflow/core/common_runtime/lower_while_op.cc (a function's name in an attribute may become an operation).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from math import prod
from typing import Any

from tasks.errors import ExportError
from tasks.model_server.tf_protos import message_module
from tasks.savedmodel.nodes import attributes_of, functions_of, holds_handles, is_open, leaves
from tasks.savedmodel.operations import CALLS, RESTORING, TABLES_FROM_FILES, classification, group_of

MAX_DEPTH = 50  # nodes and functions that a file name may pass through; no real SavedModel has as many
MAX_CALLS = 50  # nested function calls; a server needs stack for each
LONGEST_NAME = 200  # characters; the name of a function is repeated for each of its nodes

INIT_SIGNATURE = "__saved_model_init_op"
INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
FED = frozenset({"Const", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})  # they have one output
VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
NO_NUMBERS = frozenset({7, 20, 21})  # DT_STRING, DT_RESOURCE, DT_VARIANT

Place = tuple[str, str]
"""The place of a node: ("", its name) in the main graph, (the function's name, "") in a function."""


class Graph:
    """One meta graph: its nodes, its functions and their calls, and the nodes that a server would run.

    Attributes:
        bodies: maps a function (empty for the main graph) to a mapping from the name of a node to the node.
        callers: maps a function to the (function, node) pairs that call it.
        unclear: the reasons, in words, why the graph cannot be judged.
    """

    def __init__(self, meta: Any) -> None:
        """Examine every node.

        Raises:
            ExportError: two nodes or functions have the same name.
        """
        library = meta.graph_def.library
        self._functions = _by_name(library.function, lambda function: str(function.signature.name))
        self.bodies = {"": _by_name(meta.graph_def.node)}
        self.bodies |= {name: _by_name(function.node_def) for name, function in self._functions.items()}
        self._partners = _partners(library, self._functions)
        self.callers: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
        self._calls: dict[tuple[str, str], set[str]] = {}
        self.unclear = [*_unclear_functions(self._functions), *_unclear_gradients(library, self._functions)]
        for scope, node in self._all_nodes():
            self._look_at(scope, node)
        self._variable_names = Counter(_variable_name(n) for _, n in self._all_nodes() if n.op == "VarHandleOp")
        saver = meta.saver_def
        self._file_name = self._fed([saver.filename_tensor_name])
        self._assets = self._fed(tensor for tensor, _ in assets(meta))
        self._handed_on: dict[tuple[frozenset[str], str, str], bool] = {}
        self._saved, self._restored = self._reached([saver.save_tensor_name]), self._reached([saver.restore_op_name])
        self._served = self._reached(self._served_outputs(meta))
        self._initialised = self._reached(_initial_outputs(meta))
        if self._nests_too_deep():
            self.unclear.append(f"functions call each other more than {MAX_CALLS} levels deep, or recursively")

    def _look_at(self, scope: str, node: Any) -> None:
        """Record which functions a node calls, and which of its attributes cannot be judged."""
        called = {str(node.op)} if node.op in self._functions else set()
        for value in attributes_of(node):
            if is_open(value):
                self.unclear.append(f"{node.op} '{_shown(scope, node)}' leaves an attribute open")
            if holds_handles(value):
                self.unclear.append(f"{node.op} '{_shown(scope, node)}' holds handles of resources")
            for name in {str(function.name) for function in functions_of(value)}:
                if name in self._functions:
                    called.add(name)
                else:
                    self.unclear.append(f"{node.op} '{_shown(scope, node)}' calls '{name}', which is not defined")
        if called:
            self._calls[scope, node.name] = called
            for name in called:
                self.callers[name].append((scope, node))

    def reaching_out(self) -> Iterator[tuple[str, str]]:
        """Yield (operation, name) of nodes that reach outside the graph; the name may be `function/node`."""
        for scope, node in self._all_nodes():
            if node.op in self._functions:
                continue
            if leaves(node) or (
                group_of(node.op).judged == "by place" and not self._belongs_to_savedmodel(scope, node)
            ):
                yield node.op, _shown(scope, node)

    def variables(self) -> dict[str, int]:
        """Return the variables that a signature reaches: a mapping from shared name to number of elements."""
        nodes = [node for scope, node in self._all_nodes() if _place(scope, node) in self._served]
        return {
            _variable_name(node): prod(dim.size for dim in node.attr["shape"].shape.dim)
            for node in nodes
            if node.op in VARIABLES and node.attr["dtype"].type not in NO_NUMBERS and _known(node.attr["shape"].shape)
        }

    def _belongs_to_savedmodel(self, scope: str, node: Any) -> bool:
        """Return whether a node reads or writes only the SavedModel's own checkpoint or assets, only at load."""
        place = _place(scope, node)
        if place in self._served:  # at a request, only the client's tensors are fed
            return False
        if scope in self._partners:  # it may replace another function, with the other's arguments
            return False
        if node.op in TABLES_FROM_FILES:
            return self._is_one_of(self._assets, scope, _input(node, 1))
        if place in self._initialised:
            return False
        if place in self._restored:
            return node.op in RESTORING and self._is_one_of(self._file_name, scope, _input(node, 0))
        # An unreached node of the main graph belongs to an earlier saver of TensorFlow 1, which nothing can run. A
        # function may still be called by name.
        return place in self._saved or not scope

    def _fed(self, tensors: Iterable[str]) -> frozenset[str]:
        """Return the nodes whose only output the server feeds at load; other nodes would be fed in part."""
        nodes = {_node_name(tensor) for tensor in tensors} & self.bodies[""].keys()
        return frozenset(name for name in nodes if self.bodies[""][name].op in FED)

    def _is_one_of(self, sources: frozenset[str], scope: str, tensor: str, depth: int = 0) -> bool:
        """Return whether a tensor is the unchanged output of one of these nodes of the main graph."""
        key = (sources, scope, tensor)
        if key not in self._handed_on:
            self._handed_on[key] = False  # the answer for recursive calls
            self._handed_on[key] = depth < MAX_DEPTH and self._look(*key, depth + 1)
        return self._handed_on[key]

    def _look(self, sources: frozenset[str], scope: str, tensor: str, depth: int) -> bool:
        if scope and ":" not in tensor:  # in a function, the output of a node is node:output:number
            return self._is_argument_of(sources, scope, tensor, depth)
        name = _node_name(tensor)
        if not scope and name in sources:
            return True
        node = self.bodies[scope].get(name)
        if node is None:
            return False
        if node.op == "Identity":
            return self._is_one_of(sources, scope, _input(node, 0), depth)
        return node.op == "ReadVariableOp" and not scope and self._holds(sources, _node_name(_input(node, 0)), depth)

    def _is_argument_of(self, sources: frozenset[str], scope: str, name: str, depth: int) -> bool:
        """Return whether every caller of a function passes one of these nodes as this argument."""
        at = self._arguments.get((scope, name))
        if at is None or not self.callers[scope]:
            return False
        return all(
            call.op in CALLS | {scope} and self._is_one_of(sources, caller, _input(call, at), depth)
            for caller, call in self.callers[scope]
        )

    @cached_property
    def _arguments(self) -> dict[tuple[str, str], int]:
        """Map (function, name of an argument) to the position of the argument."""
        return {
            (name, argument.name): position
            for name, function in self._functions.items()
            for position, argument in enumerate(function.signature.input_arg)
        }

    @cached_property
    def _users(self) -> dict[str, list[Any]]:
        """Map each node of the main graph to the nodes that use its output."""
        users: defaultdict[str, list[Any]] = defaultdict(list)
        for node in self.bodies[""].values():
            for name in set(map(_node_name, node.input)):
                users[name].append(node)
        return users

    def _holds(self, sources: frozenset[str], handle: str, depth: int) -> bool:
        """Return whether a variable can hold only these nodes; TensorFlow 2 stores asset paths in such variables."""
        variable = self.bodies[""].get(handle)
        if variable is None or variable.op != "VarHandleOp" or self._variable_names[_variable_name(variable)] > 1:
            return False
        users = self._users.get(handle, [])
        assigned = [node for node in users if node.op == "AssignVariableOp"]
        return (
            bool(assigned)
            and {node.op for node in users} <= {"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"}
            and all(self._is_one_of(sources, "", _input(node, 1), depth) for node in assigned)
        )

    def _served_outputs(self, meta: Any) -> Iterator[str]:
        """Yield the tensors that clients can request: the outputs of every signature.

        They include those of the initialisation's signature, because a request may name it like any other. It has
        none in the form that TensorFlow writes, which is one operation without inputs and outputs.
        """
        for name, signature in meta.signature_def.items():
            outputs = [tensor for info in signature.outputs.values() for tensor in _tensor_names(info)]
            nodes = [self.bodies[""].get(_node_name(tensor)) for tensor in outputs if tensor]
            nothing = all(node is not None and node.op == "NoOp" for node in nodes) and not signature.inputs
            if not (name == INIT_SIGNATURE and nothing):
                yield from outputs

    def _reached(self, tensors: Iterable[str]) -> set[Place]:
        """Return the nodes that run for these tensors, and the functions that may run."""
        reached: set[Place] = set()
        groups: set[int] = set()
        pending = [("", _node_name(tensor)) for tensor in tensors]
        while pending:
            place = pending.pop()
            scope, name = place
            if place in reached or (not scope and name not in self.bodies[""]):
                continue
            reached.add(place)
            nodes = self.bodies[scope] if scope else [name]
            pending += [(function, "") for node in nodes for function in self._calls.get((scope, node), ())]
            for partners in self._partners.get(scope, ()):
                if id(partners) not in groups:  # all members share the same set
                    groups.add(id(partners))
                    pending += [(partner, "") for partner in partners]
            pending += [] if scope else [("", _node_name(tensor)) for tensor in self.bodies[""][name].input]
        return reached

    def _nests_too_deep(self) -> bool:
        """Return whether function calls are nested deeper than allowed, or are recursive."""
        called: defaultdict[str, set[str]] = defaultdict(set)
        for (scope, _), functions in self._calls.items():
            called[scope] |= functions
        waiting = Counter(inner for scope, functions in called.items() if scope for inner in functions)
        depths = {name: 1 for name in self._functions if not waiting[name]}
        ready = list(depths)
        for name in ready:  # grows during the loop
            for inner in called[name]:
                depths[inner] = max(depths.get(inner, 0), depths[name] + 1)
                waiting[inner] -= 1
                if not waiting[inner]:
                    ready.append(inner)
        return len(ready) < len(self._functions) or max(depths.values(), default=0) > MAX_CALLS

    def _all_nodes(self) -> Iterator[tuple[str, Any]]:
        return ((scope, node) for scope, body in self.bodies.items() for node in body.values())


def assets(meta: Any) -> list[tuple[str, str]]:
    """Return pairs of (tensor that is fed the path of an asset, file name of the asset below `assets/`).

    Raises:
        DecodeError: an asset of TensorFlow 1 is damaged.

    Source: GetAssetFileDefs in tensorflow/cc/saved_model/loader_util.cc, the collection of TensorFlow 1 included.
    """
    defs = list(meta.asset_file_def)
    for packed in meta.collection_def["saved_model_assets"].any_list.value if not defs else ():
        asset = message_module("tensorflow.core.protobuf.meta_graph_pb2").AssetFileDef()
        packed.Unpack(asset)
        defs.append(asset)
    return [(asset.tensor_info.name, asset.filename) for asset in defs]


def _by_name(items: Iterable[Any], name_of: Callable[[Any], str] = lambda node: str(node.name)) -> dict[str, Any]:
    """Return nodes or functions by name.

    Raises:
        ExportError: a name is empty or occurs twice, so that it is unknown which of the two TensorFlow uses.
    """
    found: dict[str, Any] = {}
    for item in items:
        name = name_of(item)
        if not name:
            raise ExportError("every node and function of a graph must have a name, got none; export the model again")
        if name in found:
            raise ExportError(f"names in a graph must be unique, got two of {name[:80]!r}; export the model again")
        found[name] = item
    return found


def _unclear_functions(functions: dict[str, Any]) -> Iterator[str]:
    """Yield the functions that have the name of an operation, or arguments that depend on the caller."""
    for name, function in functions.items():
        signature = function.signature
        if name in classification():
            yield f"function '{name}' has the name of an operation"
        if signature.attr or any(arg.type_attr or arg.number_attr or arg.type_list_attr for arg in signature.input_arg):
            yield f"the arguments of function '{name}' depend on the caller"


def _unclear_gradients(library: Any, functions: dict[str, Any]) -> Iterator[str]:
    """Yield the gradients that refer to undefined functions."""
    for gradient in library.gradient:
        for name in (gradient.function_name, gradient.gradient_func):
            if name not in functions:
                yield f"a gradient refers to '{name[:LONGEST_NAME]}', which is not defined"


def _partners(library: Any, functions: dict[str, Any]) -> dict[str, list[set[str]]]:
    """Return the functions that TensorFlow may replace by each other: gradients, other implementations.

    Source: tensorflow/core/grappler/optimizers/implementation_selector.h (`api_implements`).
    """
    groups = [{gradient.function_name, gradient.gradient_func} & functions.keys() for gradient in library.gradient]
    alike: defaultdict[bytes, set[str]] = defaultdict(set)
    for function in library.function:
        if "api_implements" in function.attr:
            alike[function.attr["api_implements"].s].add(function.signature.name)
    groups += [names for names in alike.values() if len(names) > 1]
    partners: defaultdict[str, list[set[str]]] = defaultdict(list)
    for group in groups:
        for name in group:
            partners[name].append(group)
    return dict(partners)


def _initial_outputs(meta: Any) -> Iterator[str]:
    """Yield the operations that a server runs once, at load."""
    for info in meta.signature_def[INIT_SIGNATURE].outputs.values() if INIT_SIGNATURE in meta.signature_def else ():
        yield from _tensor_names(info)
    for name in INIT_COLLECTIONS:
        if name in meta.collection_def:
            yield from meta.collection_def[name].node_list.value


def _tensor_names(info: Any) -> Iterator[str]:
    """Yield the tensors of an output: one, or the parts of a sparse or composite output."""
    sparse = info.coo_sparse
    yield from (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    for part in info.composite_tensor.components:
        yield from _tensor_names(part)


def _place(scope: str, node: Any) -> Place:
    return (scope, "") if scope else ("", node.name)


def _shown(scope: str, node: Any) -> str:
    """Return the name of a node, after that of its function if it is in one; long names are cut."""
    name = str(node.name)[:LONGEST_NAME]
    return f"{scope[:LONGEST_NAME]}/{name}" if scope else name


def _node_name(tensor: str) -> str:
    """Return the node of `node`, `node:0`, `node:output:0` or the control input `^node`."""
    return tensor.removeprefix("^").partition(":")[0]


def _input(node: Any, at: int) -> str:
    """Return an input of a node, or an empty text if a damaged graph has none."""
    return str(node.input[at]) if at < len(node.input) else ""


def _variable_name(node: Any) -> str:
    return node.attr["shared_name"].s.decode(errors="replace") or str(node.name)


def _known(shape: Any) -> bool:
    return not shape.unknown_rank and all(dim.size >= 0 for dim in shape.dim)
