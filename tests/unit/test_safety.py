"""What a SavedModel would do, read from graphs that are written by hand, and the gate on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from configs.sections.gates import Safety
from tasks.errors import ExportError
from tasks.gates.safety import judge_safety
from tasks.records import GraphFacts
from tasks.savedmodel.safety import read_graph
from tests.data.hand_written import (
    DT_STRING,
    Model,
    a_saver_of_tensorflow_1,
    a_saver_of_tensorflow_2,
    a_table_of_tensorflow_1,
    a_table_of_tensorflow_2,
)

RECORDED = sorted(path.parent for path in Path("tests/data").glob("*/*/*/*/saved_model.pb"))
CLEAN = GraphFacts((), (), 1_000_000, 2_000_000, 3_000_000, 10)


ORDINARY = [a_saver_of_tensorflow_2, a_saver_of_tensorflow_1, a_table_of_tensorflow_1, a_table_of_tensorflow_2]


@pytest.mark.parametrize("part", ORDINARY)
def test_what_every_savedmodel_does_is_no_reaching_out(part: Callable[[Model], None], tmp_path: Path) -> None:
    """Restoring and saving the checkpoint and filling tables from assets at load pass the gate."""
    model = Model()
    part(model)
    model.node("Identity", "y", "x")
    graph = model.read(tmp_path)
    assert graph.reaching_out == graph.outside == ()
    assert judge_safety(graph, Safety()).passed


def served_saver(model: Model) -> None:
    model.node("Identity", "y", "save")


def served_restore(model: Model) -> None:
    model.node("StatefulPartitionedCall", "y", "x", calls="restoring")


def restore_of_another_file(model: Model) -> None:
    model.node("Const", "elsewhere")
    model.node("StatefulPartitionedCall", "second", "elsewhere", calls="restoring")


def restore_beside(model: Model) -> None:
    model.graph.library.function[0].node_def.add(op="Const", name="elsewhere")
    model.graph.library.function[0].node_def.add(op="RestoreV2", name="again", input=["elsewhere:output:0"])


def saving_at_load(model: Model) -> None:
    model.at_load("save")


def saving_while_restoring(model: Model) -> None:
    model.graph.library.function[0].node_def.add(op="SaveV2", name="again", input=["prefix"])


def another_implementation(model: Model) -> None:
    swapped = model.function("harmless", "prefix")
    for function in (swapped, model.graph.library.function[0]):
        function.attr["api_implements"].s = b"same"
    model.node("StatefulPartitionedCall", "y", "x", calls="harmless")


def a_gradient(model: Model) -> None:
    model.function("harmless", "prefix")
    model.graph.library.gradient.add(function_name="harmless", gradient_func="restoring")
    model.node("SymbolicGradient", "y", "x", calls="harmless")


def a_function_that_nobody_calls(model: Model) -> None:
    model.node("RestoreV2", "RestoreV2", "prefix", body=model.function("lonely", "prefix"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (served_saver, {("SaveV2", "saving/SaveV2"), ("MergeV2Checkpoints", "saving/Merge")}),
        (served_restore, {("RestoreV2", "restoring/RestoreV2")}),
        (restore_of_another_file, {("RestoreV2", "restoring/RestoreV2")}),
        (restore_beside, {("RestoreV2", "restoring/again")}),
        (saving_at_load, {("SaveV2", "saving/SaveV2"), ("MergeV2Checkpoints", "saving/Merge")}),
        (saving_while_restoring, {("SaveV2", "restoring/again")}),
        (another_implementation, {("RestoreV2", "restoring/RestoreV2")}),
        (a_gradient, {("RestoreV2", "restoring/RestoreV2"), ("SymbolicGradient", "y")}),
        (a_function_that_nobody_calls, {("RestoreV2", "lonely/RestoreV2")}),
    ],
)
def test_the_checkpoint_is_for_the_restore_operation_alone(
    change: Callable[[Model], None], found: set[tuple[str, str]], tmp_path: Path
) -> None:
    """A checkpoint read or written by a request, at initialisation or under another name is an attack, and is named."""
    model = Model()
    a_saver_of_tensorflow_2(model)
    change(model)
    graph = model.read(tmp_path)
    assert set(graph.reaching_out) == found
    result = judge_safety(graph, Safety())
    assert not result.passed
    assert all(f"{op} '{node}'" in result.summary for op, node in found)


def test_savers_of_tensorflow_1_are_told_apart(tmp_path: Path) -> None:
    """A signature that reaches the nodes of a saver is refused, the earlier saver that nothing reaches is not."""
    model = Model()
    a_saver_of_tensorflow_1(model)
    model.node("Identity", "y", "save/RestoreV2:1")
    assert model.read(tmp_path).reaching_out == (("RestoreV2", "save/RestoreV2"),)


def table_of_no_asset(model: Model) -> None:
    model.node("Const", "passwd")
    model.graph.node.add(op="InitializeTableFromTextFileV2", name="steal", input=["table", "passwd"])


def table_at_a_request(model: Model) -> None:
    model.node("InitializeTableFromTextFileV2", "steal", "other", "path")
    model.node("Identity", "y", "x", "^steal")


def variable_of_two_paths(model: Model) -> None:
    model.node("Const", "passwd")
    model.node("AssignVariableOp", "steal", "kept", "passwd")


def variable_in_other_hands(model: Model) -> None:
    model.node("StatefulPartitionedCall", "steal", "kept", calls="restoring")


def variable_under_another_name(model: Model) -> None:
    model.variable("other", dtype=DT_STRING, shared_name="kept")
    model.node("Const", "passwd")
    model.node("AssignVariableOp", "steal", "other", "passwd")


def called_with_another_path(model: Model) -> None:
    model.node("Const", "passwd")
    model.node("StatefulPartitionedCall", "steal", "passwd", "table", calls="filling")


def called_in_a_loop(model: Model) -> None:
    model.node("StatelessWhile", "steal", "read", "table", calls="filling")


def called_by_itself(model: Model) -> None:
    for number in range(30):  # as many ways as no one could follow one by one
        model.graph.library.function[0].node_def.add(op="filling", name=f"again{number}", input=["path", "table"])


def handed_on_for_ever(model: Model) -> None:
    for number in range(2_000):
        model.node("Identity", f"i{number}", f"i{number - 1}" if number else "read")
    model.node("InitializeTableFromTextFileV2", "steal", "table", "i1999")


def without_inputs(model: Model) -> None:
    model.node("InitializeTableFromTextFileV2", "steal")


@pytest.mark.parametrize(
    "change",
    [
        table_of_no_asset,
        table_at_a_request,
        variable_of_two_paths,
        variable_in_other_hands,
        variable_under_another_name,
        called_with_another_path,
        called_in_a_loop,
        called_by_itself,
        handed_on_for_ever,
        without_inputs,
    ],
)
def test_a_table_from_another_file_is_refused(change: Callable[[Model], None], tmp_path: Path) -> None:
    """A table whose file name is anything but an asset, or that is filled at a request, reaches out."""
    model = Model()
    a_table_of_tensorflow_2(model)
    change(model)
    assert {op for op, _ in model.read(tmp_path).reaching_out} == {"InitializeTableFromTextFileV2"}


@pytest.mark.parametrize(
    "op",
    [
        *("ReadFile", "WriteFile", "MatchingFiles", "TFRecordReaderV2", "TFRecordDataset", "TextLineDataset"),
        *("CSVDatasetV2", "SqlDataset", "SaveDatasetV2", "LoadDataset", "CacheDatasetV2", "LoadAndRemapMatrix"),
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "DataServiceDatasetV4", "DistributedSave", "RpcCall"),
        *("CreateSummaryFileWriter", "WriteScalarSummary", "ImportEvent", "DumpTensor", "Abort"),
        *("IO>KafkaReadableInit", "BigtableClient", "GcsConfigureCredentials"),
    ],
)
def test_what_leaves_the_graph_is_found_wherever_it_stands(op: str, tmp_path: Path) -> None:
    """An operation on files, Python, the network or the process is found in the graph and in an uncalled function."""
    model = Model()
    model.node(op, "plain")
    model.node(op, "inner", body=model.function("nobody_calls_this"))
    second = model.saved.meta_graphs.add()
    second.graph_def.node.add(op=op, name="of another tag")
    found = model.read(tmp_path).reaching_out
    assert found == ((op, "nobody_calls_this/inner"), (op, "of another tag"), (op, "plain"))


@pytest.mark.parametrize(
    ("op", "key", "harmless", "leaves"),
    [
        ("PrintV2", "output_stream", ["", "stderr", "log(info)"], ["file:///etc/motd"]),
        ("DecodeProtoV2", "descriptor_source", ["", "local://", "bytes://abc"], ["/etc/passwd"]),
        ("EncodeProto", "descriptor_source", ["", "local://", "bytes://abc"], ["/etc/passwd"]),
        ("FixedUnigramCandidateSampler", "vocab_file", [""], ["/etc/passwd"]),
    ],
)
def test_some_leave_by_an_attribute(op: str, key: str, harmless: list[str], leaves: list[str], tmp_path: Path) -> None:
    """Printing, protocol buffers and samplers leave the graph only where an attribute names a file."""
    for number, (texts, count) in enumerate([(harmless, 0), (leaves, len(leaves))]):
        model = Model()
        for index, text in enumerate(texts):
            model.node(op, f"n{index}", **{key: text})
        assert len(model.read(tmp_path / str(number)).reaching_out) == count


def test_debugging_is_refused_and_the_log_is_not(tmp_path: Path) -> None:
    """An operation for debuggers is refused with and without an address; a line of the server's own log is harmless."""
    model = Model()
    model.node("DebugIdentity", "quiet")
    model.node("DebugIdentityV3", "loud").attr["debug_urls"].list.s.append(b"grpc://elsewhere:1")
    model.node("Print", "y", "x")
    assert model.read(tmp_path).reaching_out == (("DebugIdentity", "quiet"), ("DebugIdentityV3", "loud"))


