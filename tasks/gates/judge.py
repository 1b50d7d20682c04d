"""Run all gates on one rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from configs.sections.gates import Gates
from tasks.datasets.declared import read_contract
from tasks.datasets.feature_record import changed_meanings, read_schema, units_of
from tasks.datasets.golden import read_golden
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.datasets.seen import known_test_rows
from tasks.errors import DataError
from tasks.gates.batching import judge_batching
from tasks.gates.change import judge_change
from tasks.gates.contract import Meanings, judge_contract
from tasks.gates.golden import judge_golden
from tasks.gates.latency import judge_latency
from tasks.gates.parity import Tolerance, judge_parity, tolerances
from tasks.gates.quality import AnsweredRows, judge_quality
from tasks.gates.reading import of_own_metrics, reading_of, reading_of_champion, why_not_compared
from tasks.gates.replay import judge_replay
from tasks.gates.robustness import judge_robustness
from tasks.gates.safety import judge_safety
from tasks.gates.size import judge_size
from tasks.gates.way_back import judge_way_back, recorded_answers
from tasks.records import Candidate, Champion, GateResult, GraphFacts, ServedAnswers


@dataclass(frozen=True)
class Evidence:
    """Everything that the gates judge.

    Attributes:
        keras_names: served name of an output: Keras' name of it, which is what the loader calls its target.
    """

    gates: Gates
    candidate: Candidate
    served: ServedAnswers
    keras_names: Mapping[str, str] = field(default_factory=dict)


def judge_files(gates: Gates, graph: GraphFacts, champion: Champion | None) -> tuple[GateResult, ...]:
    """Return the verdicts on the files alone, before any server loads them."""
    found = {
        "safety": judge_safety(graph, gates.safety),
        "size": judge_size(graph, champion.graph if champion else None, gates.size),
    }
    return tuple(result for name, result in found.items() if name in gates.judging)


def judge(
    gates: Gates,
    candidate: Candidate,
    *served: ServedAnswers | GateResult,
    keras_names: Mapping[str, str] | None = None,
) -> tuple[GateResult, ...]:
    """Return every gate's verdict on the answers of each server; from the second server on, gate names have its number.

    Args:
        served: a server that refused the candidate has given its verdict already.

    Raises:
        DataError: the configured metrics or the golden file do not fit the answers.
    """
    results: list[GateResult] = []
    for number, answers in enumerate(served, start=1):
        if isinstance(answers, GateResult):
            found = [answers]
        else:
            found = _judged(Evidence(gates, candidate, answers, keras_names or {}))
        results += found if number == 1 else [replace(result, name=f"{result.name}.{number}") for result in found]
    return tuple(results)


def _judged(evidence: Evidence) -> list[GateResult]:
    judging = evidence.gates.judging
    found = [result for name in judging if name in JUDGES for result in JUDGES[name](evidence)]
    return [*found, *_way_back(evidence)]


def _contract(evidence: Evidence) -> Iterator[GateResult]:
    beside, ours = evidence.served.champion, read_schema(evidence.candidate.version_dir)
    yield judge_contract(
        evidence.candidate.signature,
        evidence.served.signature,
        beside.signature if beside else None,
        evidence.gates.allow_breaking,
        read_contract(file) if (file := evidence.gates.contract.file) else None,
        Meanings(units_of(ours), changed_meanings(ours, beside.declared if beside else None)),
    )


def _parity(evidence: Evidence) -> Iterator[GateResult]:
    candidate, served = evidence.candidate, evidence.served
    answers, alike = load_arrays(served.answers), candidate.reference_batches
    yield judge_parity(
        answers,
        load_arrays(candidate.reference),
        tolerances(candidate.signature, evidence.gates.atol, evidence.gates.rtol),
        small_batches=load_arrays(served.small_batches) if served.small_batches else None,
        same_batches=load_arrays(alike) if alike.is_file() else None,
        outputs=candidate.signature.outputs,
        inputs=load_arrays(candidate.requests),
    )
    if served.other_answers is not None:  # the same server over the other transport: no tolerance
        exact = dict.fromkeys(answers, Tolerance(0, 0))
        yield replace(judge_parity(load_arrays(served.other_answers), answers, exact), name="transport")


def _batching(evidence: Evidence) -> Iterator[GateResult]:
    batches = evidence.served.batches
    if batches is not None:
        gates, signature = evidence.gates, evidence.candidate.signature
        yield judge_batching(
            batches,
            load_arrays(batches.answers) if batches.answers else {},
            load_arrays(evidence.candidate.reference),
            tolerances(signature, gates.atol, gates.rtol),
            signature.outputs,
        )


def _golden(evidence: Evidence) -> Iterator[GateResult]:
    golden = evidence.gates.golden
    if golden.file is not None and evidence.served.golden is not None:
        expected = read_golden(golden.file, evidence.candidate.signature)[1]
        yield judge_golden(load_arrays(evidence.served.golden), expected, golden.atol, golden.rtol)


def _quality(evidence: Evidence) -> Iterator[GateResult]:
    if not load_rows(evidence.candidate.targets).targets:
        yield GateResult("quality", True, "nothing could be scored: the rows have no target")
        return
    result = judge_quality(evidence.gates, judged_rows(evidence))
    beside = evidence.served.champion
    if beside is not None and beside.answers is None:
        apart = "not compared, because the champion does not accept these rows"
        note = None if result.note is None else f"{result.note}; {apart}"
        result = replace(result, summary=f"{result.summary}; {apart}", note=note)
    yield result


def _latency(evidence: Evidence) -> Iterator[GateResult]:
    found = evidence.served.latency
    if found is not None:
        samples = load_arrays(found.samples)
        gates = evidence.gates
        yield judge_latency(
            samples, found.requests_per_s, found.cold_ms, found.memory_mb, gates.latency, found.capacity,
            gates.capacity.min_requests_per_s,
        )  # fmt: skip


def _robustness(evidence: Evidence) -> Iterator[GateResult]:
    yield judge_robustness(evidence.served.probes)


def _change(evidence: Evidence) -> Iterator[GateResult]:
    change = evidence.served.change
    if change is not None:
        requests = load_arrays(change.requests) if change.requests else {}
        yield judge_change(change, requests, evidence.gates.change)


def _way_back(evidence: Evidence) -> Iterator[GateResult]:
    """Judge the way back wherever it was asked for; `gates.use` cannot leave it out."""
    way, gates = evidence.served.way_back, evidence.gates
    if way is None:
        return
    if way.recorded is None or way.answers is None:
        yield judge_way_back(way)
        return
    try:
        then = recorded_answers(way.recorded)
    except DataError as exc:
        yield judge_way_back(replace(way, recorded=None, unproven=str(exc)))
        return
    tolerance = tolerances(way.recorded.signature, gates.atol, gates.rtol)
    yield judge_way_back(way, load_arrays(way.answers), then, tolerance)


def _replay(evidence: Evidence) -> Iterator[GateResult]:
    found, beside = evidence.served.replay, evidence.served.champion
    if found is not None:
        other = beside is not None and set(evidence.candidate.signature.inputs) != set(beside.signature.inputs)
        yield judge_replay(evidence.gates, found, breaking=other and evidence.gates.allow_breaking)


JUDGES: dict[str, Callable[[Evidence], Iterator[GateResult]]] = {
    "contract": _contract,
    "parity": _parity,
    "batching": _batching,
    "golden": _golden,
    "quality": _quality,
    "latency": _latency,
    "robustness": _robustness,
    "change": _change,
    "replay": _replay,
}


def judged_rows(evidence: Evidence) -> AnsweredRows | None:
    """Return the output that the metrics judge with its target and what slices it, or None where none is named.

    Raises:
        DataError: a name in `gates` is not one of the outputs, targets or features.
    """
    gates, served = evidence.gates, evidence.served
    answers = load_arrays(served.answers)
    alone = own_rows(gates, evidence.candidate, answers, evidence.keras_names)
    beside = served.champion
    if alone is None or beside is None:
        return alone
    name, target, reading = alone.output, alone.target, alone.own.reading
    champion = load_arrays(beside.answers).get(name) if beside.answers else None
    if champion is None or champion.shape[1:] != answers[name].shape[1:]:
        return alone  # another shape cannot be scored alike; the contract gate names it
    its = reading_of_champion(beside.readings.get(name), reading, target, champion)
    seen, unknown = known_test_rows(evidence.candidate, beside.seen)
    apart = "" if of_own_metrics(gates) else why_not_compared(reading, its, target, champion)
    return replace(alone, champion=champion, champion_reading=its, seen=seen, unknown=apart or unknown)


def own_rows(
    gates: Gates, candidate: Candidate, answers: Mapping[str, Array], keras_names: Mapping[str, str]
) -> AnsweredRows | None:
    """Return the output that the metrics judge with the candidate's targets, or None where none is named.

    Args:
        answers: what was served for the rows of these targets, by name of the output.
        keras_names: as in `Evidence`.

    Raises:
        DataError: a name in `gates` is not one of the outputs, targets or features.
    """
    rows = load_rows(candidate.targets)
    if not gates.metrics and not gates.metric_output and len(answers) > 1:
        return None
    name = judged_output(gates, list(answers))
    keras_name = keras_names.get(name, name)
    target = rows.targets.get(keras_name) if len(rows.targets) > 1 else next(iter(rows.targets.values()))
    if target is None:
        raise DataError(f"output '{name}' needs a target of the same name; targets are {', '.join(rows.targets)}")
    target = np.array(target)  # a metric of the user's may write into it, but not into a mapped file
    check_slices(gates, rows.features)
    reading = reading_of(gates, candidate, name, target, answers[name])
    slices = {feature: rows.features[feature] for feature in gates.slices}
    return AnsweredRows(target, answers[name], None, slices, reading, None, name)


def judged_output(gates: Gates, outputs: Sequence[str]) -> str:
    """Return the output that the metrics judge; there is no need to name the only one.

    Raises:
        DataError: `gates.metric_output` names none of them.
    """
    name = gates.metric_output or (outputs[0] if len(outputs) == 1 else "")
    if name not in outputs:
        raise DataError(f"gates.metric_output must be one of {', '.join(outputs)}, got '{name}'")
    return name


def check_slices(gates: Gates, features: Mapping[str, object]) -> None:
    """Raise `DataError` if `gates.slices` names something that is not a feature of the rows."""
    for name in gates.slices:
        if name not in features:
            raise DataError(f"gates.slices must name features, got '{name}'; they are {', '.join(features)}")
