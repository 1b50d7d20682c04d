"""What a Keras model answers by itself: the other side of parity; runs in the TensorFlow process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Export
from tasks.datasets.blocks import joined, row_blocks, small_batches, unanswered_rows
from tasks.datasets.rows import Array, save_arrays
from tasks.datasets.user_code import translated
from tasks.errors import ExportError
from tasks.records import EXTENT, Signature, TensorSpec
from tasks.savedmodel.structure import name_outputs, pack_features, served_inputs, served_outputs

PREDICT_BATCH = 1024  # rows at a time


Answer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Turns a batch of requests into the model's own answers, by served name."""


def save_reference(evidence: Path, answers_to: Answer, requests: Mapping[str, Array], signature: Signature) -> None:
    """Write `reference.npz`, one array an output, and for outputs as long as their batch `reference_batches.npz`.

    Such outputs are computed in the very batches that are served, so that lengths can be compared, too. Any other
    is computed in batches of another size than is served: nothing of it may depend on the rows beside.

    Raises:
        ExportError: the model fails, or answers two batches in shapes that do not fit together.
    """
    ragged = [spec.name for spec in signature.outputs if spec.is_ragged]
    blocks = row_blocks(requests, 0 if ragged else PREDICT_BATCH)
    answers = [answers_to(block) for block in blocks]
    with translated("the model must answer the test rows alike", ExportError):
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
    """Return what the batch made of each row, int64 of shape (rows, axes): its extents behind the first axis."""
    return np.tile(np.array(block.shape[1:], np.int64), (len(block), 1))


def answer(model: Any, block: Mapping[str, Array], signature: Signature, export: Export) -> dict[str, Array]:
    """Return the answers to one batch, by served name.

    Raises:
        ExportError: the model fails, or an output has not one answer a row.
    """
    n_rows = len(next(iter(block.values())))
    features = {keras_name: block[name] for name, keras_name in served_inputs(model, export).items()}
    keras_names = served_outputs(model, export)
    with translated(f"the model must answer a batch of {n_rows}", ExportError):
        answers = name_outputs(model, model(pack_features(model, features), training=False))
        found = {spec.name: _plain(answers[keras_names[spec.name]], spec) for spec in signature.outputs}
    if problem := unanswered_rows(found, n_rows):
        raise ExportError(f"{problem}; leave it out of the model's outputs or compute it by row")
    return found


def _plain(tensor: Any, spec: TensorSpec) -> Array:
    """Return an answer as an array that can be saved, in the dtype that is served."""
    array = np.asarray(tensor)
    if array.dtype == object:  # as TensorFlow gives text: bytes of any length
        return array
    if array.dtype.name == "bfloat16":  # which NumPy cannot save; every one of them is a float32
        array = array.astype(np.float32)
    return array.astype(spec.dtype) if spec.computed else array
