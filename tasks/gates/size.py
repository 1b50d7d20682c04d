"""Size: what a version takes on disk, alone and compared with the champion."""

from __future__ import annotations

from configs.sections.gates import Size
from tasks.records import GateResult, GraphFacts

MB = 1e6


def judge_size(graph: GraphFacts, champion: GraphFacts | None, size: Size) -> GateResult:
    """Check bytes and weights against their limits; 0 is no limit, and without a champion there is no ratio."""
    figures = _figures(graph)
    if champion is not None and champion.total_bytes:
        figures["ratio"] = graph.total_bytes / champion.total_bytes
    limits = {"size_mb": size.max_mb, "parameters": float(size.max_parameters), "ratio": size.max_ratio}
    limits = {name: limit for name, limit in limits.items() if limit and name in figures}
    missed = [name for name, limit in limits.items() if figures[name] > limit]
    lines = [
        f"{_words(name, value)}{f' (at most {limits[name]:g})' if name in limits else ''}"
        for name, value in figures.items()
    ]
    return GateResult(
        "size",
        not missed,
        ", ".join(lines),
        figures,
        units={"size_mb": "MB"},
        bounds={name: f"at most {limit:g}" for name, limit in limits.items()},
        champion=_figures(champion) if champion is not None else {},
        evidence={"missed": missed},
        note="",
    )


def _words(name: str, value: float) -> str:
    """Return a figure as a part of the summary."""
    if name == "ratio" and f"{value:.3g}" == "1":
        return "the same size as the champion"
    return WORDS[name].format(value)


WORDS = {"size_mb": "{:.3g} MB", "parameters": "{:,.0f} parameters", "ratio": "{:.3g} times the size of the champion"}


def _figures(graph: GraphFacts) -> dict[str, float]:
    return {"size_mb": graph.total_bytes / MB, "parameters": float(graph.parameters)}
