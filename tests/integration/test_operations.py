"""The table of operations against the registry of the installed TensorFlow."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tasks.model_server.tf_protos import message_module
from tasks.savedmodel.operations import CALLS, RESTORING, TABLES_FROM_FILES, UNKNOWN, classification, group_of, misspelt

REGISTRY = """
import ctypes, sys
from tasks.model_server.tf_library import Buffer, library
from tasks.model_server.tf_protos import tensorflow_dir
library()
loaded = ctypes.PyDLL(str(tensorflow_dir() / "libtensorflow_cc.so.2"))
loaded.TF_GetAllOpList.restype = ctypes.POINTER(Buffer)
listed = loaded.TF_GetAllOpList().contents
sys.stdout.buffer.write(ctypes.string_at(listed.data, listed.length))
"""

# What the text attributes and text inputs of an operation that is allowed are, where their name sounds like a path, an
# address, a program or a name that others share. A release of TensorFlow that brings another fails the test below: look
# at it, then add it here, or take its operation out of those that are harmless.
LOOKED_AT = {
    "checkpoint_prefixes": "by place",
    "compression_type": "one of three names, of what is done to bytes in memory",
    "config": "looked into: no optimizers, no machines",
    "config_proto": "looked into: no optimizers, no machines",
    "container": "a part of the name below",
    "allowed_devices": "where a variable may lie, among the devices of the session",
    "delimiter": "one character",
    "descriptor_source": "looked into: no file",
    "destination_prefix": "by place",
    "executor_type": "looked into: the usual one",
    "file_pattern": "by place",
    "filename": "by place",
    "handle": "a resource or a variant, which only the graph itself can make",
    "output_stream": "looked into: the server's own log",
    "pattern": "a regular expression",
    "prefix": "by place",
    "resource": "a variable, or a generator's state, which only the graph itself can make",
    "serialized": "examples and arrays, which are data; no graph",
    "serialized_sparse": "arrays",
    "shared_name": "of a resource in the model's own session",
    "source": "of a TensorArray's gradient, in the same request",
    "table_handle": "of a table, which only the graph itself can make; as text, by place",
    "tensor_array_name": "of an array of one request",
    "vocab_file": "looked into: none",
}
SOUNDING = re.compile(
    "file|path|(^|_)dir($|_)|director|addr|url|prefix|pattern|descriptor|ckpt|checkpoint|writer|stream|module|program"
    "|serialized|graph|proto|plugin|library|shared_name|container|device|config|executor|source|region|target|handle"
    "|array_name|compression|delimiter"
)
DT_STRING, DT_RESOURCE, DT_VARIANT = 7, 20, 21


@cache
def registry() -> dict[str, Any]:
    """Return the operations of TensorFlow's C library, as a model server has them."""
    listed = subprocess.run([sys.executable, "-c", REGISTRY], check=True, stdout=subprocess.PIPE).stdout
    return {op.name: op for op in message_module("tensorflow.core.framework.op_def_pb2").OpList.FromString(listed).op}


def test_the_table_is_the_registry() -> None:
    """Every operation of the installed TensorFlow is classified, and nothing else is."""
    assert classification().keys() == registry().keys()
    assert len(registry()) > 1500


def test_what_importing_tensorflow_adds_is_refused() -> None:
    """Operations that only `import tensorflow` registers are in no model server, and are refused as unknown ones."""
    import tensorflow as tf  # noqa: F401 - registers the operations
    from tensorflow.python.client import pywrap_tf_session

    listed = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    names = {op.name for op in message_module("tensorflow.core.framework.op_def_pb2").OpList.FromString(listed).op}
    assert len(names - registry().keys()) > 50
    assert {group_of(name) for name in names - registry().keys()} == {UNKNOWN}


def test_every_group_says_why() -> None:
    """Each group has a name, one of the four judgements and a reason that is a sentence; each judgement is used."""
    groups = set(classification().values())
    assert {group.judged for group in groups} == {"harmless", "by place", "by attribute", "refused"}
    assert all(group.name and group.reason.endswith(".") and len(group.reason) > 20 for group in groups)
    by_place = {op for op, group in classification().items() if group.judged == "by place"}
    assert by_place == RESTORING | TABLES_FROM_FILES | {
        "Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints", "ShardedFilename",
    }  # fmt: skip
    assert {group_of(op).judged for op in CALLS} == {"by attribute"}


def allowed() -> list[Any]:
    return [op for name, op in registry().items() if group_of(name).judged != "refused"]


def test_each_text_of_what_is_allowed_was_looked_at() -> None:
    """Attributes and inputs that sound like a path, an address, a program or a shared name are known, one by one."""
    sounding = set()
    for op in allowed():
        texts = {attr.name for attr in op.attr if attr.type in {"string", "list(string)"}}
        texts |= {arg.name for arg in op.input_arg if arg.type in {DT_STRING, DT_RESOURCE}}
        sounding |= {text for text in texts if SOUNDING.search(text)}
    assert sounding == LOOKED_AT.keys()


def test_values_of_any_type_come_from_what_is_judged_by_it() -> None:
    """What makes values of a type that the file names, out of nothing or out of bytes, is judged by that type."""
    making = set()
    for op in allowed():
        handed = {name for arg in op.input_arg for name in (arg.type_attr, arg.type_list_attr)}
        from_handles = any(arg.type in {DT_RESOURCE, DT_VARIANT} for arg in op.input_arg)
        free = {attr.name for attr in op.attr if {DT_RESOURCE, DT_VARIANT} & set(attr.allowed_values.list.type)}
        free |= {attr.name for attr in op.attr if not attr.allowed_values.list.type}
        named = {name for arg in op.output_arg for name in (arg.type_attr, arg.type_list_attr)} & free - handed - {""}
        if named and not from_handles and group_of(op.name).name != "control flow" and op.name not in CALLS:
            making.add(op.name)
    by_type = {op.name for op in allowed() if group_of(op.name).name == "values of a type"}
    numbers = {"Cast", "NonDeterministicInts", "DecodeProtoV2"}  # their kernels know numbers and text alone
    stored = {"Variable", "VariableV2"}  # what was assigned to them, or restored
    made = {"SerializeSparse", "SerializeManySparse"}  # a variant of what was handed in
    assert making == (by_type - {"PlaceholderWithDefault"}) | RESTORING | numbers | stored | made


def test_functions_are_named_by_control_flow_alone() -> None:
    """Of what is allowed only branches, loops and calls name functions, which are looked for in the file itself."""
    naming = {op.name for op in allowed() for attr in op.attr if "func" in attr.type}
    assert naming == {"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"} | CALLS


@pytest.mark.parametrize(
    ("ops", "meant"),
    [
        (["ReadFile", "WriteFile"], {}),
        (["ReadFle", "PyFunk"], {"ReadFle": "ReadFile", "PyFunk": "PyFunc"}),
        (["readfile", "SentencepieceOp"], {"readfile": "ReadFile"}),
        (["TFText>RegexSplitWithOffsets"], {}),
    ],
)
def test_misspelt_names_are_told_from_custom_ones(ops: list[str], meant: dict[str, str]) -> None:
    """A name that is almost an operation of TensorFlow is misspelt; another is a custom operation's."""
    assert misspelt(ops) == meant
