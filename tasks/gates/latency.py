"""Latency: how long requests take, alone and compared with the champion in the same server."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from configs.sections.gates import Latency
from tasks.datasets.rows import Array
from tasks.records import GateResult

PERCENTILES = (50, 95, 99)


def judge_latency(  # noqa: PLR0913, PLR0917  everything that was measured
    samples: Mapping[str, Array],
    requests_per_s: Mapping[str, float],
    cold_ms: float,
    memory_mb: float,
    latency: Latency,
    capacity: Mapping[str, float] | None = None,
    min_capacity: float = 0,
) -> GateResult:
    """Check percentiles, rate, first request and memory against their limits; 0 is no limit.

    If the memory is limited but unknown, such as that of an attached server, a person must decide.

    Args:
        samples: float64 milliseconds per request of shape (n,), `candidate` and perhaps `champion`.
        requests_per_s: by the same names.
        memory_mb: 0 if it is unknown.
        capacity: requests per second at which the p99 keeps its bound, by the same names; None if it is not measured.
        min_capacity: the minimum of the candidate's; 0 is no limit.
    """
    figures = {"cold_ms": cold_ms, **_figures(samples["candidate"], requests_per_s["candidate"])}
    if memory_mb:
        figures["memory_mb"] = memory_mb
    champion = _figures(samples["champion"], requests_per_s["champion"]) if "champion" in samples else {}
    if champion:
        figures["p95_ratio"] = figures["p95_ms"] / champion["p95_ms"]
    for name, found in (capacity or {}).items():
        (figures if name == "candidate" else champion)["capacity_per_s"] = found
    most = {
        "cold_ms": latency.max_cold_ms,
        "p50_ms": latency.max_p50_ms,
        "p95_ms": latency.max_p95_ms,
        "p99_ms": latency.max_p99_ms,
        "p95_ratio": latency.max_ratio,
        "memory_mb": latency.max_memory_mb,
    }
    missed = [name for name, bound in most.items() if bound and figures.get(name, 0) > bound]
    bounds = {name: f"at most {bound:g}" for name, bound in most.items() if bound}
    if latency.min_requests_per_s:
        bounds["requests_per_s"] = f"at least {latency.min_requests_per_s:g}"
        missed += ["requests_per_s"] if figures["requests_per_s"] < latency.min_requests_per_s else []
    if min_capacity:
        bounds["capacity_per_s"] = f"at least {min_capacity:g}"
        missed += ["capacity_per_s"] if figures.get("capacity_per_s", 0) < min_capacity else []
    beyond = "; ".join(f"{name} is {figures.get(name, 0):.4g} ({bounds[name]})" for name in missed)
    unlimited = "" if bounds else "no limit is configured (gates.latency)"
    unknown = "" if memory_mb else _unknown_memory(latency.max_memory_mb)
    return GateResult(
        "latency",
        not missed,
        "; ".join(filter(None, (beyond or _line(figures, champion), unlimited, unknown))),
        figures,
        {name: name.rpartition("_")[2] for name in figures if name.endswith(("_ms", "_mb"))},
        bounds,
        champion,
        {"missed": missed, "requests": len(samples["candidate"])},
        needs_person=unknown,
        note=unlimited or unknown,
    )


def _unknown_memory(most_mb: float) -> str:
    if not most_mb:
        return ""
    return f"the server's memory is unknown, but gates.latency.max_memory_mb limits it to {most_mb:g} MB"


def _figures(milliseconds: Array, rate: float) -> dict[str, float]:
    values = np.percentile(milliseconds, PERCENTILES)
    named = {f"p{percent}_ms": float(value) for percent, value in zip(PERCENTILES, values, strict=True)}
    return {**named, "requests_per_s": rate}


def _line(figures: Mapping[str, float], champion: Mapping[str, float]) -> str:
    text = f"p50 {figures['p50_ms']:.2g} ms, p95 {figures['p95_ms']:.2g} ms"
    text += f" and {figures['requests_per_s']:,.0f} requests/s"
    if "capacity_per_s" in figures:
        text += f" (up to {figures['capacity_per_s']:,.0f} at the bound of p99)"
    if champion:
        text += f"; the champion has p95 {champion['p95_ms']:.2g} ms and {champion['requests_per_s']:,.0f} requests/s"
    return text
