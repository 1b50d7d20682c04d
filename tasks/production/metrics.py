"""Production's own metrics around a change: errors, load time and speed, as every replica counted them.

They are read at each REST address before and after the change. What cannot be read is said, and changes nothing else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import PurePosixPath

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import ServingError, ServingUnavailable
from tasks.production.live_check import Endpoint
from tasks.production.server import endpoints
from tasks.serving.metrics import (
    LATE,
    LOADING,
    READ_S,
    REQUESTS,
    RUNTIME,
    TRIES,
    WARMING,
    Counters,
    read_counters,
    rises,
)
from tasks.store.layout import version_number

log = logging.getLogger(__name__)
SHARE = 0.99  # of the answers, whose slowest is said
NOTHING: Counters = {}
STATUSES = frozenset({
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
})  # fmt: skip
"""Every status of an error that a server counts; any other text would be a stranger's."""


@dataclass(frozen=True)
class Reading:
    """What one server counted until a moment.

    Attributes:
        time: of `time.monotonic`, in seconds. counters: None if they could not be read. problem: why, or empty.
    """

    time: float
    counters: Counters | None
    problem: str = ""


@dataclass(frozen=True)
class Figures:
    """What one server counted between two readings, or since its start.

    Attributes:
        span: the time between the readings, in words. errors: requests that failed, by status.
        load_s, warm_up_s: seconds that the version took, or 0 if it was not loaded.
        failed_loads: how often it could not be loaded.
        answers: how many answers were computed, and `slowest_ms` the milliseconds within which 99% of them were; 0 if
            that is not counted.
    """

    span: str
    requests: int
    errors: Mapping[str, int]
    load_s: float
    warm_up_s: float
    failed_loads: int
    answers: int
    slowest_ms: float


class Watch:
    """Reads the metrics of production before and after a change of it."""

    def __init__(self, servers: Sequence[Endpoint], path: str) -> None:
        """Begin to read; this does not wait.

        Args:
            path: of the metrics; empty means that they are not read.
        """
        self._path = path
        self._servers = [found for found in servers if found.address.startswith("http")] if path else []
        self._asked = time.monotonic()
        self._before = self._ask()

    def wait(self) -> None:
        """Wait until the readings before the change have ended, at most `READ_S` seconds."""
        for future in self._before:
            _ended(future, self._asked)

    def told(self, model: str, version: int, *, first: bool) -> str:
        """Read again, and return in one line what the servers counted; empty if they are not watched.

        Args:
            model: its name. version: the version that was made live. first: whether no version was live before.
        """
        asked = time.monotonic()
        after = [_ended(future, asked) for future in self._ask()]
        before = [_ended(future, self._asked) for future in self._before]
        found: dict[str, Figures] = {}
        problems: list[str] = []
        for server, then, now in zip(self._servers, before, after, strict=True):
            problem = then.problem or now.problem or ("" if now.counters is not None else "no server answers")
            problems += [f"{server.address}{self._path}: {problem}"] if problem else []
            if now.counters is not None:
                found[server.address] = figures(then, now, model, version)
        if problems:
            log.warning("not all metrics of production can be read: %s", redact("; ".join(problems)))
        unread = [server.address for server, now in zip(self._servers, after, strict=True) if now.counters is None]
        return redact(in_words(found, unread, version, first=first))

    def _ask(self) -> list[Future[Reading]]:
        return [_started(server, self._path) for server in self._servers]


def watch(config: Config) -> Watch:
    """Begin to read the metrics of production, if `promote.metrics_path` is set."""
    path = config.promote.metrics_path
    return Watch(endpoints(config) if path else (), path)


