"""Attacks on the safety gate: two that once reached production, where they can be hidden, and others of their kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.sections.gates import Safety
from tasks.errors import ExportError
from tasks.gates.safety import judge_safety
from tasks.model_server.tf_protos import message_module
from tests.data.hand_written import DT_STRING, Model, a_saver_of_tensorflow_2, a_table_of_tensorflow_2

INIT = "__saved_model_init_op"
DT_RESOURCE, DT_VARIANT = 20, 21


def ordinary() -> Model:
    """Return a model that passes, with a saver and a table from an asset."""
    model = Model()
    a_saver_of_tensorflow_2(model)
    a_table_of_tensorflow_2(model)
    model.node("Placeholder", "x")
    model.node("StatefulPartitionedCall", "y", "x", calls="serving")
    model.node("Identity", "inner", "input", body=model.function("serving", "input"))
    return model


def function_of(model: Model, name: str) -> Any:
    return next(one for one in model.graph.library.function if one.signature.name == name)


def test_the_ordinary_model_passes(tmp_path: Path) -> None:
    """The model that the attacks are hidden in passes by itself."""
    result = judge_safety(ordinary().read(tmp_path), Safety())
    assert result.passed, result.summary


def steals(model: Model, body: Any = None, name: str = "steal") -> None:
    """Read any file, by the name of a region of memory."""
    model.node("ImmutableConst", name, body=body, memory_region_name="/etc/passwd")


def runs(model: Model, body: Any = None, name: str = "steal") -> None:
    """Run a graph that is handed in as text."""
    model.node("DatasetFromGraph", name, "x" if body is None else "input", body=body)


Attack = Callable[..., None]


def in_the_graph(model: Model, attack: Attack) -> None:
    attack(model)


def as_the_output(model: Model, attack: Attack) -> None:
    attack(model)
    model.meta.signature_def["serving_default"].outputs["stolen"].name = "steal:0"


def as_another_signature(model: Model, attack: Attack) -> None:
    attack(model)
    model.meta.signature_def["hidden"].outputs["y"].name = "steal:0"


def as_an_input(model: Model, attack: Attack) -> None:
    attack(model)
    model.meta.signature_def["serving_default"].inputs["graph"].name = "steal:0"


def as_a_control_input(model: Model, attack: Attack) -> None:
    attack(model)
    model.graph.node.add(op="Identity", name="z", input=["x", "^steal"])


def in_a_function(model: Model, attack: Attack) -> None:
    attack(model, function_of(model, "serving"))


def in_a_function_of_a_function(model: Model, attack: Attack) -> None:
    model.node("PartitionedCall", "call", "input", body=function_of(model, "serving"), calls="deeper")
    attack(model, model.function("deeper", "input"))


def in_a_function_called_by_name(model: Model, attack: Attack) -> None:
    model.node("Aliased", "call", "input", body=function_of(model, "serving"))
    attack(model, model.function("Aliased", "input"))


def in_a_function_that_nothing_calls(model: Model, attack: Attack) -> None:
    attack(model, model.function("lonely", "input"))


def in_a_loop(model: Model, attack: Attack) -> None:
    loop = model.node("StatelessWhile", "loop", "x")
    loop.attr["cond"].func.name = loop.attr["body"].func.name = "turn"
    attack(model, model.function("turn", "input"))


def in_a_branch(model: Model, attack: Attack) -> None:
    case = model.node("Case", "case", "x")
    case.attr["branches"].list.func.add(name="serving")
    case.attr["branches"].list.func.add(name="other")
    attack(model, model.function("other", "input"))


def in_a_functions_attribute(model: Model, attack: Attack) -> None:
    call = model.node("StatefulPartitionedCall", "called", "x", calls="serving")
    call.attr["f"].func.attr["g"].func.name = "other"
    attack(model, model.function("other", "input"))


def at_initialisation(model: Model, attack: Attack) -> None:
    attack(model)
    function = next(node for node in model.graph.node if node.name == "init")
    function.input.append("^steal")


def at_initialisation_of_tensorflow_1(model: Model, attack: Attack) -> None:
    attack(model)
    model.at_load("steal")


def in_the_initialisers_function(model: Model, attack: Attack) -> None:
    attack(model, function_of(model, "filling"))


def in_the_restoring_function(model: Model, attack: Attack) -> None:
    attack(model, function_of(model, "restoring"))


def in_the_saving_function(model: Model, attack: Attack) -> None:
    attack(model, function_of(model, "saving"))


def as_a_gradient(model: Model, attack: Attack) -> None:
    model.graph.library.gradient.add(function_name="serving", gradient_func="other")
    attack(model, model.function("other", "input"))


def as_another_implementation(model: Model, attack: Attack) -> None:
    attack(model, model.function("other", "input"))
    for name in ("other", "serving"):
        function_of(model, name).attr["api_implements"].s = b"same"


def under_another_tag(model: Model, attack: Attack) -> None:
    other = model.saved.meta_graphs.add()
    other.meta_info_def.tags.append("train")
    keep, model.graph = model.graph, other.graph_def
    attack(model)
    model.graph = keep


def in_a_function_under_another_tag(model: Model, attack: Attack) -> None:
    other = model.saved.meta_graphs.add()
    keep, model.graph = model.graph, other.graph_def
    attack(model, model.function("serving", "input"))
    model.graph = keep


def on_another_device(model: Model, attack: Attack) -> None:
    attack(model)
    model.graph.node[-1].device = "/job:worker/task:1"


PLACES = [
    in_the_graph,
    as_the_output,
    as_another_signature,
    as_an_input,
    as_a_control_input,
    in_a_function,
    in_a_function_of_a_function,
    in_a_function_called_by_name,
    in_a_function_that_nothing_calls,
    in_a_loop,
    in_a_branch,
    in_a_functions_attribute,
    at_initialisation,
    at_initialisation_of_tensorflow_1,
    in_the_initialisers_function,
    in_the_restoring_function,
    in_the_saving_function,
    as_a_gradient,
    as_another_implementation,
    under_another_tag,
    in_a_function_under_another_tag,
    on_another_device,
]


@pytest.mark.parametrize("attack", [steals, runs])
@pytest.mark.parametrize("place", PLACES)
def test_the_two_are_refused_wherever_they_stand(
    place: Callable[[Model, Attack], None], attack: Attack, tmp_path: Path
) -> None:
    """Memory of a file's name and a graph handed in as text are refused by name, wherever they are hidden."""
    model = ordinary()
    place(model, attack)
    graph = model.read(tmp_path)
    op = "ImmutableConst" if attack is steals else "DatasetFromGraph"
    assert op in {found for found, _ in graph.reaching_out}
    result = judge_safety(graph, Safety())
    assert not result.passed
    assert f"{op} '" in result.summary
    assert result.evidence["reasons"][op]


