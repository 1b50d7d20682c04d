"""Batching: concurrent clients, whose requests the server joins into batches, get the answers that they get alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tasks.datasets.strings import Array
from tasks.gates.parity import Tolerance, comparable, judge_parity
from tasks.records import GateResult, ServedBatches, TensorSpec


def judge_batching(
    batches: ServedBatches,
    answers: Mapping[str, Array],
    in_process: Mapping[str, Array],
    tolerance: Mapping[str, Tolerance],
    outputs: Sequence[TensorSpec],
) -> GateResult:
    """Compare the answer to each concurrent request with the model's own answer to its row.

    Args:
        answers: one array for each output, one row for each request; empty if a request was refused.
        in_process: one array for each output, one row for each test row.
        tolerance: by output. outputs: of the signature, for the lengths that are free.
    """
    asked = f"{batches.requests} one-row requests from {batches.clients} concurrent clients"
    if batches.refusal:
        return GateResult(
            "batching",
            False,
            f"{asked} must be answered, but the server refused one: {batches.refusal}. It accepts these rows one after "
            "the other, so correct the parameters of batching (serving.files), or remove --enable_batching",
            {"requests": float(batches.requests)},
        )
    rows = np.array(batches.rows)
    pairs = {
        spec.name: comparable(answers[spec.name], in_process[spec.name][rows], spec)
        for spec in outputs
        if spec.name in in_process
    }
    served, own = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    found = judge_parity(served, own, tolerance)
    figures = {name: found.figures[name] for name in ("max_abs_difference", "rows_differing")}
    return replace(
        found,
        name="batching",
        summary=f"{asked}: {found.summary}",
        figures={"requests": float(batches.requests), **figures},
        note=None if not found.passed else asked,
        evidence={"outputs": found.evidence["outputs"]},
    )
