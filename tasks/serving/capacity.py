"""Finds the highest rate of independent requests at which a server keeps a bound on its 99th percentile."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

from configs.sections.gates import Gates
from tasks.datasets.predict_body import predict_body
from tasks.datasets.rows import Array
from tasks.serving.load import row_blocks
from tasks.serving.open_loop import Connection, OpenLoop, RestConnection

log = logging.getLogger(__name__)
CLOSE = 1.04  # the tries end when the lowest rate that is too high is at most so many times the highest that is not
FEWER = 8  # how many times fewer requests the first tries have
STEP = 1.25
LEAST = 1000  # a rate that is so many times lower than the first one is not looked for
CONNECTIONS = 64
MAY_EXCEED = 0.01  # of the requests, which is what a 99th percentile is
LOOK_S = 0.01


def highest_rate(
    sustains: Callable[[float, int], bool], start: float, requests: int, goes_on: Callable[[], bool] = lambda: True
) -> float:
    """Return the highest rate found that is sustained; 0 if none is.

    It is looked for in steps of a factor of 2 with a part of the requests, then in smaller steps, which trust none of
    the tries before, and at last by bisection.

    Args:
        sustains: tries a rate with a number of requests. start: the first rate.
        requests: of each try but the first ones.
        goes_on: whether there is time for another try.
    """
    low, high = _bracket(lambda rate: sustains(rate, requests // FEWER), start, 2, goes_on)
    if low and goes_on():
        best = low  # of the short tries, in case that the time ends before a long one is sustained
        low, high = _bracket(lambda rate: sustains(rate, requests), math.sqrt(low * high), STEP, goes_on)
        low = low if low or goes_on() else best
    while low and high / low > CLOSE and goes_on():
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sustains(middle, requests) else (low, middle)
    return low


def _bracket(
    sustains: Callable[[float], bool], start: float, factor: float, goes_on: Callable[[], bool]
) -> tuple[float, float]:
    """Return the last rate that is sustained and the next one, which is not; (0, 0) if none is."""
    rate = start
    if sustains(rate):
        while goes_on() and sustains(rate * factor):
            rate *= factor
        return rate, rate * factor
    while goes_on() and rate > start / LEAST:
        rate /= factor
        if sustains(rate):
            return rate, rate * factor
    return 0.0, 0.0


def keeps_bound(  # noqa: PLR0913, PLR0917  what is sent, how fast, and what must hold
    connect: Callable[[], Connection],
    n_different: int,
    rate: float,
    requests: int,
    most_ms: float,
    goes_on: Callable[[], bool] = lambda: True,
) -> bool:
    """Return whether at most 1 % of the requests take longer than `most_ms`; a try that has failed ends early.

    A try that the time ends has not shown that the bound holds.

    Args:
        connect: opens a connection. n_different: numbers below it are sent, in turn.
        rate: requests per second on average. requests: how many are sent, on average.
        goes_on: whether there is time to go on.
    """
    loop = OpenLoop([connect], n_different, rate, connections=CONNECTIONS, most_ms=most_ms)
    allowed = MAY_EXCEED * requests
    with loop.running():
        while (early := loop.now() < requests / rate) and loop.exceeding <= allowed and goes_on():
            time.sleep(LOOK_S)
        if early:
            loop.drop()
    return not early and loop.exceeding <= allowed


def measure_capacity(  # noqa: PLR0913, PLR0917  as of `time_requests`
    base_url: str,
    model_name: str,
    versions: Mapping[str, int],
    inputs: Mapping[str, Array],
    signature_name: str,
    gates: Gates,
    timeout_s: float,
    starts: Mapping[str, float],
) -> dict[str, float]:
    """Return the capacity of each version in requests per second, one version after the other.

    Args:
        versions: maps the name of a result, such as `candidate` or `champion`, to a version.
        inputs: the test rows, one array for each input. starts: the rates to begin with, by the same names.
    """
    bodies = [predict_body(block, signature_name) for block in row_blocks(inputs, gates.latency.rows)]
    most_ms, settings = gates.latency.max_p99_ms, gates.capacity

    def capacity(version: int, start: float) -> float:
        path, deadline = f"/v1/models/{model_name}/versions/{version}:predict", time.monotonic() + settings.max_seconds

        def connect() -> Connection:
            return RestConnection(base_url, path, bodies, timeout_s)

        def goes_on() -> bool:
            return time.monotonic() < deadline

        found = highest_rate(
            lambda rate, requests: keeps_bound(connect, len(bodies), rate, requests, most_ms, goes_on),
            start, settings.requests, goes_on,
        )  # fmt: skip
        if not found and not goes_on():
            log.warning(
                "no capacity was found within %g s (gates.capacity.max_seconds); allow more", settings.max_seconds
            )
        return found

    return {name: capacity(version, starts[name] / 2) for name, version in versions.items()}
