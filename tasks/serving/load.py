"""Measures how long a server takes to answer the same requests to two versions in turn, with keep-alive."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from configs.sections.gates import Latency
from tasks.datasets.predict_body import predict_body
from tasks.datasets.rows import Array
from tasks.errors import PredictionError, ServingTimeout, ServingUnavailable
from tasks.words import one_line

ROUNDS = 10  # turns of each version, so that other load on the machine affects both
WARM_UP = 20  # requests to each version that are not measured
BODIES = 64  # different requests


class Timed(NamedTuple):
    """Milliseconds of each request, float64 of shape (requests,), and requests per second over all turns."""

    milliseconds: Array
    requests_per_s: float


def time_requests(  # noqa: PLR0913, PLR0917  (address, versions, rows and counts come from different owners)
    base_url: str,
    model_name: str,
    versions: Mapping[str, int],
    inputs: Mapping[str, Array],
    signature_name: str,
    latency: Latency,
    timeout_s: float,
) -> dict[str, Timed]:
    """Send `latency.requests` requests to each version, in turns, and return how long they took.

    The client is http.client, because requests takes as long as the server and would distort the measurement.

    Args:
        versions: maps the name of a result, such as `candidate` or `champion`, to a version.
        inputs: the test rows, one array for each input.

    Raises:
        PredictionError: a request was refused. ServingUnavailable: the server stopped.
    """
    bodies = [predict_body(block, signature_name) for block in row_blocks(inputs, latency.rows)]
    paths = {name: f"/v1/models/{model_name}/versions/{version}:predict" for name, version in versions.items()}
    times: dict[str, list[float]] = {name: [] for name in versions}
    seconds = dict.fromkeys(versions, 0.0)
    per_turn = max(1, -(-latency.requests // (ROUNDS * latency.concurrency)))
    with _Callers(base_url, latency.concurrency, timeout_s) as callers:
        for path in paths.values():
            callers.turn(path, bodies, WARM_UP)
        for turn in range(ROUNDS):
            order = list(paths.items())
            for name, path in order if turn % 2 else reversed(order):
                begun = time.perf_counter()
                times[name] += callers.turn(path, bodies, per_turn)
                seconds[name] += time.perf_counter() - begun
    return {name: Timed(np.array(taken) * 1e3, len(taken) / seconds[name]) for name, taken in times.items()}


def row_blocks(inputs: Mapping[str, Array], rows: int) -> list[dict[str, Array]]:
    """Return up to `BODIES` requests of `rows` rows each, which repeat the rows if there are too few."""
    picks = row_picks(len(next(iter(inputs.values()))), rows)
    return [{name: array[index] for name, array in inputs.items()} for index in picks]


def row_picks(n_rows: int, rows: int) -> list[Array]:
    """Return which rows up to `BODIES` requests of `rows` rows each have, int64 of shape (rows,)."""
    count = min(BODIES, max(1, n_rows // rows))
    return [np.arange(number * rows, (number + 1) * rows) % n_rows for number in range(count)]


class _Callers:
    """Threads with one connection each."""

    def __init__(self, base_url: str, concurrency: int, timeout_s: float) -> None:
        address = urlsplit(base_url)
        self._connections = [
            http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
            for _ in range(concurrency)
        ]
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="load")

    def __enter__(self) -> _Callers:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    def turn(self, path: str, bodies: Sequence[bytes], requests: int) -> list[float]:
        """Send `requests` requests on every connection concurrently; return the seconds of each request."""
        parts = self._pool.map(lambda connection: _send(connection, path, bodies, requests), self._connections)
        return list(itertools.chain.from_iterable(parts))


def _send(connection: http.client.HTTPConnection, path: str, bodies: Sequence[bytes], requests: int) -> list[float]:
    taken = []
    for body in itertools.islice(itertools.cycle(bodies), requests):
        begun = time.perf_counter()
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError as exc:
            raise ServingTimeout(
                f"the server must answer within {connection.timeout:g} s, but it did not answer {path}; "
                "raise serving.request_timeout_s"
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise ServingUnavailable(f"the server must answer at {path}, got {type(exc).__name__}") from exc
        taken.append(time.perf_counter() - begun)
        if answer.status != 200:
            words = one_line(content.decode(errors="replace"))
            raise PredictionError(f"POST {path} must be accepted, got {answer.status}: {words}")
    return taken