@pytest.mark.parametrize(
    "op",
    [
        *("immutableconst", "ImmutableConst ", "Addv2", "MyCustomOp", "TFText>Whatever", "NewIn2027", "Ours>ZeroOut"),
        *("XlaCallModule", "XlaLaunch", "RemoteCall", "ReadVariableXlaSplitND", "Empty", "FakeParam", "HostConst"),
        *("LoadAndRemapMatrix", "PyFunc", "BatchFunction", "MapDefun", "SymbolicGradient", "TPUPartitionedCall"),
        *("RewriteDataset", "OneShotIterator", "IteratorFromStringHandle", "GetSessionTensor", "_Send", "Send"),
        *("QueueDequeue", "Stage", "Barrier", "StackPopV2", "DestroyResourceOp", "InplaceUpdate", "CollectiveReduce"),
        *("ResourceApplyAdam", "QuantizedMatMul", "MlirPassthroughOp", "XlaHostCompute", "_XlaCompile"),
        *("TensorArrayV2", "HashTable", "LookupTableFind"),
    ],
)
def test_what_was_not_looked_at_is_refused(op: str, tmp_path: Path) -> None:
    """Custom, newer and misspelt operations are refused like dangerous ones; each says what it reaches."""
    model = ordinary()
    model.node(op, "odd")
    graph = model.read(tmp_path)
    assert graph.reaching_out == ((op, "odd"),)
    assert graph.reasons[op][0] in judge_safety(graph, Safety()).summary


def an_operation_for_a_branch(model: Model) -> None:
    branch = model.node("If", "if", "x", "x")
    branch.attr["then_branch"].func.name = "ReadFile"
    branch.attr["else_branch"].func.name = "serving"


