"""Checks that production gives the validated answers."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tasks.datasets.blocks import rows_per_request
from tasks.datasets.rows import load_arrays
from tasks.errors import AccessDenied, PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.gates.parity import comparable, judge_parity, repeated, tolerances
from tasks.records import Signature
from tasks.serving.client import Access, ModelClient, RestClient

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


@dataclass(frozen=True)
class Endpoint:
    """One production server of a model.

    Attributes:
        address: of its REST or gRPC interface (`http`, `https`, `grpc`, `grpcs`). name: of the model.
        access: what the server requires of its clients.
    """

    address: str
    name: str
    access: Access = field(default_factory=Access)

    def client(self) -> ModelClient:
        """Return a client of the model."""
        scheme, _, target = self.address.partition("://")
        if scheme in ("http", "https"):
            return RestClient(self.address, self.name, REQUEST_TIMEOUT_S, access=self.access)
        from tasks.serving.grpc_client import GrpcClient  # imports grpc

        access = replace(self.access, tls=scheme == "grpcs")
        return GrpcClient(target, self.name, REQUEST_TIMEOUT_S, access=access)


def is_there(endpoint: Endpoint) -> bool:
    """Return whether a server answers, with any answer.

    Raises:
        AccessDenied: it answers nothing to this client.
    """
    with contextlib.closing(endpoint.client()) as client:
        try:
            client.states()
        except AccessDenied:
            raise
        except (ServingUnavailable, ServingTimeout):
            return False
        except ServingError:
            return True
    return True


def problem_at_any(
    endpoints: Sequence[Endpoint], version: int, expected: Expected | None, timeout_s: float, label: str = ""
) -> str:
    """Return why one or several of the production servers do not serve a version, or an empty string if all do.

    All are asked at the same time, so that the slowest decides how long this takes.

    Args:
        label: what it must be served as, or empty for its number.
    """
    if len(endpoints) == 1:  # in this thread, which an interrupt stops immediately
        return live_problem(endpoints[0], version, expected, timeout_s, label)
    found: list[Future[str]] = []
    for endpoint in endpoints:
        found.append(Future())
        work = partial(live_problem, endpoint, version, expected, timeout_s, label)
        # The threads are daemons, so that an interrupt does not wait for a server that does not answer.
        threading.Thread(target=_settle, args=(found[-1], work), daemon=True).start()
    return "; ".join(problem for future in found if (problem := future.result()))


def _settle(future: Future[str], work: Callable[[], str]) -> None:
    try:
        future.set_result(work())
    except BaseException as exc:  # noqa: BLE001  raised in the waiting thread
        future.set_exception(exc)


def live_problem(endpoint: Endpoint, version: int, expected: Expected | None, timeout_s: float, label: str = "") -> str:
    """Return why a production server does not serve a version as it was validated, or an empty string if it does.

    Args:
        expected: None if the validated answers are unknown; then the version only has to be AVAILABLE.
        timeout_s: seconds until it must be AVAILABLE, or until the label must name it.
        label: what it must be served as, or empty for its number.
    """
    with contextlib.closing(endpoint.client()) as client:
        problem = (
            _not_labelled(client, label, version, timeout_s) if label else _not_available(client, version, timeout_s)
        )
        if not problem and expected is not None:
            problem = _difference(client, endpoint, version, expected, label)
    return problem and f"production at {endpoint.address}: {problem}"


def _not_labelled(client: ModelClient, label: str, version: int, timeout_s: float) -> str:
    """Wait until a label names a version; return why it does not, or an empty string."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            named = client.labelled(label)
        except ServingError as exc:  # it has not read the file yet
            named, seen = 0, str(exc)
        else:
            seen = f"it names version {named}"
        if named == version:
            return ""
        if time.monotonic() > deadline:
            return f"the label '{label}' did not name version {version} after {timeout_s:g} s: {seen}"
        time.sleep(POLL_S)


def _not_available(client: ModelClient, version: int, timeout_s: float) -> str:
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


def _difference(client: ModelClient, endpoint: Endpoint, version: int, expected: Expected, label: str = "") -> str:
    """Send the first rows again, and return how the answers differ from the validated ones, or an empty string."""
    signature = expected.signature
    if signature.beyond_rest and not endpoint.address.startswith("grpc"):
        log.warning(
            "version %d only has to be AVAILABLE: REST cannot carry %s",
            version,
            ", ".join(map(str, signature.beyond_rest)),
        )
        return ""
    requests, count = load_arrays(expected.requests), expected.rows
    if any(spec.is_ragged for spec in signature.outputs):  # in one batch, like the validated one
        count = min(count, rows_per_request(requests, endpoint.access.most_rows))
    rows = {name: array[:count] for name, array in requests.items()}
    validated = {name: array[:count] for name, array in load_arrays(expected.answers).items()}
    what = f"version {version}" + (f" as '{label}'" if label else "")
    try:
        served = client.predict(label or version, rows, signature.outputs, signature.name)
    except (PredictionError, ServingError) as exc:
        return f"it does not answer {what}: {exc}"
    # the validated answers may come from batches with other rows
    pairs = {s.name: repeated(*comparable(served[s.name], validated[s.name], s)) for s in signature.outputs}
    now, then = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    gate = judge_parity(now, then, tolerances(signature, expected.atol, expected.rtol))
    return "" if gate.passed else f"it answers {what} differently than validated: {gate.summary}"
