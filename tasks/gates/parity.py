"""Parity: what was served is what the model answers in process, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.datasets.rows import Array
from tasks.records import GateResult


def judge_parity(served: Mapping[str, Array], in_process: Mapping[str, Array], atol: float, rtol: float) -> GateResult:
    """Compare every output elementwise: |served - in process| <= atol + rtol * |in process|; NaN never passes.

    Args:
        served, in_process: one array an output, same rows in the same order.
        atol, rtol: tolerances for floating-point outputs; all others must be equal.
    """
    worst = {name: _worst(served[name], in_process[name], atol, rtol) for name in in_process}
    failed = {name: found for name, found in worst.items() if found["problem"]}
    figures = {
        "max_abs_difference": max(found["difference"] for found in worst.values()),
        "rows": float(len(next(iter(in_process.values())))),
        "rows_differing": float(max(found["rows_differing"] for found in worst.values())),
    }
    if failed:
        name, found = next(iter(failed.items()))
        summary = f"output '{name}': {found['problem']}"
    else:
        summary = (
            f"largest difference {figures['max_abs_difference']:.2g} over {figures['rows']:.0f} rows "
            f"(at most {atol:g} + {rtol:g} x value)"
        )
    return GateResult("parity", not failed, summary, figures, evidence={"outputs": worst})


def _worst(served: Array, in_process: Array, atol: float, rtol: float) -> dict[str, Any]:
    """Return the worst element of one output, and what is wrong with it or an empty string."""
    if served.shape != in_process.shape:
        return _found(f"shape {served.shape} served, {in_process.shape} in process", np.inf, len(in_process))
    if in_process.dtype.kind != "f":
        wrong = _as_bytes(served) != _as_bytes(in_process)
        excess, difference = wrong.astype(np.float64), wrong.astype(np.float64)
    else:
        a, b = served.astype(np.float64), in_process.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.abs(a - b)
            difference[~(np.isfinite(a) & np.isfinite(b))] = np.inf  # a NaN on both sides is not an agreement
            excess = difference - (atol + rtol * np.abs(np.where(np.isfinite(b), b, 0)))
        wrong = ~(excess <= 0)  # whatever cannot be compared is wrong
    rows_wrong = wrong.reshape(len(wrong), -1).any(axis=1)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    values = f"served {served[where]!s}, in process {in_process[where]!s}"
    problem = (
        f"{int(rows_wrong.sum())} of {len(wrong)} rows differ, worst in row {where[0]}: {values}"
        if rows_wrong.any()
        else ""
    )
    return _found(
        problem,
        float(difference.max()),
        int(rows_wrong.sum()),
        row=where[0],
        element=list(where[1:]),
        values=values,
    )


def _as_bytes(array: Array) -> Array:
    """Return text as UTF-8: one transport gives text, another bytes, TensorFlow itself bytes."""
    return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array


def _found(problem: str, difference: float, rows_differing: int, **evidence: Any) -> dict[str, Any]:
    return {"problem": problem, "difference": difference, "rows_differing": rows_differing, **evidence}
