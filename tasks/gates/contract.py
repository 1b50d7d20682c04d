"""Contract: the signature that the server reports is the one that was exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.records import GateResult, Signature, TensorSpec


@dataclass(frozen=True)
class Meanings:
    """What requests mean beyond their dtypes.

    Attributes:
        units: of each date in words, by the name of the input.
        changed: what means something else than for the champion's clients, one sentence each.
    """

    units: Mapping[str, str] = field(default_factory=dict)
    changed: Sequence[str] = ()


def judge_contract(  # noqa: PLR0913, PLR0917
    exported: Signature,
    reported: Signature,
    champion: Signature | None = None,
    allow_breaking: bool = False,
    declared: Signature | None = None,
    meanings: Meanings | None = None,
) -> GateResult:
    """Compare the signature that `/metadata` reports with the exported, the champion's and the declared one.

    Names, dtypes and shapes must be those of the export, with a free batch size. Unless `allow_breaking` is set, what
    clients of the champion send and read must still work: an added output is fine, an added input is not. What clients
    of the declared contract send and read must always work: who wants to break it changes its file. The meaning of a
    declared feature, such as the unit of a date, is part of both.
    """
    meanings = meanings or Meanings()
    differences = _unlike_export(exported, reported)
    breaking = [*breaking_changes(champion, reported), *meanings.changed] if champion else []
    if not allow_breaking:
        differences += [f"this would break the champion's clients: {change}" for change in breaking]
    broken = [*_broken(declared, reported), *_other_units(declared, meanings.units)] if declared else []
    differences += [f"this would break the declared contract: {change}" for change in broken]
    n_names = len(exported.inputs) + len(exported.outputs)
    return GateResult(
        "contract",
        not differences,
        "; ".join(differences or _held(n_names, breaking if champion else None, declared is not None)),
        {
            "differences": len(differences),
            **({"breaking": len(breaking)} if champion else {}),
            **({"broken": len(broken)} if declared else {}),
        },
        bounds={
            "differences": "at most 0",
            **({"breaking": "at most 0"} if champion and not allow_breaking else {}),
            **({"broken": "at most 0"} if declared else {}),
        },
        evidence={
            "differences": differences,
            "breaking": breaking,
            "broken": broken,
            "reported": [str(spec) for spec in (*reported.inputs, *reported.outputs)],
        },
    )


def _held(n_names: int, permitted: list[str] | None, is_declared: bool) -> list[str]:
    """Return what a signature without differences keeps to.

    Args:
        permitted: what would break the champion's clients and may; None without a champion.
    """
    lines = [
        f"names, dtypes and shapes of all {n_names} inputs and outputs are served as exported, with a free batch size"
    ]
    if permitted:
        lines.append(f"gates.allow_breaking permits what would break the champion's clients: {', '.join(permitted)}")
    elif permitted is not None:
        lines.append("clients of the champion need no change")
    return [*lines, "the declared contract is kept"] if is_declared else lines


def _unlike_export(exported: Signature, reported: Signature) -> list[str]:
    """Return what is not served as it was exported, and inputs without a free batch size."""
    return [
        *_differences("input", exported.inputs, reported.inputs),
        *_differences("output", exported.outputs, reported.outputs),
        *(
            f"input '{spec.name}' must have a free batch dimension, got {spec}"
            for spec in reported.inputs
            if spec.shape is not None and spec.shape[:1] != (None,)
        ),
    ]


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


def _broken(declared: Signature, reported: Signature) -> list[str]:
    """Return what clients that rely on a declared contract would trip over."""
    changes = breaking_changes(declared, reported)
    if declared.name != reported.name:
        changes.insert(0, f"the signature changed from '{declared.name}' to '{reported.name}'")
    return changes


def _other_units(declared: Signature, units: Mapping[str, str]) -> list[str]:
    """Return the inputs whose unit in a declared contract is another one than that of the export."""
    return [
        f"the unit of input '{spec.name}' changed from {spec.unit} to {units.get(spec.name) or 'none'}"
        for spec in declared.inputs
        if spec.unit and spec.unit != units.get(spec.name)
    ]


def breaking_changes(champion: Signature, candidate: Signature) -> list[str]:
    """Return what would break a client of the champion: removed inputs and outputs, added inputs, other types."""
    found = []
    for kind, old, new in (
        ("input", champion.inputs, candidate.inputs),
        ("output", champion.outputs, candidate.outputs),
    ):
        was, now = {s.name: s for s in old}, {s.name: s for s in new}
        found += [f"{kind} '{name}' was removed" for name in was if name not in now]
        found += [f"{kind} '{name}' was added" for name in now if name not in was and kind == "input"]
        found += [
            f"{kind} changed from {was[name]} to {now[name]}"
            for name in was
            if name in now and not _takes(was[name], now[name])
        ]
    return found


def _takes(was: TensorSpec, now: TensorSpec) -> bool:
    """Return whether tensors that fit one spec fit the other: same dtype and rank, each extent the same or now free."""
    if was.dtype != now.dtype or (was.shape is None) != (now.shape is None):
        return False
    if was.shape is None or now.shape is None:
        return True
    return len(was.shape) == len(now.shape) and all(b in (None, a) for a, b in zip(was.shape, now.shape, strict=True))
