"""Safety: what the graph could do to a server, judged before any server loads it."""

from __future__ import annotations

from collections.abc import Sequence

from configs.sections.gates import Safety
from tasks.records import GateResult, GraphFacts

MB = 1e6
SHOWN = 5  # names in a summary; the evidence has more
KEPT = 1000  # names in the evidence
LONGEST = 160  # characters of a name, which is whatever the graph's author wrote


def judge_safety(graph: GraphFacts, safety: Safety) -> GateResult:
    """Refuse a graph that reaches outside itself or cannot be judged, and files that are not plain or lie elsewhere."""
    refused = [(op, node) for op, node in graph.reaching_out if op not in safety.allow_ops]
    allowed = sorted({op for op, _ in graph.reaching_out if op in safety.allow_ops})
    figures = {
        "reaching_out": float(len(refused)),
        "graph_mb": graph.graph_bytes / MB,
        "variables_mb": graph.variables_bytes / MB,
    }
    limits = {"graph_mb": safety.max_graph_mb, "variables_mb": safety.max_variables_mb}
    limits = {name: limit for name, limit in limits.items() if limit}
    problems = _problems(graph, refused) + [
        f"{name} is {figures[name]:.4g}, above the limit of {limit:g}; raise gates.safety.max_{name} if it is intended"
        for name, limit in limits.items()
        if figures[name] > limit
    ]
    permitted = f"gates.safety.allow_ops permits {', '.join(allowed)}" if allowed else ""
    outside = f"{'no other' if allowed else 'no'} operation reaches outside the graph"
    return GateResult(
        "safety",
        not problems,
        "; ".join(problems)
        or f"{f'{permitted}; ' if allowed else ''}{outside}, and saved_model.pb has {figures['graph_mb']:.3g} MB "
        f"(at most {safety.max_graph_mb:g} MB)",
        figures,
        note=None if problems else permitted,
        units={"graph_mb": "MB", "variables_mb": "MB"},
        bounds={"reaching_out": "at most 0"} | {name: f"at most {limit:g}" for name, limit in limits.items()},
        evidence={
            "reaching_out": [[_shown(op), _shown(node)] for op, node in graph.reaching_out[:KEPT]],
            "reasons": {_shown(op): reason for op, (_, reason) in sorted(graph.reasons.items())[:KEPT]},
            "allowed": allowed,
            "outside": list(map(_shown, graph.outside[:KEPT])),
            "unclear": list(map(_shown, graph.unclear[:KEPT])),
        },
    )


def _problems(graph: GraphFacts, refused: Sequence[tuple[str, str]]) -> list[str]:
    """Return the problems, each with its remedy."""
    problems = []
    if refused:
        named = [f"{_shown(op)} '{_shown(node)}'{_reached(graph, op)}" for op, node in refused[:SHOWN]]
        problems.append(
            f"operations must not reach outside the graph, got {_first(named, len(refused))}; remove them from the "
            "model, or list those that are intended in gates.safety.allow_ops"
        )
    if graph.outside:
        problems.append(
            "files must be plain and lie inside the SavedModel, got "
            f"{_first(graph.outside, len(graph.outside))}; export the model again"
        )
    if graph.unclear:
        problems.append(
            "the graph must be one that can be judged without loading it, got "
            f"{_first(graph.unclear, len(graph.unclear))}; export the model again, or make it smaller"
        )
    return problems


def _reached(graph: GraphFacts, op: str) -> str:
    """Return what an operation reaches, where that is known, in brackets."""
    return f" ({graph.reasons[op][0]})" if op in graph.reasons else ""


def _first(names: Sequence[str], count: int) -> str:
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return ", ".join(map(_shown, names[:SHOWN])) + more


def _shown(text: str) -> str:
    """Return a text from the graph on one line, without control characters, at a length that can be read."""
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: 2 * LONGEST])
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."
