"""Prepares a SavedModel that was made elsewhere as a candidate, unchanged; runs in the TensorFlow process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from tasks.datasets.blocks import unanswered_rows
from tasks.datasets.feature_record import write_schema
from tasks.datasets.fitting import features_of, fit_to_inputs
from tasks.datasets.given import leave_out_trained
from tasks.datasets.predict_body import predict_body
from tasks.datasets.rows import Array, load_arrays, load_rows, save_arrays
from tasks.datasets.seen import AsRequests, save_record
from tasks.datasets.strings import as_bytes
from tasks.datasets.user_code import translated
from tasks.errors import ExportError
from tasks.records import Signature, Splits
from tasks.replay.draw import check_requests
from tasks.savedmodel.exporter import EXAMPLE_ROWS, Exported, read_back, request_arrays, serving_function
from tasks.savedmodel.in_process import save_reference
from tasks.savedmodel.manifest import write_manifest
from tasks.savedmodel.safety import MB
from tasks.savedmodel.signature import read_signature
from tasks.savedmodel.transport import check_transport
from tasks.savedmodel.warmup import WARMUP, write_warmup

log = logging.getLogger(__name__)


def adopt_savedmodel(config: Config, splits: Splits, directory: Path, evidence: Path, signature_name: str) -> Exported:
    """Write the requests for a SavedModel, and add to it a manifest and, if it has none, a warm-up file.

    The record of the rows that it was trained on is added too, if they are known, and that of declared features.

    The graph is not loaded, because the safety gate has not judged it yet.

    Args:
        directory: a copy of the SavedModel. evidence: as in `export_savedmodel`; `reference.npz` is empty.
        signature_name: empty means `serving_default`, or the only signature.

    Raises:
        ExportError: the SavedModel cannot be read.
        SignatureMismatch: there is no such signature. DataError: the rows do not fit the inputs.
    """
    signature = read_signature(directory, signature_name, config.gates.safety.max_graph_mb * MB)
    check_transport(signature, config, given=True)
    check_requests(config, signature)
    requests = requests_of(config, signature, load_rows(splits.test).features)
    save_arrays(evidence / "requests.npz", requests, mapped=splits.streamed)
    body = predict_body({name: rows[:EXAMPLE_ROWS] for name, rows in requests.items()}, signature.name)
    (evidence / "example.json").write_bytes(body)
    save_arrays(evidence / "reference.npz", {})
    if not (directory / WARMUP).exists():
        if config.export.warmup_from == "requests":
            log.info("the warm-up is of test rows, because a given model is not called with recorded requests")
        write_warmup(directory, config.name, signature, requests, config.export.warmup_rows)
    if splits.trained_on:
        save_record(config, splits, partial(requests_of, config, signature), directory, evidence)
    write_schema(directory, config, load_rows(splits.train if splits.rows["train"] else splits.test))
    manifest = write_manifest(directory)
    return Exported(signature, manifest.digest, manifest.size_bytes)


def requests_of(config: Config, signature: Signature, features: Mapping[str, Array]) -> dict[str, Array]:
    """Return rows in the form of a SavedModel's signature, one array for each input.

    Raises:
        DataError: the rows do not fit the inputs.
    """
    return fit_to_inputs(features_of(features, config.export.inputs, signature.inputs), signature.inputs)


def leave_out(config: Config, splits: Splits, model: Path, signature_name: str) -> Splits:
    """Remove the rows that the model was trained on from the test rows; rows are compared as requests.

    Args:
        model: a SavedModel directory, which is not loaded, or a `.keras` file.

    Raises:
        DataError: the rows do not fit the inputs, or no row would be left.
        ExportError: the model cannot be read.
    """
    if model.suffix == ".keras":
        keras_model = read_back(model, given=True)
        signature = serving_function(keras_model, config)[1]
        as_requests: AsRequests = partial(request_arrays, keras_model, signature=signature, export=config.export)
    else:
        signature = read_signature(model, signature_name, config.gates.safety.max_graph_mb * MB)
        as_requests = partial(requests_of, config, signature)
    return leave_out_trained(config.name, splits, as_requests)


def save_own_answers(directory: Path, signature: Signature, evidence: Path) -> None:
    """Load a SavedModel that passed the safety gate, and write its answers in this process.

    Raises:
        ExportError: the SavedModel does not load, or does not answer.
    """
    save_reference(evidence, _loaded(directory, signature), load_arrays(evidence / "requests.npz"), signature)


def _loaded(directory: Path, signature: Signature) -> Any:
    """Return the SavedModel's own answers as a function of a batch."""
    import tensorflow as tf

    with translated("TensorFlow must be able to load the SavedModel", ExportError):
        loaded = tf.saved_model.load(str(directory))
        function = loaded.signatures[signature.name]
    return partial(_answer, function, loaded)


def _answer(function: Any, _kept_alive: Any, block: Mapping[str, Array]) -> dict[str, Array]:
    import tensorflow as tf

    n_rows = len(next(iter(block.values())))
    with translated(f"the SavedModel must answer a batch of {n_rows} rows", ExportError):
        tensors = {name: tf.constant(as_bytes(rows)) for name, rows in block.items()}
        found = {name: np.asarray(tensor) for name, tensor in function(**tensors).items()}
    if problem := unanswered_rows(found, n_rows):
        raise ExportError(f"{problem}; export the model with a free batch axis and with outputs for each row")
    return {name: rows.astype(np.float32) if rows.dtype.name == "bfloat16" else rows for name, rows in found.items()}
