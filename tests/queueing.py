"""A queue with one server and a known service time: the truth that a measured capacity is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def arrivals(rate: float, count: int, seed: int) -> NDArray[np.float64]:
    """Return the times of a Poisson process, in seconds, shape (count,)."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def queueing_p99(times: NDArray[np.float64], service_s: float | NDArray[np.float64]) -> float:
    """Return the 99th percentile of the seconds that requests spend in a first-come, first-served queue.

    It is Lindley's recursion (The theory of queues with a single server, 1952): a request waits as long as the one
    before it waited and was served, less the time between the two.

    Args:
        times: of arrival, in seconds, ascending. service_s: seconds that a request takes, one number or one for each.
    """
    services = np.broadcast_to(service_s, len(times)).tolist()
    taken, waited = np.empty(len(times)), 0.0
    for number, (gap, service) in enumerate(zip(np.diff(times, prepend=times[:1]).tolist(), services, strict=True)):
        waited = max(0.0, waited + services[number - 1] - gap) if number else 0.0
        taken[number] = waited + service
    return float(np.percentile(taken, 99))
