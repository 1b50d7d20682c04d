"""Sizes, judged before contents: by the file's bytes and by its records."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.sections.gates import Safety
from tasks.errors import ExportError
from tasks.gates.safety import judge_safety
from tasks.model_server.tf_protos import message_module
from tasks.savedmodel import prescan
from tasks.savedmodel.prescan import DamagedError, TooMuchError, count_records
from tasks.savedmodel.safety import read_graph
from tests.data.hand_written import Model

SAVED_MODEL = message_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel


def counted(message: Any) -> dict[str, int]:
    return count_records(message.SerializeToString(), SAVED_MODEL.DESCRIPTOR)


def test_nodes_functions_and_records_are_counted() -> None:
    """Nodes of the graph and of functions are counted, and every field of every message is a record."""
    saved = SAVED_MODEL()
    assert counted(saved) == {"records": 0, "nodes": 0, "functions": 0}
    graph = saved.meta_graphs.add().graph_def
    graph.node.add(name="a", op="Const").attr["value"].tensor.string_val.extend([b"x", b"y"])
    function = graph.library.function.add()
    function.node_def.add(name="b")
    # the graph's: meta_graph, graph_def, node, name, op, attr, key, value, tensor, 2 texts; the library's: 5 more
    assert counted(saved) == {"records": 11 + 4, "nodes": 2, "functions": 1}


def test_counting_agrees_with_parsing() -> None:
    """In the recorded models as many nodes are counted as are parsed."""
    paths = sorted(Path("tests/data").rglob("saved_model.pb"))
    assert len(paths) > 10
    for path in paths:
        saved = SAVED_MODEL.FromString(path.read_bytes())
        graphs = [meta.graph_def for meta in saved.meta_graphs]
        bodies = [body for graph in graphs for body in (graph.node, *(f.node_def for f in graph.library.function))]
        found = count_records(path.read_bytes(), SAVED_MODEL.DESCRIPTOR)
        assert found["nodes"] == sum(map(len, bodies))
        assert found["functions"] == sum(len(graph.library.function) for graph in graphs)


@given(st.binary(max_size=60))
def test_any_bytes_are_counted_or_refused(data: bytes) -> None:
    """What protocol buffers parse is counted; other bytes may be refused, with no other error."""
    try:
        count_records(data, SAVED_MODEL.DESCRIPTOR)
    except (DamagedError, TooMuchError):
        return


def tiny_nodes(saved: Any) -> None:
    for _ in range(11):
        saved.meta_graphs.add().graph_def.node.add()


def tiny_functions(saved: Any) -> None:
    for _ in range(6):
        saved.meta_graphs.add().graph_def.library.function.add()


def many_texts(saved: Any) -> None:
    saved.meta_graphs.add().graph_def.node.add().attr["a"].list.s.extend([b""] * 200)


def many_sizes(saved: Any) -> None:
    shape = saved.meta_graphs.add().graph_def.node.add().attr["a"].shape
    for _ in range(200):
        shape.dim.add()


def deep_attributes(saved: Any) -> None:
    inner = saved.meta_graphs.add().graph_def.node.add().attr["a"].func
    for _ in range(12):
        inner = inner.attr["a"].func


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (tiny_nodes, "more than 10 nodes"),
        (tiny_functions, "more than 5 functions"),
        (many_texts, "more than 100 fields"),
        (many_sizes, "more than 100 fields"),
        (deep_attributes, "messages that are nested deeper than 30 levels"),
    ],
)
def test_more_than_any_model_needs_is_refused(
    fill: Callable[[Any], None], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Too many nodes, functions, fields or levels are a verdict, before the file is parsed; at the limit it passes."""
    monkeypatch.setattr(prescan, "MAX_RECORDS", 100)
    monkeypatch.setattr(prescan, "MAX_DEPTH", 30)
    monkeypatch.setattr(prescan, "LIMITS", {"nodes": 10, "functions": 5})
    saved = SAVED_MODEL()
    fill(saved)
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    graph = read_graph(tmp_path)
    assert graph.unclear == (f"saved_model.pb has {words}",)
    result = judge_safety(graph, Safety())
    assert not result.passed
    assert words in result.summary
    fits = SAVED_MODEL()
    for _ in range(10):
        fits.meta_graphs.add().graph_def.node.add()
    assert counted(fits)["nodes"] == 10


def test_real_limits_leave_room() -> None:
    """The limits are those of the documentation, and far above what Keras' own models need."""
    assert prescan.LIMITS == {"nodes": 200_000, "functions": 20_000}
    assert prescan.MAX_RECORDS == 4_000_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x12", "does not end"),
        (b"\x12\x05abc", "beyond its message"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "does not end"),
        (b"\x13", "of the unknown kind 3"),
        (b"\x0d\x00", "beyond its message"),
        (b"\x12\x02\x12\x05", "beyond its message"),
        (b"\x80", "does not end"),
    ],
)
def test_bytes_that_are_no_message_are_an_error(data: bytes, words: str, tmp_path: Path) -> None:
    """Truncated and invalid files are one line that names the file."""
    with pytest.raises(DamagedError, match=words):
        count_records(data, SAVED_MODEL.DESCRIPTOR)
    (tmp_path / "saved_model.pb").write_bytes(data)
    with pytest.raises(ExportError, match="must be a valid SavedModel, got a") as caught:
        read_graph(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    """A file that was cut at any byte is an error of one line, or the shorter model that its bytes are."""
    model = Model()
    model.node("Identity", "y", "file")
    model.read(tmp_path)
    whole = (tmp_path / "saved_model.pb").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "saved_model.pb").write_bytes(whole[:length])
        with pytest.raises(ExportError):
            read_graph(tmp_path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """A file above `max_graph_mb` is a verdict by its size alone: its bytes, a hole of 3 GB, are never read."""
    (tmp_path / "saved_model.pb").touch()
    os.truncate(tmp_path / "saved_model.pb", 3_000_000_000)
    graph = read_graph(tmp_path, Safety().max_graph_mb * 1e6)
    assert graph.unclear == ("saved_model.pb has 3,000 MB, more than the 256 MB that are examined",)
    result = judge_safety(graph, Safety())
    assert not result.passed
    assert "raise gates.safety.max_graph_mb" in result.summary
    assert not judge_safety(graph, Safety(max_graph_mb=10_000)).passed