def an_operation_for_a_function(model: Model) -> None:
    model.node("PartitionedCall", "called", "x", calls="ReadFile")


def an_operation_within(model: Model) -> None:
    call = model.node("PartitionedCall", "called", "x", calls="serving")
    call.attr["f"].func.attr["g"].list.func.add(name="ReadFile")


def a_function_named_like_an_operation(model: Model) -> None:
    model.function("Identity", "input")


def an_attribute_left_open(model: Model) -> None:
    model.node("PrintV2", "print", "input", body=function_of(model, "serving")).attr["output_stream"].placeholder = "to"


def a_function_of_many_arguments(model: Model) -> None:
    function_of(model, "filling").signature.input_arg[0].type_list_attr = "T"


def a_function_of_any_type(model: Model) -> None:
    function_of(model, "serving").signature.attr.add(name="T", type="type")


def forged_handles(model: Model) -> None:
    array = model.node("Identity", "const").attr["value"].tensor
    array.dtype = DT_RESOURCE
    array.resource_handle_val.add(name="another model's table")


def forged_handles_in_a_list(model: Model) -> None:
    model.node("Identity", "const").attr["any"].list.tensor.add(dtype=DT_VARIANT)


def forged_handles_by_default(model: Model) -> None:
    model.meta.signature_def["serving_default"].defaults["x"].dtype = DT_RESOURCE


def forged_handles_by_request(model: Model) -> None:
    model.meta.signature_def["serving_default"].inputs["x"].dtype = DT_RESOURCE


def forged_handles_within_an_input(model: Model) -> None:
    part = model.meta.signature_def["other"].inputs["x"].composite_tensor.components.add()
    part.composite_tensor.components.add(dtype=DT_VARIANT)


def a_function_that_calls_itself(model: Model) -> None:
    model.node("StatefulPartitionedCall", "again", "input", body=function_of(model, "serving"), calls="serving")


def functions_in_a_circle(model: Model) -> None:
    model.node("StatefulPartitionedCall", "again", "input", body=function_of(model, "serving"), calls="other")
    model.node("StatefulPartitionedCall", "again", "input", body=model.function("other", "input"), calls="serving")


def functions_in_a_tower(model: Model) -> None:
    for number in range(60):
        body = function_of(model, "serving" if not number else f"f{number}")
        model.function(f"f{number + 1}", "input")
        model.node("StatefulPartitionedCall", "up", "input", body=body, calls=f"f{number + 1}")


def a_gradient_that_is_none(model: Model) -> None:
    model.graph.library.gradient.add(function_name="serving", gradient_func="nowhere")


def a_gradient_of_an_operation(model: Model) -> None:
    model.graph.library.gradient.add(function_name="Identity", gradient_func="filling")


def unknown_fields_of_a_signature(model: Model) -> None:
    signature = model.meta.signature_def["other"]
    signature.ParseFromString(b"\xea\x04\x03abc")  # field 77, three bytes


def unknown_fields(model: Model) -> None:
    node = message_module("tensorflow.core.framework.node_def_pb2").NodeDef()
    node.ParseFromString(model.graph.node[0].SerializeToString() + b"\xfa\x7f\x03new")
    model.graph.node[0].CopyFrom(node)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (an_operation_for_a_branch, "If 'if' calls 'ReadFile', which is not defined"),
        (an_operation_for_a_function, "PartitionedCall 'called' calls 'ReadFile'"),
        (an_operation_within, "PartitionedCall 'called' calls 'ReadFile'"),
        (a_function_named_like_an_operation, "function 'Identity' has the name of an operation"),
        (an_attribute_left_open, "PrintV2 'serving/print' leaves an attribute open"),
        (a_function_of_many_arguments, "the arguments of function 'filling' depend on the caller"),
        (a_function_of_any_type, "the arguments of function 'serving' depend on the caller"),
        (forged_handles, "Identity 'const' holds handles of resources"),
        (forged_handles_in_a_list, "Identity 'const' holds handles of resources"),
        (forged_handles_by_default, "handles of resources among a signature's defaults"),
        (forged_handles_by_request, "handles of resources among a signature's inputs"),
        (forged_handles_within_an_input, "handles of resources among a signature's inputs"),
        (a_function_that_calls_itself, "functions call each other more than 50 levels deep, or recursively"),
        (functions_in_a_circle, "functions call each other more than 50 levels deep, or recursively"),
        (functions_in_a_tower, "functions call each other more than 50 levels deep, or recursively"),
        (a_gradient_that_is_none, "a gradient refers to 'nowhere', which is not defined"),
        (a_gradient_of_an_operation, "a gradient refers to 'Identity', which is not defined"),
        (unknown_fields_of_a_signature, "fields that are unknown to TensorFlow 2.21"),
        (unknown_fields, "fields that are unknown to TensorFlow 2.21"),
    ],
)
def test_a_graph_that_may_mean_something_else_is_refused(
    change: Callable[[Model], None], words: str, tmp_path: Path
) -> None:
    """An operation where a function belongs, an open attribute and a forged handle are refused, and are not allowed."""
    model = ordinary()
    change(model)
    graph = model.read(tmp_path)
    assert any(words in found for found in graph.unclear)
    allowed = ("If", "PartitionedCall", "PrintV2", "Identity", "ReadFile", "StatefulPartitionedCall")
    result = judge_safety(graph, Safety(allow_ops=allowed))
    assert not result.passed
    assert words in result.summary


