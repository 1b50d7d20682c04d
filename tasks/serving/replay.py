"""Sends recorded requests to a candidate and to the champion in the same server, in constant memory."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from tasks.datasets.blocks import unanswered_rows
from tasks.datasets.strings import Array
from tasks.errors import (
    DataError,
    PredictionError,
    ServerCrashed,
    ServingError,
    ServingTimeout,
    ServingUnavailable,
)
from tasks.records import ServedReplay, TensorSpec
from tasks.replay.bodies import arrays_of, body_of, is_for
from tasks.replay.files import Request
from tasks.replay.tally import Answer, Tally
from tasks.serving.answers import parsed
from tasks.serving.client import RETRY_WAITS_S, TRANSIENT, array_of_json
from tasks.serving.exits import server_words
from tasks.serving.launch import ThrowawayServer
from tasks.serving.streaming import in_order
from tasks.words import one_line

if TYPE_CHECKING:  # it imports grpc
    from tasks.serving.grpc_client import GrpcClient

log = logging.getLogger(__name__)
PROGRESS_S = 5.0
LONGEST_WORDS = 4096  # bytes of a refusal that are read
Replayed = tuple[Request, Mapping[str, Array] | None, Answer, Answer | None]


class Sender:
    """Sends one recorded request to a version: JSON as it was recorded, a PredictRequest over gRPC if that is on."""

    def __init__(self, server: ThrowawayServer, timeout_s: float, grpc: GrpcClient | None) -> None:
        address = urlsplit(server.rest_url)
        self._host, self._port, self._timeout_s = address.hostname or "", address.port, timeout_s
        self._model, self._grpc, self._own = server.served_name, grpc, threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._opened:
            connection.close()

    def ask(self, request: Request, version: int, outputs: Sequence[TensorSpec] | None) -> Answer:
        """Return what a version answers, or why it refuses.

        Args:
            outputs: the outputs to read; None where the request asks for another signature, of which none is read.

        Raises:
            ServingUnavailable: the server does not answer any more.
        """
        try:
            if request.message is not None and self._grpc is not None:
                found = self._grpc.predict_request(version, request.message, outputs or ())
                problem = unanswered_rows(found)
                return Answer(None, problem) if problem else Answer(found)
            return self._over_rest(body_of(request), version, outputs)
        except (PredictionError, DataError) as exc:
            return Answer(None, str(exc))
        except ServingTimeout as exc:
            return Answer(None, str(exc), is_late=True)

    def _over_rest(self, body: bytes, version: int, outputs: Sequence[TensorSpec] | None) -> Answer:
        path = f"/v1/models/{self._model}/versions/{version}:predict"
        for wait_s in (*RETRY_WAITS_S, None):
            try:
                status, content = self._post(path, body)
            except TimeoutError:
                self._drop()
                return Answer(None, f"no answer within {self._timeout_s:g} s", is_late=True)
            except (OSError, http.client.HTTPException) as exc:
                self._drop()
                if wait_s is None:
                    raise ServingUnavailable(f"the server must answer at {path}, got {type(exc).__name__}") from exc
            else:
                if status == 200:
                    return Answer(_read(content, outputs) if outputs is not None else {})
                if status not in TRANSIENT or wait_s is None:
                    return Answer(None, f"{status}: {_words(content)}")
            time.sleep(wait_s)
        raise AssertionError  # the last try returned or raised

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
            self._own.connection = connection
            self._opened.append(connection)
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _drop(self) -> None:
        self._own.connection.close()  # the next request opens it again


class ReplayBroken(ServingUnavailable):
    """The server did not answer any more.

    Attributes:
        ended: why the server has ended, or None if it is running.
        requests: those that had no answer yet.
    """

    def __init__(self, message: str, ended: ServingError | None, requests: Sequence[Request]) -> None:
        super().__init__(message)
        self.ended = ended
        self.requests = tuple(sorted(requests, key=lambda one: one.number))


def replay(
    tally: Tally, server: ThrowawayServer, versions: Sequence[int], timeout_s: float, grpc: GrpcClient | None = None
) -> ServedReplay:
    """Send the requests of a tally to each version, and return what was counted.

    Args:
        versions: the candidate's and, if there is one, the champion's. timeout_s: for each answer.
        grpc: a client for PredictRequests; None sends them over REST.

    Raises:
        ReplayBroken: the server does not answer any more. DataError: the file cannot be read any further.
    """
    sender = Sender(server, timeout_s, grpc)
    pending: dict[int, Request] = {}

    def ask(request: Request) -> Replayed:
        pending[request.number] = request
        is_own = is_for(request, tally.signature)
        theirs = None
        if tally.champion is not None:
            theirs = sender.ask(request, versions[1], tally.champion.outputs if is_own else None)
        ours = sender.ask(request, versions[0], tally.signature.outputs if is_own else None)
        del pending[request.number]
        try:
            rows = arrays_of(request, tally.signature)
        except DataError:
            rows = None
        tally.transports.add("json" if request.message is None else "grpc" if grpc else "converted")
        return request, rows, ours, theirs

    begun = said = time.monotonic()
    try:
        for answered in in_order(ask, tally.requests()):
            tally.add(*answered)
            if tally.is_hopeless:
                break
            if time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                log.info("%d recorded requests sent, %d/s", tally.sent, tally.sent / (said - begun))
    except ServingUnavailable as exc:
        raise ReplayBroken(str(exc), server.ended(), list(pending.values())) from exc
    finally:
        sender.close()
    return tally.found()


def after_crash(
    tally: Tally, broken: ReplayBroken, alone: ThrowawayServer, sender: Sender, version: int
) -> ServedReplay:
    """Return what was counted before a crash, with the request at which the candidate crashes its server.

    Args:
        alone: a server with only the candidate, to which `sender` sends.

    Raises:
        ServingError: the candidate alone answers every request that had no answer.
    """
    for request in broken.requests:
        try:
            sender.ask(request, version, None)
        except ServingUnavailable:
            if not isinstance(error := alone.ended(), ServerCrashed):
                raise (error or broken) from broken
            tally.crashed(request, server_words(alone.log()))
            return tally.found()
    numbers = ", ".join(f"{request.number:,}" for request in broken.requests)
    raise ServingError(
        f"the server with both versions crashed when the recorded requests {numbers} had no answer yet, but the "
        f"candidate alone answers them, so that it is unknown which version crashed it: {broken.ended}"
    ) from broken


def _read(content: bytes, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the answers to a request with `instances` or with `inputs`, one array for each output.

    Source: https://www.tensorflow.org/tfx/serving/api_rest#predict_api: with a single output its values have no name.
    """
    try:
        answer: Any = parsed(content)
        if "predictions" in answer:
            rows = answer["predictions"]
            named = {spec.name: [row[spec.name] for row in rows] if len(outputs) > 1 else rows for spec in outputs}
        else:
            found = answer["outputs"]
            named = {spec.name: found[spec.name] if len(outputs) > 1 else found for spec in outputs}
        arrays = {spec.name: array_of_json(named[spec.name], spec) for spec in outputs}
    except (KeyError, TypeError, ValueError) as exc:
        names = ", ".join(spec.name for spec in outputs)
        raise PredictionError(f"an answer must contain the outputs {names}, got {content[:200]!r}") from exc
    if problem := unanswered_rows(arrays):
        raise PredictionError(problem)
    return arrays


def _words(content: bytes) -> str:
    try:
        return one_line(str(orjson.loads(content)["error"]), 300)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return one_line(content[:LONGEST_WORDS].decode(errors="replace"), 300)
