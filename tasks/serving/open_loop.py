"""Sends requests at random times that do not depend on the answers, as independent clients do (an open loop).

A closed loop waits for an answer before it sends the next request, so that a server that stalls is asked less often,
and the requests that would have waited are never sent. Here the times are chosen first, a Poisson process, and each
latency counts from the chosen time: a request that waited for a connection has waited.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import numpy as np

from tasks.datasets.rows import Array
from tasks.words import one_line

CONNECTIONS = 32
"""Requests that can be open at the same time; more of them wait, and their waiting counts."""
MOST_REFUSALS = 5  # whose words are kept
SEED = 20240229
OK, NO_ANSWER = 200, 0


class Reply(NamedTuple):
    """What came back: a status (200, another one of HTTP, or 0 for no answer) and a body, or words about an error."""

    status: int
    body: bytes


TOO_LATE = Reply(NO_ANSWER, b"no answer within the time limit of a request")


class Connection(Protocol):
    """One client of a server, used by one thread."""

    def ask(self, number: int) -> Reply:
        """Send the request with this number, and return what came back; it never raises."""

    def close(self) -> None:
        """Close it."""


class RestConnection:
    """A kept-alive HTTP connection; after an error, the next request opens another one."""

    def __init__(self, base_url: str, path: str, bodies: Sequence[bytes], timeout_s: float) -> None:
        address = urlsplit(base_url)
        self._http = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
        self._path, self._bodies = path, bodies

    def ask(self, number: int) -> Reply:
        """Send one of the bodies."""
        try:
            self._http.request("POST", self._path, self._bodies[number])
            answer = self._http.getresponse()
            return Reply(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as exc:
            self._http.close()
            return Reply(NO_ANSWER, (one_line(str(exc)) or type(exc).__name__).encode())

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class GrpcConnection:
    """A client of a gRPC channel, which several share; messages are sent and returned as bytes."""

    def __init__(self, channel: Any, requests: Sequence[bytes], timeout_s: float, at_once: threading.Semaphore) -> None:
        """Prepare a method of the channel.

        Args:
            at_once: limits the requests that all clients of the server have open; the others wait, which counts.
        """
        self._predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        self._requests, self._timeout_s, self._at_once = requests, timeout_s, at_once

    def ask(self, number: int) -> Reply:
        """Send one of the messages; an error has the status of no answer, or 400 if the server refused it."""
        if not self._at_once.acquire(timeout=self._timeout_s):
            return TOO_LATE
        try:
            return self._ask(number)
        finally:
            self._at_once.release()

    def _ask(self, number: int) -> Reply:
        import grpc

        try:
            return Reply(OK, self._predict(self._requests[number], timeout=self._timeout_s))
        except grpc.RpcError as exc:
            code = exc.code()  # type: ignore[attr-defined, unused-ignore]  # of a call that failed
            lost = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            words = f"{code.name}: {one_line(str(exc.details()))}"  # type: ignore[attr-defined, unused-ignore]
            return Reply(NO_ANSWER if lost else 400, words.encode())
        except ValueError as exc:  # the channel was closed, because the load has ended with an error
            return Reply(NO_ANSWER, one_line(str(exc)).encode())

    def close(self) -> None:
        """Leave the channel to its owner."""


class Load(NamedTuple):
    """What became of each request, in the order of the intended times.

    Attributes:
        due_s, sent_s, done_s: float64 of shape (n,), seconds since the load began: when it was to be sent, when it was
            sent, and when its answer was complete.
        kind: int64 of shape (n,), which of the kinds of connections sent it. number: likewise which request it was.
        status: int64 of shape (n,), as in `Reply`.
        reply: int64 of shape (n,), a place in `replies`.
        replies: each different body, with the kind and the number that it answers.
    """

    due_s: Array
    sent_s: Array
    done_s: Array
    kind: Array
    number: Array
    status: Array
    reply: Array
    replies: Sequence[tuple[int, int, bytes]]

    @property
    def latency_ms(self) -> Array:
        """Return the milliseconds from the intended time to the answer, float64 of shape (n,)."""
        return (self.done_s - self.due_s) * 1e3

    @property
    def refusals(self) -> tuple[str, ...]:
        """Return the words of the first different errors."""
        wrong = dict.fromkeys(self.reply[self.status != OK].tolist())
        words = (one_line(self.replies[place][2].decode(errors="replace")) for place in wrong)
        return tuple(itertools.islice(dict.fromkeys(words), MOST_REFUSALS))


class OpenLoop:
    """Sends numbered requests at the times of a Poisson process until it is stopped."""

    def __init__(  # noqa: PLR0913  what is sent, when, and by how many
        self,
        kinds: Sequence[Callable[[], Connection]],
        n_requests: int,
        rate: float,
        *,
        seed: int = SEED,
        connections: int = CONNECTIONS,
        timeout_s: float = 30,
        most_ms: float = math.inf,
    ) -> None:
        """Prepare the connections; nothing is sent yet.

        Args:
            kinds: each opens a connection of one kind; the kinds take turns.
            n_requests: numbers below it are sent, in turn. rate: requests per second on average.
            timeout_s: a request that has waited so long for a connection gets no answer.
            most_ms: latencies above it are counted in `exceeding`, as are requests that are not answered.
        """
        self._kinds, self._n_requests, self._rate, self._seed = kinds, n_requests, rate, seed
        self._connections, self._timeout_s, self._most_ms = connections, timeout_s, most_ms
        self.exceeding = 0
        self._due: SimpleQueue[tuple[float, int, int] | None] = SimpleQueue()
        self._stop, self._drop = threading.Event(), False
        self._found: list[tuple[float, float, float, int, int, int, int]] = []
        self._replies: dict[tuple[int, int, bytes], int] = {}
        self._lock = threading.Lock()
        self._begun, self._threads = 0.0, list[threading.Thread]()

    def now(self) -> float:
        """Return the seconds since the load began."""
        return time.perf_counter() - self._begun

    def drop(self) -> None:
        """Send nothing more, also of what is due already."""
        self._drop = True
        self._stop.set()

    @contextlib.contextmanager
    def running(self) -> Iterator[OpenLoop]:
        """Send requests until the block ends, and then wait for the answers to those that were due.

        After an error in the block, nothing is waited for: the server may hang.
        """
        self._threads = [
            threading.Thread(target=self._send_in_time, daemon=True, name="load"),
            *(threading.Thread(target=self._work, daemon=True, name=f"load-{n}") for n in range(self._connections)),
        ]
        self._begun = time.perf_counter()
        for thread in self._threads:
            thread.start()
        try:
            yield self
        except BaseException:  # nobody needs the answers, and the server that they wait for may hang
            self.drop()
            raise
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait for the threads; after an error in the block, which waits for none, they end with the server."""
        for thread in self._threads:
            thread.join()

    def load(self) -> Load:
        """Return what became of the requests, after the block."""
        rows = sorted(self._found)
        columns = list(zip(*rows, strict=True)) if rows else [()] * 7
        due, sent, done = (np.array(column, np.float64) for column in columns[:3])
        kind, number, status, reply = (np.array(column, np.int64) for column in columns[3:])
        return Load(due, sent, done, kind, number, status, reply, list(self._replies))

    def _send_in_time(self) -> None:
        """Give each request to a worker at its time; the times are chosen beforehand, independently of the server."""
        random, due = np.random.default_rng(self._seed), 0.0
        for count in itertools.count():
            due += random.exponential(1 / self._rate)
            if self._stop.wait(max(0.0, due - self.now())):
                break
            self._due.put((due, count % len(self._kinds), count // len(self._kinds) % self._n_requests))
        for _ in range(self._connections):
            self._due.put(None)

    def _work(self) -> None:
        opened: list[Connection | None] = [None] * len(self._kinds)
        while (request := self._due.get()) is not None:
            due, kind, number = request
            if self._drop:
                continue
            connection = opened[kind] = opened[kind] or self._kinds[kind]()
            sent = self.now()
            status, body = connection.ask(number) if sent - due < self._timeout_s else TOO_LATE
            done = self.now()
            with self._lock:
                place = self._replies.setdefault((kind, number, body), len(self._replies))
                self.exceeding += status != OK or (done - due) * 1e3 > self._most_ms
                self._found.append((due, sent, done, kind, number, status, place))
        for connection in filter(None, opened):
            connection.close()