@pytest.mark.parametrize("name", ["/etc/passwd", "../2/words.txt", "a/../../b", "", "a\0b", "a\nb"])
def test_an_asset_outside_is_refused(name: str, tmp_path: Path) -> None:
    """An asset's name that is absolute or climbs out of `assets/` is refused; the twin inside is not."""
    model = Model()
    model.asset("path:0", name)
    result = judge_safety(model.read(tmp_path / "bad"), Safety())
    assert not result.passed
    assert f"asset '{ascii(name)[1:-1]}'" in result.summary
    model.meta.asset_file_def[0].filename = "a/b.txt"
    assert judge_safety(model.read(tmp_path / "good"), Safety()).passed


def test_assets_of_tensorflow_1_are_looked_at(tmp_path: Path) -> None:
    """Assets that only stand in the collection of TensorFlow 1 are assets too."""
    model = Model()
    model.asset("path:0", "../words.txt")
    packed = model.meta.collection_def["saved_model_assets"].any_list.value.add()
    packed.Pack(model.meta.asset_file_def[0])
    del model.meta.asset_file_def[:]
    assert model.read(tmp_path).outside == ("asset '../words.txt'",)


def test_links_and_pipes_are_outside(tmp_path: Path) -> None:
    """A link, to a file or a directory, and a pipe are named; their bytes are not counted."""
    model = Model()
    version_dir = tmp_path / "1"
    (version_dir / "variables").mkdir(parents=True)
    (version_dir / "variables" / "variables.index").write_bytes(b"12345")
    plain = model.read(version_dir)
    (version_dir / "variables" / "variables.data").symlink_to("/etc/passwd")
    (version_dir / "assets").symlink_to(tmp_path)
    os.mkfifo(version_dir / "pipe")
    graph = model.read(version_dir)
    assert graph.outside == ("assets", "pipe", "variables/variables.data")
    assert replace(graph, outside=()) == plain
    assert plain.variables_bytes == 5
    assert plain.total_bytes == plain.graph_bytes + 5
    assert not judge_safety(graph, Safety()).passed


