"""Computes the answers of a Keras model in process, as the reference of parity; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.sections.model import Export
from tasks.datasets.blocks import joined, row_blocks, small_batches, unanswered_rows
from tasks.datasets.rows import Array, save_arrays
from tasks.datasets.user_code import translated
from tasks.errors import ExportError
from tasks.records import EXTENT, Signature, TensorSpec
from tasks.savedmodel.structure import name_outputs, pack_features, served_inputs, served_outputs

PREDICT_BATCH = 1024  # rows


Answer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Maps a batch of requests to the model's own answers, by served name."""


def save_reference(
    evidence: Path, answers_to: Answer, requests: Mapping[str, Array], signature: Signature, most_rows: int = 0
) -> None:
    """Write `reference.npz`, one array for each output, and `reference_batches.npz` for padded outputs.

    Outputs that are padded to the longest row of their batch are computed in the batches that are served, so that
    their lengths can be compared as well. Other outputs are computed in batches of another size than the served ones,
    because they must not depend on the other rows of the batch.

    Args:
        most_rows: how many rows the server accepts in one request; 0 means that there is no limit.

    Raises:
        ExportError: the model fails, or its answers to two batches have incompatible shapes.
    """
    ragged = [spec.name for spec in signature.outputs if spec.is_ragged]
    blocks = row_blocks(requests, 0 if ragged else PREDICT_BATCH, most_rows)
    answers = [answers_to(block) for block in blocks]
    with translated("the model must give answers of the same shape to all test rows", ExportError):
        save_arrays(evidence / "reference.npz", joined(answers, signature.outputs))
    if ragged:
        batches = {
            f"{name}/{output}": array
            for name, part in small_batches(requests)
            for output, array in answers_to(part).items()
        }
        extents = {f"{EXTENT}/{name}": np.concatenate([_extents(part[name]) for part in answers]) for name in ragged}
        save_arrays(evidence / "reference_batches.npz", batches | extents)


def _extents(block: Array) -> Array:
    """Return the extents of each row's answer in this batch, int64 of shape (rows, axes without the first)."""
    return np.tile(np.array(block.shape[1:], np.int64), (len(block), 1))


def answer(model: Any, block: Mapping[str, Array], signature: Signature, export: Export) -> dict[str, Array]:
    """Return the answers to one batch, by served name.

    Raises:
        ExportError: the model fails, or an output does not have one answer for each row.
    """
    n_rows = len(next(iter(block.values())))
    features = {keras_name: block[name] for name, keras_name in served_inputs(model, export).items()}
    keras_names = served_outputs(model, export)
    with translated(f"the model must answer a batch of {n_rows} rows", ExportError):
        answers = name_outputs(model, model(pack_features(model, features), training=False))
        found = {spec.name: _plain(answers[keras_names[spec.name]], spec) for spec in signature.outputs}
    if problem := unanswered_rows(found, n_rows):
        raise ExportError(f"{problem}; remove it from the model's outputs, or compute it for each row")
    return found


def _plain(tensor: Any, spec: TensorSpec) -> Array:
    """Return an answer as an array that can be saved, in the dtype that is served."""
    array = np.asarray(tensor)
    if array.dtype == object:  # text in TensorFlow: bytes of any length
        return array
    if array.dtype.name == "bfloat16":  # NumPy cannot save it; float32 holds all of its values
        array = array.astype(np.float32)
    return array.astype(spec.dtype) if spec.computed else array