@pytest.mark.parametrize(
    "op",
    ["Const", "ParseTensor", "Placeholder", "PlaceholderWithDefault", "DeserializeSparse", "DeserializeManySparse"],
)
@pytest.mark.parametrize("dtype", [DT_RESOURCE, DT_VARIANT, DT_RESOURCE + 100])
def test_handles_are_not_taken_from_outside(op: str, dtype: int, tmp_path: Path) -> None:
    """A value that a file or a client gives may be numbers and text, never a handle of a resource."""
    model = ordinary()
    key = "out_type" if op == "ParseTensor" else "dtype"
    model.node(op, "good").attr[key].type = DT_STRING
    model.node(op, "bad").attr[key].type = dtype
    assert model.read(tmp_path).reaching_out == ((op, "bad"),)


@pytest.mark.parametrize("dtype", [DT_RESOURCE, DT_VARIANT])
@pytest.mark.parametrize("op", ["RestoreV2", "Restore", "RestoreSlice"])
def test_handles_are_not_taken_from_a_checkpoint(op: str, dtype: int, tmp_path: Path) -> None:
    """The restore operation reads numbers and text: a handle in the checkpoint is one that the file's author forged."""
    model = ordinary()
    restoring = function_of(model, "restoring")
    good, bad = (model.node(op, name, "prefix", body=restoring) for name in ("good", "bad"))
    for node, last in ((good, DT_STRING), (bad, dtype)):
        if op == "RestoreV2":
            node.attr["dtypes"].list.type.extend([DT_STRING, last])
        else:
            node.attr["dt"].type = last
    assert model.read(tmp_path).reaching_out == ((op, "restoring/bad"),)


def configured(**fields: Any) -> bytes:
    return bytes(message_module("tensorflow.core.protobuf.config_pb2").ConfigProto(**fields).SerializeToString())


OPTIMIZERS = {"rewrite_options": {"custom_optimizers": [{"name": "TensorRTOptimizer"}]}}


@pytest.mark.parametrize(
    ("key", "value", "passes"),
    [
        ("config_proto", b"", True),
        ("config_proto", configured(device_count={"CPU": 1}, allow_soft_placement=True), True),
        ("config_proto", configured(graph_options=OPTIMIZERS), False),
        ("config_proto", configured(graph_options={"rewrite_options": {"optimizers": ["any"]}}), False),
        ("config_proto", configured(cluster_def={"job": [{"name": "elsewhere"}]}), False),
        ("config", configured(graph_options=OPTIMIZERS), False),
        ("config_proto", b"\xff\xff", False),
        ("executor_type", b"ANOTHER", False),
    ],
)
def test_what_a_call_carries_is_looked_into(key: str, value: bytes, passes: bool, tmp_path: Path) -> None:
    """A call may carry the settings that TensorFlow writes, and no optimizers, machines or executors of its own."""
    model = ordinary()
    model.node("StatefulPartitionedCall", "called", "x", calls="serving").attr[key].s = value
    assert model.read(tmp_path).reaching_out == (() if passes else (("StatefulPartitionedCall", "called"),))


