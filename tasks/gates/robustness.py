"""Robustness: malformed and extreme requests are refused or answered, and the server keeps running."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.records import GateResult, Probe
from tasks.words import one_line

SHOWN = 5  # cases in a summary; the evidence has them all


def judge_robustness(probes: Sequence[Probe]) -> GateResult:
    """Check each answer against its rule.

    A malformed or extreme request must be refused (4xx) or answered with finite numbers (200), a usual one must be
    answered with finite numbers. The gate fails for no answer, for a server error, for NaN, and where nothing was sent.
    """
    failed = [probe for probe in probes if not _holds(probe)]
    shown = [f"{probe.case}: {_words(probe)}" for probe in failed[:SHOWN]]
    shown += [f"and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    return GateResult(
        "robustness",
        bool(probes) and not failed,
        _summary(len(probes), "; ".join(shown), len(failed)),
        {"cases": float(len(probes)), "failed": float(len(failed))},
        bounds={"failed": "at most 0"},
        evidence={
            "failed": [probe.case for probe in failed],
            "probes": [{"case": p.case, "normal": p.normal, "status": p.status, "words": p.words} for p in probes],
        },
    )


def _holds(probe: Probe) -> bool:
    refused = 400 <= probe.status < 500 and not probe.normal
    return refused or (probe.status == 200 and probe.finite)


def _words(probe: Probe) -> str:
    """Return what became of a request, in the server's words."""
    if probe.status == 0:
        return f"no answer ({probe.words})"
    kind = "" if probe.finite else ", not what it should be"
    words = one_line(probe.words, 200) if probe.status == 200 else probe.words  # an answer goes on for pages
    return f"{probe.status}{kind} ({words})"


def _summary(cases: int, shown: str, failed: int) -> str:
    if not cases:
        return "no request was sent, so nothing is known"
    if failed:
        return f"{failed} of {cases} requests must be refused with 4xx or answered with finite numbers, got {shown}"
    return f"all {cases} malformed, extreme and usual requests were refused or answered as they should be"
