"""Reads from the files of a SavedModel what it contains and what it would do, without loading or running it.

Sizes are checked before contents: first the size of the file, then the number of its nodes by a scan of its records.
Only then does protobuf parse it.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf.message import DecodeError

from tasks.datasets.seen import RECORD
from tasks.errors import ExportError
from tasks.model_server.tf_protos import message_module
from tasks.records import GraphFacts
from tasks.savedmodel.files import walk
from tasks.savedmodel.graph import Graph, assets
from tasks.savedmodel.nodes import HANDLES, is_handle
from tasks.savedmodel.operations import group_of
from tasks.savedmodel.prescan import DamagedError, TooMuchError, count_records

MAX_PB_BYTES = 2**31 - 1  # the limit of protobuf
MB = 1e6


def read_graph(version_dir: Path, max_bytes: float = inf) -> GraphFacts:
    """Return the facts about a SavedModel's files, with all of its meta graphs and functions.

    `parameters` counts only the variables that a signature reaches, because Keras writes each weight up to three
    times. A graph that is too large to be examined is `unclear`.

    Args:
        version_dir: the directory of the SavedModel.
        max_bytes: the largest saved_model.pb that is examined.

    Raises:
        ExportError: there is no readable saved_model.pb.
    """
    files = _file_facts(version_dir)
    try:
        meta_graphs = parse_graph(graph_file(version_dir), max_bytes).meta_graphs
    except TooMuchError as exc:
        return replace(files, unclear=(f"saved_model.pb has {exc}",))
    reaching_out: set[tuple[str, str]] = set()
    unclear = {"saved_model.pbtxt beside saved_model.pb"} if (version_dir / "saved_model.pbtxt").exists() else set()
    variables: dict[str, int] = {}
    outside = set(files.outside)
    for meta in meta_graphs:
        graph = Graph(meta)
        reaching_out |= set(graph.reaching_out())
        unclear |= {*graph.unclear, *_unknown(meta)}
        variables |= graph.variables()
        outside |= {f"asset '{name}'" for _, name in assets(meta) if _escapes(name)}
    return replace(
        files,
        reaching_out=tuple(sorted(reaching_out)),
        outside=tuple(sorted(outside)),
        parameters=sum(variables.values()),
        unclear=tuple(sorted(unclear)),
        reasons={op: (group_of(op).name, group_of(op).reason) for op, _ in reaching_out},
    )


def _file_facts(version_dir: Path) -> GraphFacts:
    """Return the facts that follow from the names and sizes of the files."""
    entries = list(walk(version_dir))
    sizes = {entry.name: entry.size for entry in entries if not entry.odd}
    return GraphFacts(
        reaching_out=(),
        outside=tuple(sorted(entry.name for entry in entries if entry.odd)),
        graph_bytes=sizes.get("saved_model.pb", 0),  # 0 for a link, which `outside` reports
        variables_bytes=sum(size for path, size in sizes.items() if path.startswith("variables/")),
        total_bytes=sum(size for path, size in sizes.items() if path != RECORD.as_posix()),  # it grows with the data
        parameters=0,
    )


def graph_file(version_dir: Path) -> Path:
    """Return `saved_model.pb`.

    Raises:
        ExportError: the file is missing, or TensorFlow would read another file instead.
    """
    path = version_dir / "saved_model.pb"
    if (version_dir / "saved_model.cpb").exists():  # TensorFlow prefers it to the .pb file
        raise ExportError(
            f"the graph of a SavedModel must be in saved_model.pb, got a saved_model.cpb in '{version_dir}'; remove it"
        )
    if not path.is_file():
        text = ", but a saved_model.pbtxt" if (version_dir / "saved_model.pbtxt").exists() else ""
        raise ExportError(
            f"a SavedModel must contain saved_model.pb, got none{text} in '{version_dir}'; export the model again"
        )
    return path


def parse_graph(path: Path, max_bytes: float) -> Any:
    """Read `saved_model.pb`.

    Raises:
        TooMuchError: the file is larger than `max_bytes`, or has more records than any model needs.
        ExportError: the file is too large for protobuf, or damaged.
    """
    message = message_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise TooMuchError(f"{size / MB:,.0f} MB, more than the {max_bytes / MB:,.0f} MB that are examined")
        if size > MAX_PB_BYTES:
            raise ExportError(
                f"saved_model.pb must be smaller than 2 GB, the limit of protobuf, got {size / 1e9:.1f} GB; store "
                "large arrays in variables or assets, not in constants"
            )
        data = path.read_bytes()
        count_records(data, message.DESCRIPTOR)
        message.ParseFromString(data)
        for meta in message.meta_graphs:
            assets(meta)
    except (OSError, DecodeError, DamagedError) as exc:
        raise ExportError(f"'{path}' must be a valid SavedModel, got {exc}; export the model again") from exc
    if not message.meta_graphs:
        raise ExportError(f"'{path}' must contain a graph, got a SavedModel without one; export the model again")
    return message


def _unknown(meta: Any) -> list[str]:
    """Return descriptions of unknown fields in a meta graph, and of handles that a signature would forge."""
    size = meta.ByteSize()
    meta.DiscardUnknownFields()
    found = ["fields that are unknown to TensorFlow 2.21"] if meta.ByteSize() != size else []
    defaults = [value for signature in meta.signature_def.values() for value in signature.defaults.values()]
    fed = [info for signature in meta.signature_def.values() for info in signature.inputs.values()]
    found += ["handles of resources among a signature's defaults"] if any(map(is_handle, defaults)) else []
    return found + (["handles of resources among a signature's inputs"] if any(map(_takes_handles, fed)) else [])


def _takes_handles(info: Any) -> bool:
    """Return whether a client could send resources or variants in an input or in a part of it."""
    return info.dtype in HANDLES or any(map(_takes_handles, info.composite_tensor.components))


def _escapes(file_name: str) -> bool:
    """Return whether a path below `assets/` leads out of it, or has characters that may change its meaning."""
    path = PurePosixPath(file_name)
    return path.is_absolute() or ".." in path.parts or not path.parts or not file_name.isprintable()
