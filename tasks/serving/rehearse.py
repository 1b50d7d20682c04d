"""One rehearsal: starts a server on a candidate, sends every request that the gates judge, and stops the server.

phase A   the candidate alone, so that a model that cannot be served is not hidden by one that can
phase B   candidate and champion in one server, each pinned: the same rows, and time measurements in turns
way back  the version that a rollback would return to is asked what it was asked when it was judged: in phase B if it is
          the champion; alone if it is another version, or if phase B failed, to find out which version is at fault
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from configs.sections.serving import Serving
from configs.serving_flags import batches
from tasks.datasets.blocks import small_batches
from tasks.datasets.feature_record import read_schema
from tasks.datasets.golden import read_golden
from tasks.datasets.readings import read_readings
from tasks.datasets.rows import Array, load_arrays
from tasks.errors import (
    MemoryExceeded,
    ServerCrashed,
    ServingError,
    ServingUnavailable,
)
from tasks.records import (
    Candidate,
    Champion,
    ServedAnswers,
    ServedChampion,
    ServedChange,
    ServedLatency,
    ServerFacts,
    Signature,
)
from tasks.serving.batching import ask_concurrently
from tasks.serving.capacity import measure_capacity
from tasks.serving.client import ModelClient, RestClient
from tasks.serving.exits import CRASH_REMEDY, server_words
from tasks.serving.launch import ThrowawayServer, throwaway_server
from tasks.serving.load import time_requests
from tasks.serving.probes import probe, up_to_the_end
from tasks.serving.rehearsal import OWN, Rehearsal, open_clients
from tasks.serving.replay import ReplayBroken, Sender, after_crash, replay
from tasks.serving.way_back import alone, blamed, is_way_back, repeated

if TYPE_CHECKING:  # it imports grpc
    from tasks.serving.grpc_client import GrpcClient

T = TypeVar("T")


def rehearse(rehearsal: Rehearsal) -> ServedAnswers:
    """Return the answers of a real server to all requests that the gates judge.

    Raises:
        ModelLoadError, PredictionError: the server refused the candidate or its rows.
        ServingError: the server gave no usable answers.
        DataError: the golden file cannot be used.
    """
    rows = load_arrays(rehearsal.candidate.requests)
    served, way = replace(_phase_a(rehearsal, rows), way_back=rehearsal.way_back), rehearsal.way_back
    if rehearsal.champion is not None:
        try:
            served = _phase_b(rehearsal, rehearsal.champion, rows, served)
        except MemoryExceeded as exc:  # so it would be in production, where the change needs both at the same time
            if "change" not in rehearsal.gates.judging:
                raise
            killed = ServedChange(rehearsal.champion.version, rehearsal.candidate.version, killed=killed_words(exc))
            return replace(served, change=killed, way_back=None)  # which was not asked
        except OWN as exc:  # the candidate was served alone, so the cause is not in it
            return replace(served, way_back=blamed(rehearsal, rehearsal.champion, exc))
    if way is not None and way.version_dir is not None and not is_way_back(way, rehearsal.champion):
        served = replace(served, way_back=alone(rehearsal, way))
    return served


def _phase_a(rehearsal: Rehearsal, rows: Mapping[str, Array]) -> ServedAnswers:
    """Send the requests to the candidate alone."""
    serving, candidate, backend = rehearsal.serving, rehearsal.candidate, rehearsal.backend
    log_file, begun = rehearsal.directory / "server.log", time.monotonic()
    with throwaway_server(backend, serving, candidate, log_file) as (server, rest):
        startup_s = time.monotonic() - begun - server.waited_s
        facts = ServerFacts(
            backend.kind, backend.reason, server.image, server.image_id, server.version, startup_s, log_file,
            backend.url, serving.args,
        )  # fmt: skip
        with open_clients(serving, server, rest) as clients:
            cold_ms = _seconds(lambda: _predict(candidate, clients[0], _head(rows, 1)))[0] * 1e3
            memory_mb = server.memory_mb()
            served = _ask(rehearsal, facts, clients, rows)
            if batches(serving.args) and "batching" in rehearsal.gates.judging:
                served = replace(served, batches=ask_concurrently(candidate, clients[0], rows, rehearsal.save))
        served, ended = _probed(rehearsal, server, rest, served, rows)
        if "latency" in rehearsal.gates.judging and not ended:
            versions = {"candidate": candidate.version}
            samples, rates = _time(rehearsal, server, versions, rows)
            capacity = {} if rehearsal.champion else _capacity(rehearsal, server, versions, rows, rates)
            served = replace(served, latency=ServedLatency(samples, rates, memory_mb, cold_ms, capacity))
        if rehearsal.champion is None and not ended:
            served = _replayed(rehearsal, server, served)
    return served


def _phase_b(
    rehearsal: Rehearsal, champion: Champion, rows: Mapping[str, Array], alone: ServedAnswers
) -> ServedAnswers:
    """Send the same requests to the champion, with the candidate in the same server."""
    serving, candidate, log_file = rehearsal.serving, rehearsal.candidate, rehearsal.directory / "server_both.log"
    with throwaway_server(rehearsal.backend, serving, candidate, log_file, champion) as (server, rest):
        with open_clients(serving, server, rest) as (first, *_):
            signature = _signature(first, champion.version, candidate.signature.name)
            answers, way = None, rehearsal.way_back
            if way is not None and is_way_back(way, champion):
                way = repeated(rehearsal, way, first)
            # A champion with other inputs cannot answer these rows; the contract gate reports the differences.
            # Neither can a champion whose dtypes the transport does not carry.
            asked = serving.protocol == "grpc" or not signature.beyond_rest
            if asked and _takes(signature, alone.signature, rows):
                found = first.predict(champion.version, rows, signature.outputs, signature.name)
                answers = rehearsal.save("champion", found)
        latency, versions = alone.latency, {"candidate": candidate.version}
        if latency is not None:
            if answers is not None and not signature.beyond_rest:
                versions["champion"] = champion.version
                samples, rates = _time(rehearsal, server, versions, rows)
                latency = replace(latency, samples=samples, requests_per_s=rates)
            capacity = _capacity(rehearsal, server, versions, rows, latency.requests_per_s)
            latency = replace(latency, capacity=capacity)
        readings = read_readings(champion.version_dir)
        beside = ServedChampion(signature, answers, readings, champion.seen, read_schema(champion.version_dir))
        return _replayed(rehearsal, server, replace(alone, champion=beside, latency=latency, way_back=way))


def killed_words(error: MemoryExceeded) -> str:
    """Return the words of the change gate about a server that was killed at its memory limit."""
    words = str(error).split(". ")[0]
    return f"{words[0].lower()}{words[1:]}. Make the model smaller, or raise serving.memory_mb if production has more"


def _replayed(rehearsal: Rehearsal, server: ThrowawayServer, served: ServedAnswers) -> ServedAnswers:
    """Return the answers with what became of recorded requests, if there are any."""
    if rehearsal.tally is None:
        return served
    serving, versions = rehearsal.serving, [rehearsal.candidate.version]
    if rehearsal.champion is not None:
        versions.append(rehearsal.champion.version)
    tally, timeout_s = rehearsal.tally(served), serving.request_timeout_s
    try:
        with _over_grpc(serving, server) as client:
            return replace(served, replay=replay(tally, server, versions, timeout_s, client))
    except ReplayBroken as broken:
        if not isinstance(broken.ended, ServerCrashed):
            raise
        log_file = rehearsal.directory / "server_replay.log"
        with (
            throwaway_server(rehearsal.backend, serving, rehearsal.candidate, log_file) as (alone, _),
            _over_grpc(serving, alone) as client,
            contextlib.closing(Sender(alone, timeout_s, client)) as sender,
        ):
            return replace(served, replay=after_crash(tally, broken, alone, sender, versions[0]))


@contextlib.contextmanager
def _over_grpc(serving: Serving, server: ThrowawayServer) -> Iterator[GrpcClient | None]:
    """Yield a client for recorded PredictRequests, or None if gRPC is off."""
    if serving.protocol == "rest":
        yield None
        return
    from tasks.serving.grpc_client import GrpcClient  # imports grpc

    with contextlib.closing(GrpcClient(server.grpc_target, server.served_name, serving.request_timeout_s)) as client:
        yield client


def _ask(
    rehearsal: Rehearsal, facts: ServerFacts, clients: Sequence[ModelClient], rows: Mapping[str, Array]
) -> ServedAnswers:
    """Request the answers to all rows, to some rows in small batches, and to the golden rows."""
    candidate, (first, *others) = rehearsal.candidate, clients
    n_rows = len(next(iter(rows.values())))
    seconds, answers = _seconds(lambda: _predict(candidate, first, rows))
    small = {
        f"{batch}/{name}": array
        for batch, part in small_batches(rows, rehearsal.serving.most_rows)
        for name, array in _predict(candidate, first, part, together=True).items()
    }
    golden = rehearsal.gates.golden.file if "golden" in rehearsal.gates.judging else None
    golden_rows = read_golden(golden, candidate.signature)[0] if golden else None
    return ServedAnswers(
        facts,
        _signature(first, candidate.version, candidate.signature.name),
        rehearsal.save("served", answers),
        n_rows,
        n_rows / seconds,
        rehearsal.save("served_grpc", _predict(candidate, others[0], rows)) if others else None,
        rehearsal.save("small_batches", small),
        rehearsal.save("golden", _predict(candidate, first, golden_rows)) if golden_rows else None,
    )


def _predict(
    candidate: Candidate, client: ModelClient, rows: Mapping[str, Array], *, together: bool = False
) -> dict[str, Array]:
    signature = candidate.signature
    return client.predict(candidate.version, rows, signature.outputs, signature.name, together=together)


def _signature(client: ModelClient, version: int, name: str) -> Signature:
    inputs, outputs = client.signature_def(version, name)
    return Signature(tuple(inputs), tuple(outputs), name)


def _takes(champion: Signature, candidate: Signature, rows: Mapping[str, Array]) -> bool:
    """Return whether the candidate's rows fit the champion's inputs too; a server does not check shapes."""
    return {s.name: s.dtype for s in champion.inputs} == {s.name: s.dtype for s in candidate.inputs} and all(
        spec.shape is None
        or (
            len(spec.shape) == rows[spec.name].ndim
            and all(want in (None, got) for want, got in zip(spec.shape, rows[spec.name].shape, strict=True))
        )
        for spec in champion.inputs
    )


def _head(rows: Mapping[str, Array], size: int) -> dict[str, Array]:
    return {name: array[:size] for name, array in rows.items()}


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    begun = time.monotonic()
    result = work()
    return time.monotonic() - begun, result


def _probed(
    rehearsal: Rehearsal, server: ThrowawayServer, rest: RestClient, served: ServedAnswers, rows: Mapping[str, Array]
) -> tuple[ServedAnswers, bool]:
    """Return the answers with those to the probes, and whether the server crashed at one.

    Raises:
        ServingError: the server ended for another reason, such as its memory limit, or for an unknown one.
    """
    if "robustness" not in rehearsal.gates.judging:
        return served, False
    candidate, timeout_s = rehearsal.candidate, rehearsal.serving.request_timeout_s
    probes = probe(
        server.rest_url, candidate, rows, rehearsal.gates.robustness, timeout_s, most_rows=rehearsal.serving.most_rows,
        served_name=server.served_name, unanswered=lambda case: _check_attached(server, case),
    )  # fmt: skip
    _check_attached(server, probes[-1].case)
    error = None if probes[-1].status else _end(server, rest, candidate)
    if error is None:
        return replace(served, probes=probes), False
    if not isinstance(error, ServerCrashed):
        raise error
    words = f"The server crashed: {server_words(server.log())}. {CRASH_REMEDY}"
    return replace(served, probes=up_to_the_end(probes, words)), True


def _check_attached(server: ThrowawayServer, case: str) -> None:
    """Raise the error of an attached server that lost the model: why is unknown, so that it is not a verdict."""
    if server.backend == "attached" and (error := server.ended()):
        raise ServingError(f"{error}. The last request of the robustness gate was '{case}'", error.detail)


def _end(server: ThrowawayServer, rest: RestClient, candidate: Candidate) -> ServingError | None:
    """Return why a server ended, or None if it is running."""
    try:
        rest.signature_def(candidate.version, candidate.signature.name)  # retries for two seconds
    except ServingUnavailable:
        return server.ended()
    except ServingError:
        return None
    return None


def _time(
    rehearsal: Rehearsal, server: ThrowawayServer, versions: Mapping[str, int], rows: Mapping[str, Array]
) -> tuple[Path, dict[str, float]]:
    """Save the milliseconds of each request; return the file, and the requests per second of each version."""
    candidate = rehearsal.candidate
    timed = time_requests(
        server.rest_url, server.served_name, versions, rows, candidate.signature.name, rehearsal.gates.latency,
        rehearsal.serving.request_timeout_s,
    )  # fmt: skip
    path = rehearsal.save("latency", {name: found.milliseconds for name, found in timed.items()})
    return path, {name: found.requests_per_s for name, found in timed.items()}


def _capacity(
    rehearsal: Rehearsal, server: ThrowawayServer, versions: Mapping[str, int], rows: Mapping[str, Array],
    rates: Mapping[str, float],
) -> dict[str, float]:  # fmt: skip
    """Return the requests per second that each version sustains, or nothing if this is not to be measured."""
    if not rehearsal.gates.capacity.measure:
        return {}
    return measure_capacity(
        server.rest_url, server.served_name, versions, rows, rehearsal.candidate.signature.name, rehearsal.gates,
        rehearsal.serving.request_timeout_s, rates,
    )  # fmt: skip