def test_parameters_are_those_that_serve(tmp_path: Path) -> None:
    """Numbers that a signature reaches count once a shared name; text, unknown shapes and what only is saved do not."""
    model = Model()
    model.variable("w", 3, 4, shared_name="w")
    model.variable("w_again", 3, 4, shared_name="w")
    model.variable("b", 4)
    model.variable("scalar")
    model.variable("unknown", -1, 4)
    model.variable("text", 9, dtype=DT_STRING)
    model.variable("momentum", 3, 4)
    model.node("StatefulPartitionedCall", "y", "w", "w_again", "b", "scalar", "unknown", "text", calls="f")
    model.function("f")
    assert model.read(tmp_path).parameters == 12 + 4 + 1


@pytest.mark.parametrize("version_dir", RECORDED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_recorded_models_pass(version_dir: Path) -> None:
    """Models exported by Keras and TensorFlow, of both formats, reach out nowhere."""
    graph = read_graph(version_dir)
    assert judge_safety(graph, Safety()).passed
    assert graph.total_bytes == sum(path.stat().st_size for path in version_dir.rglob("*") if path.is_file())


def test_recorded_models_are_there() -> None:
    """The recorded models are found, so the test above proves something."""
    assert len(RECORDED) > 10


def test_reading_leaves_no_stand_in() -> None:
    """Reading needs no TensorFlow, and leaves nothing behind that would pass for it."""
    code = (
        "import sys; from pathlib import Path; from tasks.savedmodel.safety import read_graph; "
        f"read_graph(Path({str(RECORDED[0])!r})); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def nothing(version_dir: Path) -> None:
    (version_dir / "saved_model.pb").unlink()


def only_text(version_dir: Path) -> None:
    (version_dir / "saved_model.pb").rename(version_dir / "saved_model.pbtxt")


def chunks(version_dir: Path) -> None:
    (version_dir / "saved_model.cpb").write_bytes(b"")


def garbage(version_dir: Path) -> None:
    (version_dir / "saved_model.pb").write_bytes(b"\xff" * 100)


def empty(version_dir: Path) -> None:
    (version_dir / "saved_model.pb").write_bytes(b"")


def pipe(version_dir: Path) -> None:
    nothing(version_dir)
    os.mkfifo(version_dir / "saved_model.pb")


def huge(version_dir: Path) -> None:
    os.truncate(version_dir / "saved_model.pb", 2**31)  # a hole: no byte is written or read


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nothing, "must contain saved_model.pb, got none in"),
        (only_text, "got none, but a saved_model.pbtxt"),
        (chunks, "must be in saved_model.pb, got a saved_model.cpb"),
        (garbage, "must be a valid SavedModel"),
        (empty, "must contain a graph"),
        (pipe, "must contain saved_model.pb"),
        (huge, r"must be smaller than 2 GB.*got 2\.1 GB"),
    ],
)
def test_what_cannot_be_read_is_an_error(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    """A graph that cannot be looked into is no verdict but an ExportError of one line."""
    Model().read(tmp_path)
    damage(tmp_path)
    with pytest.raises(ExportError, match=words) as caught:
        read_graph(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["graph", "function", "library"])
def test_a_name_that_occurs_twice_is_an_error(where: str, tmp_path: Path) -> None:
    """Two nodes or functions of one name are refused, for only one of them would be looked at."""
    model = Model()
    body = model.function("f")
    if where == "library":
        model.function("f")
    for op in ("NoOp", "ReadFile"):
        model.node(op, "twice" if where != "library" else op, body=body if where == "function" else None)
    with pytest.raises(ExportError, match="must be unique, got two of"):
        model.read(tmp_path)


def test_allowed_operations_pass_and_are_named() -> None:
    """`allow_ops` lets exactly what it names through, and the summary says so."""
    graph = replace(CLEAN, reaching_out=(("ReadFile", "f/a"), ("ReadFile", "b"), ("PyFunc", "p")))
    refused = judge_safety(graph, Safety(allow_ops=("ReadFile",)))
    assert not refused.passed
    assert refused.summary.startswith("operations must not reach outside the graph, got PyFunc 'p'; ")
    assert "gates.safety.allow_ops" in refused.summary
    assert refused.figures["reaching_out"] == 1
    allowed = judge_safety(graph, Safety(allow_ops=("ReadFile", "PyFunc")))
    assert allowed.passed
    assert "gates.safety.allow_ops permits PyFunc, ReadFile" in allowed.summary


def test_many_operations_are_counted_not_listed() -> None:
    """The summary names five operations and counts the rest; the evidence has them all."""
    graph = replace(CLEAN, reaching_out=tuple(("ReadFile", str(n)) for n in range(9)))
    result = judge_safety(graph, Safety())
    assert "ReadFile '4' and 4 more;" in result.summary
    assert result.figures["reaching_out"] == 9
    assert len(result.evidence["reaching_out"]) == 9


@pytest.mark.parametrize(
    ("safety", "words"),
    [
        (Safety(max_graph_mb=0.9), "graph_mb is 1, above the limit of 0.9; raise gates.safety.max_graph_mb"),
        (Safety(max_variables_mb=1.9), "variables_mb is 2, above the limit of 1.9; raise gates.safety"),
    ],
)
def test_bounds_on_bytes(safety: Safety, words: str) -> None:
    """A graph or variables above their bound fail with the setting's name; at the bound, and with none, they pass."""
    result = judge_safety(CLEAN, safety)
    assert not result.passed
    assert words in result.summary
    assert judge_safety(CLEAN, Safety(max_graph_mb=1, max_variables_mb=2)).passed
    unbounded = judge_safety(CLEAN, Safety())
    assert unbounded.passed
    assert set(unbounded.bounds) == {"reaching_out", "graph_mb"}
    assert unbounded.units == {"graph_mb": "MB", "variables_mb": "MB"}
