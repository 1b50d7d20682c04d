"""All gates on one rehearsal."""

from __future__ import annotations

from configs.schema import Gates
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.errors import DataError
from tasks.gates.contract import judge_contract
from tasks.gates.parity import judge_parity
from tasks.gates.quality import judge_quality
from tasks.records import Candidate, GateResult, ServedAnswers


def judge(gates: Gates, candidate: Candidate, served: ServedAnswers) -> tuple[GateResult, ...]:
    """Return every gate's verdict on what was served.

    Raises:
        DataError: the configured metrics do not fit the answers.
    """
    answers, in_process = load_arrays(served.answers), load_arrays(candidate.reference)
    contract = judge_contract(candidate.signature, served.signature)
    parity = judge_parity(answers, in_process, gates.atol, gates.rtol)
    output, target = _judged(gates, answers, load_rows(candidate.targets).targets)
    return contract, parity, judge_quality(gates.metrics, target, output)


def _judged(gates: Gates, answers: dict[str, Array], targets: object) -> tuple[Array, Array]:
    """Return the output that the metrics judge, and its target."""
    assert isinstance(targets, dict)
    name = gates.metric_output or (next(iter(answers)) if len(answers) == 1 else "")
    if name not in answers:
        raise DataError(f"gates.metric_output must be one of {', '.join(answers)}, got '{name}'")
    target = targets.get(name) if len(targets) > 1 else next(iter(targets.values()))
    if target is None:
        raise DataError(f"output '{name}' needs a target of the same name; targets are {', '.join(targets)}")
    return answers[name], target
