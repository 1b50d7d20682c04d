"""Way back: the version that a rollback would return to is served as it was judged, in the server of today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tasks.datasets.rows import Array, load_arrays
from tasks.errors import DataError
from tasks.gates.parity import Tolerance, comparable, judge_parity, repeated
from tasks.records import GateResult, Recorded, Signature, WayBack

ALLOWED = "promote.allow_no_way_back permits a promotion nevertheless"
REMEDY = "repair it, or set promote.allow_no_way_back to promote without a way back"
SIDES = ("served now", "recorded")


def recorded_answers(recorded: Recorded) -> dict[str, Array]:
    """Return the recorded answers, one array for each output of the signature.

    Raises:
        DataError: they are missing, damaged or incomplete.
    """
    found = load_arrays(recorded.answers)
    if found.keys() != {spec.name for spec in recorded.signature.outputs}:
        raise DataError(
            f"recorded answers must be those to every output, got {', '.join(found)} in '{recorded.answers}'"
        )
    return found


def judge_recorded(
    now: Mapping[str, Array], then: Mapping[str, Array], signature: Signature, tolerance: Mapping[str, Tolerance]
) -> GateResult:
    """Compare answers with those that were recorded when the same requests were judged, by the tolerances of parity.

    Args:
        now, then: one array for each output, with the same rows in the same order.
        tolerance: by output.
    """
    pairs = {s.name: repeated(*comparable(now[s.name], then[s.name], s)) for s in signature.outputs}
    mine, recorded = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    found = judge_parity(mine, recorded, tolerance, sides=SIDES)
    figures = {name: found.figures[name] for name in ("max_abs_difference", "rows", "rows_differing")}
    said = found.summary
    if found.passed:
        rows, largest = found.figures["rows"], found.figures["max_abs_difference"]
        said = f"all {rows:,.0f} recorded answers are repeated; the largest difference is {largest:.2g}"
    return replace(found, name="recorded", summary=said, note=None, figures=figures)


def judge_way_back(
    way: WayBack,
    now: Mapping[str, Array] | None = None,
    then: Mapping[str, Array] | None = None,
    tolerance: Mapping[str, Tolerance] | None = None,
) -> GateResult:
    """Return whether a rollback after the promotion is proven to put back what served before.

    The gate fails for files that are not those that were promoted, for a version that the server refuses, and for other
    answers than the recorded ones. If nothing is recorded, nothing is proven, and a person must decide. The evidence
    `not_proven` says why the way back is not proven, in one line; it is empty if it is, or if none is needed.

    Args:
        now, then: the answers to the recorded requests, as in `judge_recorded`; None if the version was not asked.
        tolerance: by output.
    """
    if not way.version:
        return GateResult("way_back", True, f"there is none, because {way.absent}")
    which = f"version {way.version}, which a rollback would return to,"
    if way.problem or way.refusal:
        why = way.problem or f"the server refused it: {way.refusal}"
        return _unproven(way, f"{which} cannot be served: {why}", GateResult("way_back", False, ""))
    if way.recorded is None or now is None or then is None or tolerance is None:
        found = GateResult("way_back", True, "")
        return _unproven(way, f"it is not known whether a rollback works: {way.unproven}", found)
    found = judge_recorded(now, then, way.recorded.signature, tolerance)
    if not found.passed:
        said = f"{which} must repeat its recorded answers, but {found.summary}"
        return _unproven(way, said, replace(found, name="way_back"))
    said = f"version {way.version} can be returned to: {found.summary}"
    note = f"version {way.version} can be returned to: its recorded answers are repeated"
    return replace(found, name="way_back", summary=said, note=note)


def _unproven(way: WayBack, why: str, found: GateResult) -> GateResult:
    """Return the verdict on a way back that is not proven: refused or for a person, unless it is allowed."""
    said = f"{why}; {ALLOWED}" if way.allowed else why if found.passed else f"{why}; {REMEDY}"
    evidence = {**found.evidence, "not_proven": why, **({"log": way.log} if way.log else {})}
    person = "" if way.allowed or not found.passed else why
    return replace(found, passed=found.passed or way.allowed, summary=said, evidence=evidence, needs_person=person)
