"""Golden: rows with known answers are answered as expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.datasets.strings import Array, as_bytes
from tasks.records import GateResult


def judge_golden(served: Mapping[str, Array], expected: Mapping[str, Array], atol: float, rtol: float) -> GateResult:
    """Compare every expected output elementwise: |served - expected| <= atol + rtol * |expected|; NaN never passes.

    Args:
        served: one array per output, at least the expected ones. expected: the same rows in the same order.
        atol, rtol: tolerances; text and booleans must be equal, and integers are names as often as amounts, so
            only `atol` holds for them: class 5001 is not nearly class 5000.
    """
    worst = {name: _worst(served.get(name), wanted, atol, rtol) for name, wanted in expected.items()}
    failed = [f"output '{name}': {found['problem']}" for name, found in worst.items() if found["problem"]]
    rows = max((len(wanted) for wanted in expected.values()), default=0)
    figures = {
        "rows": float(rows),
        "rows_differing": float(max((found["rows_differing"] for found in worst.values()), default=0)),
        "max_abs_difference": max((found["difference"] for found in worst.values()), default=0.0),
    }
    tolerance = f"at most {atol:g} + {rtol:g} x value"
    largest = f"the largest difference is {figures['max_abs_difference']:.2g}"
    agreed = f"all {rows} golden rows were answered as expected; {largest}"
    return GateResult(
        "golden",
        bool(rows) and not failed,
        "; ".join(failed) or (f"{agreed} ({tolerance})" if rows else "there are no golden rows to compare with"),
        figures,
        note=f"{rows} rows" if rows and not failed else None,
        bounds={"max_abs_difference": tolerance, "rows_differing": "at most 0"},
        evidence={"outputs": worst},
    )


def _worst(served: Array | None, expected: Array, atol: float, rtol: float) -> dict[str, Any]:
    """Return the worst element of one output, and what is wrong with it or an empty string."""
    if served is None or served.shape != expected.shape:
        got = "nothing" if served is None else f"shape {served.shape}"
        return _found(f"{got} served, shape {expected.shape} expected", np.inf, len(expected))
    if not expected.size:
        return _found("", 0.0, 0)
    difference = _difference(served, expected)
    excess = difference - _tolerance(expected, atol, rtol)
    wrong = ~(excess <= 0)  # whatever cannot be compared is wrong
    rows_wrong = wrong.reshape(len(wrong), -1).any(axis=1)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    values = f"served {served[where]!s}, expected {expected[where]!s}"
    problem = f"{int(rows_wrong.sum())} of {len(wrong)} rows differ, worst in row {where[0]}: {values}"
    return _found(
        problem if rows_wrong.any() else "",
        float(difference.max()),
        int(rows_wrong.sum()),
        row=where[0],
        element=list(where[1:]),
        values=values,
    )


def _difference(served: Array, expected: Array) -> Array:
    """Return |served - expected| as float64; 0 or 1 for text, and infinity if either is not finite."""
    kinds = {served.dtype.kind, expected.dtype.kind}
    if kinds & set("UTSOb"):
        return np.asarray(as_bytes(served) != as_bytes(expected), np.float64)
    a, b = served.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    if kinds <= set("iu"):  # beyond 2**53 float64 cannot tell neighbours apart
        difference = np.where(served == expected, 0.0, np.maximum(difference, 1.0))
    return np.where(np.isfinite(a) & np.isfinite(b), difference, np.inf)


def _tolerance(expected: Array, atol: float, rtol: float) -> Array:
    """Return how far each element may be off, as float64."""
    if expected.dtype.kind in "UTSOb":
        return np.zeros(expected.shape)
    relative = rtol if expected.dtype.kind == "f" else 0.0
    return atol + relative * np.nan_to_num(np.abs(expected.astype(np.float64)), nan=0.0, posinf=0.0)


def _found(problem: str, difference: float, rows_differing: int, **evidence: Any) -> dict[str, Any]:
    return {"problem": problem, "difference": difference, "rows_differing": rows_differing, **evidence}
