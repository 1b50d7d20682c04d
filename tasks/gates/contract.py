"""Contract: what the server says it serves is what was exported."""

from __future__ import annotations

from tasks.records import GateResult, Signature, TensorSpec


def judge_contract(exported: Signature, reported: Signature) -> GateResult:
    """Hold the signature that `/metadata` reports against the exported one: names, dtypes, shapes, free batch."""
    differences = [
        *_differences("input", exported.inputs, reported.inputs),
        *_differences("output", exported.outputs, reported.outputs),
    ]
    differences += [
        f"input '{spec.name}' must have a free batch dimension, is {spec}"
        for spec in reported.inputs
        if spec.shape is not None and spec.shape[:1] != (None,)
    ]
    n_names = len(exported.inputs) + len(exported.outputs)
    summary = "; ".join(differences) or f"{n_names} names, dtypes and shapes as exported, batch free"
    return GateResult(
        "contract",
        not differences,
        summary,
        {"differences": len(differences)},
        evidence={
            "differences": differences,
            "reported": [str(spec) for spec in (*reported.inputs, *reported.outputs)],
        },
    )


def _differences(kind: str, exported: tuple[TensorSpec, ...], reported: tuple[TensorSpec, ...]) -> list[str]:
    want, got = {s.name: s for s in exported}, {s.name: s for s in reported}
    found = [f"{kind} '{name}' is not served" for name in want if name not in got]
    found += [f"{kind} '{name}' was not exported" for name in got if name not in want]
    found += [
        f"{kind} exported as {want[name]}, served as {got[name]}"
        for name in want
        if name in got and want[name] != got[name]
    ]
    return found
