"""Checks that production gives the validated answers."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.datasets.blocks import rows_per_request
from tasks.datasets.rows import load_arrays
from tasks.errors import PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.gates.parity import comparable, judge_parity, tolerances
from tasks.records import Signature
from tasks.serving.client import RestClient

log = logging.getLogger(__name__)

POLL_S = 0.1
REQUEST_TIMEOUT_S = 30


@dataclass(frozen=True)
class Expected:
    """The validated answers of a version.

    Attributes:
        requests: `.npz` of rows in the form of the signature. answers: `.npz` of the validated answers to them.
        rows: how many of the first rows are sent again. atol, rtol: as in the parity gate.
    """

    signature: Signature
    requests: Path
    answers: Path
    rows: int
    atol: float | None
    rtol: float | None


def is_there(base_url: str, name: str) -> bool:
    """Return whether a server answers at an address, with any answer."""
    client = RestClient(base_url, name, REQUEST_TIMEOUT_S)
    try:
        client.states()
    except (ServingUnavailable, ServingTimeout):
        return False
    except ServingError:
        return True
    finally:
        client.close()
    return True


def live_problem(base_url: str, name: str, version: int, expected: Expected | None, timeout_s: float) -> str:
    """Return why production does not serve a version as it was validated, or an empty string if it does.

    Args:
        expected: None if the validated answers are unknown; then the version only has to be AVAILABLE.
        timeout_s: seconds until it must be AVAILABLE.
    """
    client = RestClient(base_url, name, REQUEST_TIMEOUT_S)
    try:
        problem = _not_available(client, version, timeout_s)
        if problem or expected is None:
            return problem and f"production at {base_url}: {problem}"
        return _difference(client, version, expected)
    finally:
        client.close()


def _not_available(client: RestClient, version: int, timeout_s: float) -> str:
    """Wait until a version is AVAILABLE; return why it is not, or an empty string."""
    deadline = time.monotonic() + timeout_s
    seen = "no server answers"
    while True:
        try:
            state, message = client.states().get(version, ("unknown", ""))
        except ServingError as exc:  # it has not started, or is loading the model's first version
            state, message = "", str(exc)
        if state == "AVAILABLE":
            return ""
        if state == "END" and message:  # without an error, it was unloaded before and may be loaded again
            return f"version {version} ended with: {message}"
        seen = f"version {version} is {state}" if state else message
        if time.monotonic() > deadline:
            return f"the version was not AVAILABLE after {timeout_s:g} s: {seen}"
        time.sleep(POLL_S)


def _difference(client: RestClient, version: int, expected: Expected) -> str:
    """Send the first rows again, and return how the answers differ from the validated ones, or an empty string."""
    signature = expected.signature
    if signature.beyond_rest:
        log.warning(
            "version %d only has to be AVAILABLE: REST cannot carry %s",
            version,
            ", ".join(map(str, signature.beyond_rest)),
        )
        return ""
    requests, count = load_arrays(expected.requests), expected.rows
    if any(spec.is_ragged for spec in signature.outputs):  # in one batch, like the validated one
        count = min(count, rows_per_request(requests))
    rows = {name: array[:count] for name, array in requests.items()}
    validated = {name: array[:count] for name, array in load_arrays(expected.answers).items()}
    try:
        served = client.predict(version, rows, signature.outputs, signature.name)
    except (PredictionError, ServingError) as exc:
        return f"production does not answer version {version}: {exc}"
    # the validated answers may come from batches with other rows
    pairs = {spec.name: comparable(served[spec.name], validated[spec.name], spec) for spec in signature.outputs}
    now, then = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    gate = judge_parity(now, then, tolerances(signature, expected.atol, expected.rtol))
    return "" if gate.passed else f"production answers version {version} differently than validated: {gate.summary}"
