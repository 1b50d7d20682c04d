"""Does production answer what was validated?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tasks.datasets.rows import load_arrays
from tasks.errors import PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.gates.parity import judge_parity, tolerances
from tasks.records import Signature
from tasks.serving.client import RestClient

POLL_S = 0.1
REQUEST_TIMEOUT_S = 30


@dataclass(frozen=True)
class Expected:
    """What a version was validated to answer.

    Attributes:
        requests: `.npz` of rows as the signature takes them. answers: `.npz` of the validated answers to them.
        rows: how many of the first ones are asked again. atol, rtol: as in the parity gate.
    """

    signature: Signature
    requests: Path
    answers: Path
    rows: int
    atol: float | None
    rtol: float | None


def is_there(base_url: str, name: str) -> bool:
    """Return whether somebody answers at an address, whatever the answer."""
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
        expected: None if nothing is known of the version; then it only has to be AVAILABLE.
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
    seen = "nobody answers"
    while True:
        try:
            state, message = client.states().get(version, ("unknown", ""))
        except ServingError as exc:  # not up, or the model's first version is still loading
            state, message = "", str(exc)
        if state == "AVAILABLE":
            return ""
        if state == "END" and message:  # without an error it was unloaded before, and may come again
            return f"version {version} ended with: {message}"
        seen = f"version {version} is {state}" if state else message
        if time.monotonic() > deadline:
            return f"not AVAILABLE after {timeout_s:g} s: {seen}"
        time.sleep(POLL_S)


def _difference(client: RestClient, version: int, expected: Expected) -> str:
    """Ask the first rows again; return how the answers differ from the validated ones, or an empty string."""
    signature = expected.signature
    rows = {name: array[: expected.rows] for name, array in load_arrays(expected.requests).items()}
    validated = {name: array[: expected.rows] for name, array in load_arrays(expected.answers).items()}
    try:
        served = client.predict(version, rows, signature.outputs, signature.name)
    except (PredictionError, ServingError) as exc:
        return f"production does not answer version {version}: {exc}"
    gate = judge_parity(served, validated, tolerances(signature, expected.atol, expected.rtol))
    return "" if gate.passed else f"production answers version {version} otherwise than validated: {gate.summary}"
