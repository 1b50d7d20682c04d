"""Parity: served answers equal the model's own answers in process, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.datasets.blocks import filled
from tasks.datasets.strings import Array, as_bytes, plain
from tasks.records import BATCHES, EXTENT, GateResult, Signature, TensorSpec

WORST_ROWS = 5
IN_PROCESS = ("served", "in process")
TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}  # absolute, and relative
"""What two correct runs of the same graph may differ by: a few units of the type, grown through some layers."""


class Tolerance(NamedTuple):
    """|served - in process| <= atol + rtol * |in process|."""

    atol: float
    rtol: float


def tolerances(signature: Signature, atol: float | None, rtol: float | None) -> dict[str, Tolerance]:
    """Return the tolerance of each output: the configured one, else that of its dtype."""
    found = {}
    for spec in signature.outputs:
        usual = TOLERANCES.get(spec.computed or spec.dtype, 0.0)
        found[spec.name] = Tolerance(usual if atol is None else atol, usual if rtol is None else rtol)
    return found


def judge_parity(  # noqa: PLR0913  (each answer with what it is held against)
    served: Mapping[str, Array],
    in_process: Mapping[str, Array],
    tolerance: Mapping[str, Tolerance],
    *,
    small_batches: Mapping[str, Array] | None = None,
    same_batches: Mapping[str, Array] | None = None,
    outputs: Sequence[TensorSpec] = (),
    inputs: Mapping[str, Array] | None = None,
    sides: tuple[str, str] = IN_PROCESS,
) -> GateResult:
    """Compare every output elementwise; NaN and infinity never pass, on either side.

    Args:
        served, in_process: one array for each output, with the same rows in the same order.
        tolerance: by output; text, integers and booleans must be equal.
        small_batches: the served answers to a few rows in small batches, `<batch>/<output>`, which must be those that
            the rows got among all rows.
        same_batches: what the model answers in process to those very batches, where that is known: of outputs as
            long as their batch makes them, even the lengths must agree with it.
        outputs: the signature's, for which lengths are free. inputs: one array for each input, for the evidence.
        sides: what the values of both sides are called in the summary.
    """
    found = [_compare("", name, served[name], in_process[name], tolerance[name], sides) for name in in_process]
    found += _compare_batches(in_process, small_batches or {}, same_batches or {}, outputs, tolerance)
    figures = {
        "max_abs_difference": max(one["difference"] for one in found),
        "rows": float(len(next(iter(in_process.values())))),
        "rows_differing": float(max(one["rows_differing"] for one in found)),
        "batch_sizes": float(len({one["batch"] for one in found})),
    }
    worst = [row for output in in_process for row in _worst_rows(output, served, in_process, tolerance, inputs or {})]
    failed = any(one["problem"] for one in found)
    return GateResult(
        "parity",
        not failed,
        _summary(found, figures),
        figures,
        note=None if failed else f"{figures['rows']:.0f} rows{_small_batches(found)}",
        bounds={"max_abs_difference": _bound_text(tolerance)},
        evidence={
            # of each output the batch that fails, all rows rather than a few
            "outputs": {
                one["output"]: one for one in sorted(found, key=lambda one: (bool(one["problem"]), not one["batch"]))
            },
            "worst": sorted(worst, key=lambda row: -row["difference"])[:WORST_ROWS],
        },
    )


def _compare_batches(
    in_process: Mapping[str, Array],
    small_batches: Mapping[str, Array],
    same_batches: Mapping[str, Array],
    outputs: Sequence[TensorSpec],
    tolerance: Mapping[str, Tolerance],
) -> Iterator[dict[str, Any]]:
    """Yield the comparison of each output in each small batch with the same rows among all, and with the same batch."""
    specs = {spec.name: spec for spec in outputs}
    for batch in dict.fromkeys(key.partition("/")[0] for key in small_batches):
        for name in in_process:
            answer = small_batches[f"{batch}/{name}"]
            alike = same_batches.get(f"{batch}/{name}")
            if alike is not None:
                yield _compare(batch, name, answer, alike, tolerance[name])
            rows, extents = BATCHES[batch], same_batches.get(f"{EXTENT}/{name}")
            beside = None if extents is None else extents[rows]
            pair = comparable(answer, in_process[name][rows], specs.get(name), beside)
            yield _compare(batch, name, *pair, tolerance[name])


def comparable(
    alone: Array, in_company: Array, spec: TensorSpec | None, extents: Array | None = None
) -> tuple[Array, Array]:
    """Return answers to the same rows from different batches, in one shape where that is possible.

    An output that is as long as its batch makes it is filled up with its declared padding; where none is declared,
    the padding is unknown, so only the part that both have is compared.

    Args:
        extents: int64 of shape (rows, axes), of each row among all rows the extents of its own batch; None is all.
    """
    if spec is None or not spec.is_ragged or alone.ndim != in_company.ndim:
        return alone, in_company
    pairs = list(enumerate(zip(alone.shape, in_company.shape, strict=True)))
    if spec.pad is not None:
        longest = [None if axis == 0 or not spec.is_free(axis) else max(sizes) for axis, sizes in pairs]
        return filled(alone, longest, spec), filled(in_company, longest, spec)
    common = tuple(slice(None) if axis == 0 or not spec.is_free(axis) else slice(min(sizes)) for axis, sizes in pairs)
    alone, in_company = alone[common], in_company[common]
    if extents is None or alone.shape != in_company.shape:
        return alone, in_company
    return np.where(_within(in_company.shape, extents), alone, in_company), in_company


def repeated(now: Array, then: Array) -> tuple[Array, Array]:
    """Return two servers' answers to the same rows, with 0 where both are the same NaN or infinity.

    Parity refuses such a number. A version that was judged before only has to repeat it.
    """
    if now.dtype.kind != "f" or now.shape != then.shape:
        return now, then
    same = (np.isnan(now) & np.isnan(then)) | (np.isinf(now) & (now == then))
    return np.where(same, 0, now), np.where(same, 0, then)


def _within(shape: tuple[int, ...], extents: Array) -> Array:
    """Return where an element of a row lies within the row's own extents, bool of that shape."""
    inside = np.ones(shape, bool)
    for axis in range(1, len(shape)):
        places = np.arange(shape[axis]).reshape([-1 if number == axis else 1 for number in range(len(shape))])
        inside &= places < extents[:, axis - 1].reshape([-1] + [1] * (len(shape) - 1))
    return inside


