"""A SavedModel that was made elsewhere, as a candidate: its bytes stay as they are; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from tasks.datasets.bodies import predict_body
from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.references import translated
from tasks.datasets.rows import Array, load_arrays, load_rows, save_arrays
from tasks.datasets.strings import as_bytes
from tasks.errors import DataError, ExportError, SignatureMismatch
from tasks.records import Signature, Splits, TensorSpec
from tasks.savedmodel.exporter import EXAMPLE_ROWS, Exported
from tasks.savedmodel.in_process import save_reference
from tasks.savedmodel.manifest import write_manifest
from tasks.savedmodel.prescan import TooMuchError
from tasks.savedmodel.safety import MB, graph_file, parse_graph
from tasks.savedmodel.transport import check_transport
from tasks.savedmodel.warmup import WARMUP, write_warmup

DEFAULT = "serving_default"
INIT = "__saved_model_init_op"  # what runs at load; no client can ask for it


def adopt_savedmodel(
    config: Config, splits: Splits, directory: Path, evidence: Path, signature_name: str
) -> Exported:
    """Write the requests for a SavedModel, and into it a warm-up file, unless there is one, and a manifest.

    The graph is not loaded: whether it may be is the safety gate's to say.

    Args:
        directory: a copy of the SavedModel. evidence: as of `export_savedmodel`; `reference.npz` is empty.
        signature_name: empty for `serving_default`, or the only one.

    Raises:
        ExportError: the SavedModel cannot be read.
        SignatureMismatch: there is no such signature. DataError: the rows do not fit its inputs.
    """
    signature = read_signature(directory, signature_name, config.gates.safety.max_graph_mb * MB)
    check_transport(signature, config)
    requests = fit_to_inputs(_features(config, splits, signature), signature.inputs)
    save_arrays(evidence / "requests.npz", requests)
    body = predict_body({name: rows[:EXAMPLE_ROWS] for name, rows in requests.items()}, signature.name)
    (evidence / "example.json").write_bytes(body)
    save_arrays(evidence / "reference.npz", {})
    if not (directory / WARMUP).exists():
        write_warmup(directory, config.name, signature, requests, config.export.warmup_rows)
    manifest = write_manifest(directory)
    return Exported(signature, manifest.digest, manifest.size_bytes)


def save_own_answers(directory: Path, signature: Signature, evidence: Path) -> None:
    """Load a SavedModel, whose graph has been found harmless, and write what it answers in this process.

    Raises:
        ExportError: it does not load, or does not answer.
    """
    save_reference(evidence, _loaded(directory, signature), load_arrays(evidence / "requests.npz"), signature)


def _features(config: Config, splits: Splits, signature: Signature) -> dict[str, Array]:
    """Return the features by the name of their input; `export.inputs` says which one an input of another name takes."""
    features = dict(load_rows(splits.test).features)
    renamed = config.export.inputs
    unknown = [name for name in renamed.values() if name not in features]
    if unknown:
        known = _listed(features)
        raise DataError(f"export.inputs must name features of the rows, got '{unknown[0]}'; they are {known}")
    if len(signature.inputs) == 1 and not renamed:
        return features
    return {spec.name: features[renamed.get(spec.name, spec.name)] for spec in signature.inputs
            if renamed.get(spec.name, spec.name) in features}  # fmt: skip


def read_signature(directory: Path, name: str, max_bytes: float = inf) -> Signature:
    """Return a signature of a SavedModel as its file says it; the graph is not loaded.

    Raises:
        ExportError: there is no graph with the tag `serve`, or saved_model.pb is larger than `max_bytes`.
        SignatureMismatch: there is no such signature, or none can be chosen.
    """
    try:
        saved = parse_graph(graph_file(directory), max_bytes)
    except TooMuchError as exc:  # its size is judged before its contents, here as by the gate
        raise ExportError(f"a SavedModel must be small enough to look into, and saved_model.pb has {exc}") from exc
    graph = next((meta for meta in saved.meta_graphs if "serve" in meta.meta_info_def.tags), None)
    if graph is None:
        tags = [", ".join(meta.meta_info_def.tags) or "no tag" for meta in saved.meta_graphs]
        raise ExportError(f"a SavedModel must have a graph with the tag 'serve', got {'; '.join(tags) or 'no graph'}")
    found = {key: value for key, value in graph.signature_def.items() if key != INIT and value.outputs}
    chosen = name or (DEFAULT if DEFAULT in found else next(iter(found), "") if len(found) == 1 else "")
    if chosen not in found:
        rule = f"--signature must name a signature of the SavedModel, got '{name}'" if name else (
            "a SavedModel must have the signature 'serving_default' or only one; name one by --signature")  # fmt: skip
        raise SignatureMismatch(f"{rule}; it has {_listed(found) or 'none: export it with a signature'}")
    definition = found[chosen]
    sides = (definition.inputs, definition.outputs)
    inputs, outputs = (tuple(_spec(key, info) for key, info in sorted(side.items())) for side in sides)
    if not inputs:
        raise SignatureMismatch(f"the signature '{chosen}' must have an input, and has none")
    return Signature(inputs, outputs, chosen)


def _spec(name: str, info: Any) -> TensorSpec:
    """Return a tensor of a signature; one of several parts, as a ragged or sparse one, cannot be served by name."""
    import tensorflow as tf

    if info.WhichOneof("encoding") != "name":
        raise SignatureMismatch(f"'{name}' of the signature must be a dense tensor, as TensorFlow Serving takes")
    shape = info.tensor_shape
    extents = None if shape.unknown_rank else tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    return TensorSpec(name, tf.dtypes.as_dtype(info.dtype).name, extents)


def _loaded(directory: Path, signature: Signature) -> Any:
    """Return the SavedModel's own answers as a function of a batch."""
    import tensorflow as tf

    with translated("TensorFlow must load the SavedModel", ExportError):
        loaded = tf.saved_model.load(str(directory))
        function = loaded.signatures[signature.name]
    return partial(_answer, function, loaded)


def _answer(function: Any, _kept_alive: Any, block: Mapping[str, Array]) -> dict[str, Array]:
    import tensorflow as tf

    n_rows = len(next(iter(block.values())))
    with translated(f"the SavedModel must answer a batch of {n_rows}", ExportError):
        tensors = {name: tf.constant(as_bytes(rows)) for name, rows in block.items()}
        found = {name: np.asarray(tensor) for name, tensor in function(**tensors).items()}
    for name, array in found.items():
        if array.shape[:1] != (n_rows,):
            raise ExportError(
                f"every output must have an answer for each row, got '{name}' of shape {array.shape} for a batch of "
                f"{n_rows}; export the model with a free batch axis and outputs by row"
            )
    return {name: rows.astype(np.float32) if rows.dtype.name == "bfloat16" else rows for name, rows in found.items()}


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)[:20])
