"""SavedModels that are written by hand, node by node, for what no exporter would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.model_server.tf_protos import message_module
from tasks.records import GraphFacts
from tasks.savedmodel.safety import read_graph

DT_FLOAT, DT_STRING = 1, 7


class Model:
    """A SavedModel as a server would get it: `serving_default` is output `y`, a checkpoint is restored and saved."""

    def __init__(self) -> None:
        self.saved = message_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
        self.meta = self.saved.meta_graphs.add()
        self.graph = self.meta.graph_def
        self.meta.signature_def["serving_default"].outputs["y"].name = "y:0"
        self.meta.saver_def.filename_tensor_name = "file:0"
        self.meta.saver_def.save_tensor_name = "save:0"
        self.meta.saver_def.restore_op_name = "restore"
        self.node("Placeholder", "file")

    def node(self, op: str, name: str, *inputs: str, body: Any = None, calls: str = "", **texts: str) -> Any:
        """Add a node to the graph or to a function's body."""
        added = (self.graph.node if body is None else body.node_def).add(op=op, name=name, input=inputs)
        if calls:
            added.attr["f"].func.name = calls
        for key, text in texts.items():
            added.attr[key].s = text.encode()
        return added

    def function(self, name: str, *arguments: str) -> Any:
        added = self.graph.library.function.add()
        added.signature.name = name
        for argument in arguments:
            added.signature.input_arg.add(name=argument)
        return added

    def asset(self, tensor: str, filename: str) -> None:
        added = self.meta.asset_file_def.add(filename=filename)
        added.tensor_info.name = tensor

    def at_load(self, name: str) -> None:
        self.meta.collection_def["saved_model_main_op"].node_list.value.append(name)

    def variable(self, name: str, *shape: int, dtype: int = DT_FLOAT, shared_name: str = "") -> None:
        added = self.node("VarHandleOp", name, shared_name=shared_name)
        added.attr["dtype"].type = dtype
        added.attr["shape"].shape.SetInParent()
        for size in shape:
            added.attr["shape"].shape.dim.add(size=size)

    def read(self, directory: Path) -> GraphFacts:
        """Write the model and read it back."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "saved_model.pb").write_bytes(self.saved.SerializeToString())
        return read_graph(directory)


def a_saver_of_tensorflow_2(model: Model) -> None:
    """Add what every SavedModel has: functions that save and restore under the name that the server feeds."""
    model.node("StatefulPartitionedCall", "restore", "file", calls="restoring")
    model.node("StatefulPartitionedCall", "save", "file", calls="saving")
    model.node("RestoreV2", "RestoreV2", "prefix", body=model.function("restoring", "prefix"))
    saving = model.function("saving", "prefix")
    model.node("StringJoin", "part", "prefix", body=saving)
    model.node("SaveV2", "SaveV2", "part:output:0", body=saving)
    model.node("MergeV2Checkpoints", "Merge", "part:output:0", "prefix", body=saving)


def a_saver_of_tensorflow_1(model: Model) -> None:
    """Add nodes that save and restore, and those of an earlier saver that nothing reaches."""
    model.node("SaveV2", "save/SaveV2", "file")
    model.node("Identity", "save", "file", "^save/SaveV2")
    model.node("RestoreV2", "save/RestoreV2", "file")
    model.node("Assign", "assign", "w", "save/RestoreV2")
    model.node("NoOp", "restore", "^assign")
    model.node("SaveV2", "old/SaveV2", "old/file")
    model.node("RestoreV2", "old/RestoreV2", "old/file")


def a_table_of_tensorflow_1(model: Model) -> None:
    """Add a table that is filled from an asset at load."""
    model.node("Const", "vocabulary")
    model.asset("vocabulary:0", "words.txt")
    model.node("InitializeTableFromTextFileV2", "fill", "table", "vocabulary")
    model.node("NoOp", "init", "^fill")
    model.at_load("init")


def a_table_of_tensorflow_2(model: Model) -> None:
    """Add a table whose asset's path is kept in a variable and handed to a function."""
    model.node("Placeholder", "path")
    model.asset("path:0", "words.txt")
    model.variable("kept", dtype=DT_STRING, shared_name="kept")
    model.node("AssignVariableOp", "assign", "kept", "path")
    model.node("ReadVariableOp", "read", "kept", "^assign")
    model.node("StatefulPartitionedCall", "call", "read", "table", calls="filling")
    filling = model.function("filling", "path", "table")
    model.node("InitializeTableFromTextFileV2", "fill", "table", "path", body=filling)
    model.node("NoOp", "init", "^call", "^assign")
    model.meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "init"