def _summary(found: Sequence[Mapping[str, Any]], figures: Mapping[str, float]) -> str:
    """Return the first difference beyond tolerance, or else the largest difference."""
    failed = next((one for one in found if one["problem"]), None)
    if failed:
        size = f" in a batch of {failed['batch']}" if failed["batch"] else ""
        return f"output '{failed['output']}'{size}: {failed['problem']}"
    largest = f"the largest difference from the answers in process is {figures['max_abs_difference']:.2g}"
    return f"{largest} over {figures['rows']:.0f} rows{_small_batches(found)}"


def _small_batches(found: Sequence[Mapping[str, Any]]) -> str:
    sizes = dict.fromkeys(one["batch"] for one in found if one["batch"])
    return f"; small batches ({', '.join(sizes)}) agree as well" if sizes else ""


def _bound_text(tolerance: Mapping[str, Tolerance]) -> str:
    texts = {f"at most {t.atol:g} + {t.rtol:g} x value" if t.atol or t.rtol else "equal" for t in tolerance.values()}
    return texts.pop() if len(texts) == 1 else "by output"


def excess(served: Array, in_process: Array, tolerance: Tolerance) -> tuple[Array, Array]:
    """Return by how much each element is beyond tolerance, and its absolute difference; inf where not comparable."""
    if in_process.dtype.kind not in "f":
        wrong = (as_bytes(served) != as_bytes(in_process)).astype(np.float64)
        return wrong, wrong
    a, b = served.astype(np.float64), in_process.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
        difference[~(np.isfinite(a) & np.isfinite(b))] = np.inf  # a NaN on both sides is not an agreement
        beyond = difference - (tolerance.atol + tolerance.rtol * np.abs(np.where(np.isfinite(b), b, 0)))
    return np.where(np.isnan(beyond), np.inf, beyond), difference  # infinity less an infinite tolerance


def _compare(  # noqa: PLR0913, PLR0917  (both sides, their names, and what they are the answers to)
    size: str, output: str, served: Array, in_process: Array, tolerance: Tolerance, sides: tuple[str, str] = IN_PROCESS
) -> dict[str, Any]:
    """Return the worst element of one output, and what is wrong with it or an empty string."""
    found: dict[str, Any] = {"output": output, "batch": size, "problem": "", "rows_differing": 0, "difference": 0.0}
    if served.shape != in_process.shape:
        problem = f"shape {served.shape} {sides[0]}, {in_process.shape} {sides[1]}"
        return found | {"problem": problem, "rows_differing": len(in_process), "difference": np.inf}
    if not in_process.size:
        return found
    beyond, difference = excess(served, in_process, tolerance)
    rows_wrong = (beyond > 0).reshape(len(beyond), -1).any(axis=1)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(beyond)), beyond.shape))
    values = f"{sides[0]} {served[where]!s}, {sides[1]} {in_process[where]!s}"
    if rows_wrong.any():
        found["problem"] = f"{int(rows_wrong.sum())} of {len(beyond)} rows differ, worst in row {where[0]}: {values}"
    return found | {
        "difference": float(difference.max()),
        "rows_differing": int(rows_wrong.sum()),
        "row": where[0],
        "element": list(where[1:]),
        "values": values,
    }


def _worst_rows(
    output: str,
    served: Mapping[str, Array],
    in_process: Mapping[str, Array],
    tolerance: Mapping[str, Tolerance],
    inputs: Mapping[str, Array],
) -> Iterator[dict[str, Any]]:
    """Yield the rows that differ most, with both values and the inputs that led to them."""
    a, b = served[output], in_process[output]
    if a.shape != b.shape or not b.size:
        return
    difference = excess(a, b, tolerance[output])[1]
    of_row = difference.reshape(len(difference), -1)
    for row in np.argsort(-of_row.max(axis=1), kind="stable")[:WORST_ROWS]:
        where = np.unravel_index(int(of_row[row].argmax()), b.shape[1:])
        if of_row[row].max() == 0:
            return
        yield {
            "output": output,
            "row": int(row),
            "element": [int(i) for i in where],
            "served": plain(a[(row, *where)]),
            "in_process": plain(b[(row, *where)]),
            "difference": float(of_row[row].max()),
            "inputs": {key: plain(array[row]) for key, array in inputs.items()},
        }