def _started(server: Endpoint, path: str) -> Future[Reading]:
    """Begin to read in a thread, which an answer that never ends does not keep anybody waiting for."""
    future: Future[Reading] = Future()
    thread = threading.Thread(target=lambda: future.set_result(_read(server, path)), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        future.set_result(Reading(time.monotonic(), None, "no thread could be started"))
    return future


def _read(server: Endpoint, path: str) -> Reading:
    """Return what a server counted; a server that does not listen has counted nothing."""
    try:
        counters, problem = read_counters(server.address, path, server.name, server.access), ""
    except ServingUnavailable:
        return Reading(time.monotonic(), None)
    except ServingError as exc:
        return Reading(time.monotonic(), None, str(exc))
    except Exception as exc:  # noqa: BLE001  no change of production may fail because of its metrics
        return Reading(time.monotonic(), None, type(exc).__name__)
    return Reading(time.monotonic(), counters, problem)


def _ended(future: Future[Reading], asked: float) -> Reading:
    try:
        return future.result(max(0.0, asked + READ_S - time.monotonic()))
    except TimeoutError:
        return Reading(time.monotonic(), None, LATE)


def figures(before: Reading, after: Reading, model: str, version: int) -> Figures:
    """Return what a server counted between two readings, the second of which has counters."""
    rose, restarted = rises(before.counters or NOTHING, after.counters or NOTHING)
    span = f"in {after.time - before.time:.1f} s"
    if restarted or before.counters is None:
        span = f"since its start{', which was during the change' if restarted else ''}"
    requests = _total(rose, REQUESTS, "status")
    directory = _directory(rose, model, version)
    own = {series: count for series, count in rose.items() if ("model_path", directory) in series[1]}
    tries = _total(own, TRIES, "status")
    errors: Counter[str] = Counter()
    for status, count in requests.items():
        if status != "OK" and count:
            errors[status if status in STATUSES else "other"] += int(count)
    loads = tries.get("success", 0)
    answers, slowest_ms = _speed(_total(rose, RUNTIME, "le"))
    return Figures(
        span,
        requests=int(sum(requests.values())),
        errors=errors,
        load_s=sum(_total(own, LOADING, "model_path").values()) / loads / 1e6 if loads else 0.0,
        warm_up_s=sum(_total(own, WARMING, "model_path").values()) / loads / 1e6 if loads else 0.0,
        failed_loads=int(sum(count for status, count in tries.items() if status != "success")),
        answers=answers,
        slowest_ms=slowest_ms,
    )


def _total(rose: Counters, name: str, label: str) -> dict[str, float]:
    """Return how much a counter rose, by the value of one of its labels."""
    total: dict[str, float] = defaultdict(float)
    for (counter, labels), count in rose.items():
        if counter == name:
            total[dict(labels)[label]] += count
    return total


def _directory(rose: Counters, model: str, version: int) -> str | None:
    """Return the directory from which a server loaded a version, or None if none is known to be it."""
    loaded = {path for name in (TRIES, LOADING) for path, count in _total(rose, name, "model_path").items() if count}
    paths = {path for path in loaded if version_number(PurePosixPath(path).name) == version}
    named = {path for path in paths if PurePosixPath(path).parent.name == model}
    found = named or paths  # a server may have the model under another name
    return found.pop() if len(found) == 1 else None


def _speed(below: Mapping[str, float]) -> tuple[int, float]:
    """Return the number of answers, and the milliseconds within which 99% of them were computed.

    Args:
        below: by the bounds of the buckets in microseconds, how many answers took at most as long.
    """
    bounds = sorted((float(bound), count) for bound, count in below.items())
    count = max((count for _, count in bounds), default=0.0)
    bound = next((bound for bound, within in bounds if within >= SHARE * count), math.inf)
    return int(count), bound / 1000 if count and math.isfinite(bound) else 0.0


def in_words(found: Mapping[str, Figures], unread: Sequence[str], version: int, *, first: bool) -> str:
    """Return the figures of all servers, by their addresses, in one line; the sums come first.

    Args:
        unread: the addresses without figures.
    """
    if not found:
        return ""
    each = [f"{address} {_words(one, version, first)}" for address, one in found.items()]
    if unread:
        each.append(f"not read: {', '.join(unread)}")
    if len(found) == 1:
        return "; ".join(each)
    errors: Counter[str] = Counter()
    for one in found.values():
        errors.update(one.errors)
    total = f"{len(found)} servers: {_counted(sum(one.requests for one in found.values()), errors, first)}"
    slowest = max(one.load_s for one in found.values())
    loaded = f", version {version} loaded in at most {_duration(slowest)}" if slowest else ""
    return "; ".join([f"{total}{loaded}", *each])


def _words(one: Figures, version: int, first: bool) -> str:
    loaded = f"version {version} loaded in {_duration(one.load_s)}" if one.load_s else ""
    warmed_up = f" and warmed up in {_duration(one.warm_up_s)}" if one.warm_up_s else ""
    parts: Iterable[str] = (
        f"{one.span}: {_counted(one.requests, one.errors, first)}",
        loaded and loaded + warmed_up,
        f"version {version} failed to load {_times(one.failed_loads)}" if one.failed_loads else "",
        f"99% of {one.answers:,} answers computed within {one.slowest_ms:.3g} ms" if one.slowest_ms else "",
    )
    return ", ".join(filter(None, parts))


def _counted(requests: int, errors: Mapping[str, int], first: bool) -> str:
    """Return the numbers of requests and errors; those of the live verification are among them."""
    count = sum(errors.values())
    by_status = ", ".join(f"{number:,} {status}" for status, number in sorted(errors.items()))
    expected = ", as expected before the first version" if first and errors.keys() == {"NOT_FOUND"} else ""
    words = f"{count:,} error{'' if count == 1 else 's'}" if count else "no errors"
    return f"{requests:,} request{'' if requests == 1 else 's'}, {words}" + (
        f" ({by_status}{expected})" if count else ""
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