def fed_by_a_part(model: Model) -> None:
    """The server feeds output 1, and the table takes output 0."""
    model.node("Split", "parts", "x")
    model.asset("parts:1", "words.txt")
    model.node("InitializeTableFromTextFileV2", "fill2", "table", "parts")
    model.at_load("fill2")


def named_like_an_argument(model: Model) -> None:
    """In a function `path` is the argument, `path:output:0` the output of the node of that name."""
    model.node("Identity", "path", "good", body=function_of(model, "filling"))
    function_of(model, "filling").signature.input_arg.add(name="good")
    call = next(node for node in model.graph.node if node.name == "call")
    call.input[0] = "x"
    call.input.append("read")


def swapped_for_another(model: Model) -> None:
    """The optimizer may run the filling function in another's place, with that one's path."""
    model.function("harmless", "path", "table")
    for name in ("harmless", "filling"):
        function_of(model, name).attr["api_implements"].s = b"same"
    model.node("StatefulPartitionedCall", "other", "x", "table", calls="harmless")
    next(node for node in model.graph.node if node.name == "init").input.append("^other")


def asked_for_by_a_request(model: Model) -> None:
    """A request may name the initialisation's signature, and feed its inputs."""
    model.meta.signature_def[INIT].inputs["path"].name = "path:0"


def asked_for_by_its_output(model: Model) -> None:
    model.node("Identity", "result", "x", "^call")
    model.meta.signature_def[INIT].outputs["result"].name = "result:0"


def an_initialisation_with_an_output(model: Model) -> None:
    next(node for node in model.graph.node if node.name == "init").op = "Identity"


@pytest.mark.parametrize(
    "change",
    [
        fed_by_a_part,
        named_like_an_argument,
        swapped_for_another,
        asked_for_by_a_request,
        asked_for_by_its_output,
        an_initialisation_with_an_output,
    ],
)
def test_a_table_of_no_asset_is_found_out(change: Callable[[Model], None], tmp_path: Path) -> None:
    """A table whose path only looks like an asset's, or that a request can fill, is refused."""
    model = ordinary()
    change(model)
    graph = model.read(tmp_path)
    assert {op for op, _ in graph.reaching_out} == {"InitializeTableFromTextFileV2"}


@pytest.mark.parametrize("op", ["SaveV2", "MergeV2Checkpoints", "ShardedFilename", "RestoreV2", "Save", "RestoreSlice"])
@pytest.mark.parametrize("place", ["serving", "filling", "graph"])
def test_the_savers_operations_stay_in_the_saver(op: str, place: str, tmp_path: Path) -> None:
    """An operation of the saver in what is served or runs at initialisation is refused."""
    model = ordinary()
    if place == "graph":
        model.node(op, "saved", "x")
        model.meta.signature_def["other"].outputs["y"].name = "saved"
    else:
        model.node(op, "saved", "input", body=function_of(model, place))
    assert {found for found, _ in model.read(tmp_path).reaching_out} == {op}


def test_a_function_without_a_name_hides_nothing(tmp_path: Path) -> None:
    """A function with an empty name is an error, for it would stand where the graph itself stands."""
    model = ordinary()
    steals(model)
    model.function("")
    with pytest.raises(ExportError, match="must have a name"):
        model.read(tmp_path)


def test_parts_that_follow_are_part_of_the_message(tmp_path: Path) -> None:
    """A graph written in several pieces is one graph to protocol buffers, and all of it is looked at."""
    model, more = ordinary(), Model()
    model.read(tmp_path)
    steals(more)
    tail = message_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    tail.meta_graphs.add().graph_def.node.add().CopyFrom(more.graph.node[-1])
    first = model.meta.SerializeToString() + tail.meta_graphs[0].SerializeToString()
    piece = message_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    piece.meta_graphs.add().ParseFromString(first)
    model.saved = piece
    assert model.read(tmp_path).reaching_out == (("ImmutableConst", "steal"),)


def test_names_from_the_graph_cannot_write_on_the_screen(tmp_path: Path) -> None:
    """A node's name with control characters, or of a megabyte, is shown escaped and cut."""
    model = ordinary()
    model.node("Evil\x1b[2J\n", "n" * 1_000_000)
    summary = judge_safety(model.read(tmp_path), Safety()).summary
    assert summary.isprintable()
    assert "Evil\\x1b[2J\\n 'nnn" in summary
    assert len(summary) < 1000
