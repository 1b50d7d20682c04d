"""Safety: what the graph would do to the server that runs it, judged before any server loads it."""

from __future__ import annotations

from collections.abc import Sequence

from configs.schema import Safety
from tasks.records import GateResult, GraphFacts

MB = 1e6
SHOWN = 5  # names in a summary; the evidence has them all


def judge_safety(graph: GraphFacts, safety: Safety) -> GateResult:
    """Refuse a graph that leaves itself, files that lie outside their directory, and what is too large to look into."""
    refused = [f"{op} '{node}'" for op, node in graph.reaching_out if op not in safety.allow_ops]
    allowed = sorted({op for op, _ in graph.reaching_out if op in safety.allow_ops})
    figures = {
        "reaching_out": float(len(refused)),
        "graph_mb": graph.graph_bytes / MB,
        "variables_mb": graph.variables_bytes / MB,
    }
    limits = {"graph_mb": safety.max_graph_mb, "variables_mb": safety.max_variables_mb}
    limits = {name: limit for name, limit in limits.items() if limit}
    problems = _problems(refused, graph.outside, figures, limits)
    nothing = f"nothing leaves the graph but {', '.join(allowed)} (gates.safety.allow_ops)" if allowed else ""
    return GateResult(
        "safety",
        not problems,
        "; ".join(problems)
        or f"{nothing or 'nothing leaves the graph'}, saved_model.pb has {figures['graph_mb']:.3g} MB "
        f"(at most {safety.max_graph_mb:g} MB)",
        figures,
        units={"graph_mb": "MB", "variables_mb": "MB"},
        bounds={"reaching_out": "at most 0"} | {name: f"at most {limit:g}" for name, limit in limits.items()},
        evidence={
            "reaching_out": [list(found) for found in graph.reaching_out],
            "allowed": allowed,
            "outside": list(graph.outside),
        },
    )


def _problems(
    refused: Sequence[str], outside: Sequence[str], figures: dict[str, float], limits: dict[str, float]
) -> list[str]:
    """Return what is wrong, each with its remedy."""
    problems = []
    if refused:
        problems.append(
            f"operations must not leave the graph, got {_first(refused)}; take them out of the model, or name those "
            "that are meant in gates.safety.allow_ops"
        )
    if outside:
        problems.append(
            f"files must be plain and lie inside the SavedModel, got {_first(outside)}; export the model again"
        )
    return problems + [
        f"{name} {figures[name]:.4g} is above {limit:g}; raise gates.safety.max_{name} if that is meant"
        for name, limit in limits.items()
        if figures[name] > limit
    ]


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
