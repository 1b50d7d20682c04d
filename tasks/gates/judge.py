"""All gates on one rehearsal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from configs.schema import Gates
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.errors import DataError
from tasks.gates.contract import judge_contract
from tasks.gates.parity import judge_parity
from tasks.gates.quality import judge_quality
from tasks.records import Candidate, GateResult, ServedAnswers


def judge(
    gates: Gates, candidate: Candidate, *served: ServedAnswers, keras_names: Mapping[str, str] | None = None
) -> tuple[GateResult, ...]:
    """Return every gate's verdict on what each server answered; from the second on, names say which server.

    Args:
        keras_names: served name of an output: Keras' name of it, which is what the loader calls its target.

    Raises:
        DataError: the configured metrics do not fit the answers.
    """
    results = list(_judge_one(gates, candidate, served[0], keras_names or {}))
    for number, answers in enumerate(served[1:], start=2):
        also = _judge_one(gates, candidate, answers, keras_names or {})
        results += [replace(result, name=f"{result.name}.{number}") for result in also]
    return tuple(results)


def _judge_one(
    gates: Gates, candidate: Candidate, served: ServedAnswers, keras_names: Mapping[str, str]
) -> Iterator[GateResult]:
    answers = load_arrays(served.answers)
    yield judge_contract(candidate.signature, served.signature)
    yield judge_parity(answers, load_arrays(candidate.reference), gates.atol, gates.rtol)
    if served.other_answers is not None:  # the same server over the other transport: no tolerance
        yield replace(judge_parity(load_arrays(served.other_answers), answers, 0, 0), name="transport")
    output = target = np.empty(0)
    if gates.metrics:
        output, target = _judged(gates, answers, load_rows(candidate.targets).targets, keras_names)
    yield judge_quality(gates.metrics, target, output)


def _judged(
    gates: Gates, answers: dict[str, Array], targets: object, keras_names: Mapping[str, str]
) -> tuple[Array, Array]:
    """Return the output that the metrics judge, and its target."""
    assert isinstance(targets, dict)
    name = judged_output(gates, list(answers))
    target = targets.get(keras_names.get(name, name)) if len(targets) > 1 else next(iter(targets.values()))
    if target is None:
        raise DataError(f"output '{name}' needs a target of the same name; targets are {', '.join(targets)}")
    return answers[name], target


def judged_output(gates: Gates, outputs: Sequence[str]) -> str:
    """Return the output that the metrics judge; there is no need to name the only one.

    Raises:
        DataError: `gates.metric_output` names none of them.
    """
    name = gates.metric_output or (outputs[0] if len(outputs) == 1 else "")
    if name not in outputs:
        raise DataError(f"gates.metric_output must be one of {', '.join(outputs)}, got '{name}'")
    return name
