"""Production's own metrics around a change: errors, load time and speed, as every replica counted them.

They are read at each REST address before and after the change. What cannot be read is said, and changes nothing else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
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
    totals,
)
from tasks.store.layout import version_number
from tasks.words import counted, few

log = logging.getLogger(__name__)
SHARE = 0.99  # of the answers, whose slowest is said
MOST = 3500  # letters of all figures: a tag in MLflow has 4000
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
        seconds: between the readings, or None if it is counted since the start of the server.
        why_since_start: in words, or empty.
        requests: None if the server does not count them. errors: requests that failed, by status.
        loads, failed_loads: how often the SavedModel of the version could be read, and could not.
        load_s, warm_up_s: seconds that this took in all; 0 where it is not counted.
        warmed_up: whether every warm-up succeeded.
        answers: how many answers were computed, and `slowest_s` the seconds within which 99% of them were; 0 if
            that is not counted.
    """

    seconds: float | None
    why_since_start: str
    requests: int | None
    errors: Mapping[str, int]
    loads: int
    failed_loads: int
    load_s: float
    warm_up_s: float
    warmed_up: bool
    answers: int
    slowest_s: float

    @property
    def is_loaded(self) -> bool:
        """Whether the version was loaded once, and how long that took is known."""
        return self.loads == 1 and not self.failed_loads and self.load_s > 0


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

    def first_look(self) -> tuple[int, list[str]]:
        """Wait for the readings before the change, and return how many there are, and why others are no metrics.

        A server that does not answer at all is in neither.
        """
        ended = (_ended(future, self._asked) for future in self._before)
        found = list(zip(self._servers, ended, strict=True))
        problems = [f"{server.address}{self._path}: {then.problem}" for server, then in found if then.problem]
        return sum(then.counters is not None for _, then in found), [redact(problem) for problem in problems]

    def told(self, model: str, version: int, *, first: bool) -> str:
        """Read again, and return in one line what the servers counted; empty if no server is watched.

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
                found[server.address] = figures(then, now.counters, now.time, model, version)
        if problems:
            log.warning("not all metrics of production can be read: %s", redact("; ".join(problems)))
        unread = [server.address for server, now in zip(self._servers, after, strict=True) if now.counters is None]
        return redact(in_words(found, unread, model, version, first=first))

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


def look_at_metrics(config: Config) -> None:
    """Log a warning if a server of production answers, but not with metrics although they are to be read."""
    _, problems = watch(config).first_look()
    if problems:
        log.warning("production's metrics cannot be read, and will be unknown: %s", "; ".join(problems))


def figures(before: Reading, counters: Counters, time_read: float, model: str, version: int) -> Figures:
    """Return what a server counted between two readings.

    Args:
        counters, time_read: of the second reading.
    """
    rose, differ = rises(before.counters or NOTHING, counters)
    why = "it was not read before the change" if before.counters is None else ""
    if differ:
        why = "it was restarted during the change, or is one of several behind this address"
    directory = _directory(counters, model, version)
    own = {series: count for series, count in rose.items() if ("model_path", directory) in series[1]}
    tries, warm_ups = totals(own, TRIES, "status"), totals(own, WARMING, "status")
    requests = totals(rose, REQUESTS, "status")
    errors: Counter[str] = Counter()
    for status, count in requests.items():
        if status != "OK" and count:
            errors[status if status in STATUSES else "other"] += int(count)
    answers, slowest_s = _speed(totals(rose, RUNTIME, "le"))
    return Figures(
        None if why else time_read - before.time,
        why,
        requests=int(sum(requests.values())) if requests else None,
        errors=errors,
        loads=int(tries.pop("success", 0)),
        failed_loads=int(sum(tries.values())),
        load_s=sum(totals(own, LOADING, "model_path").values()) / 1e6,
        warm_up_s=sum(warm_ups.values()) / 1e6,
        warmed_up=not any(count for status, count in warm_ups.items() if status != "OK"),
        answers=answers,
        slowest_s=slowest_s,
    )


def _directory(counters: Counters, model: str, version: int) -> str | None:
    """Return the directory from which a server loads a version, or None if none is known to be it.

    It is the one of this model's name, or the only one of the server, which may have the model under another name.

    Args:
        counters: since the start of the server.
    """
    paths = {PurePosixPath(path): path for name in (TRIES, LOADING) for path in totals(counters, name, "model_path")}
    named = {place: path for place, path in paths.items() if place.parent.name == model}
    own = named or (paths if len({place.parent for place in paths}) == 1 else {})
    found = [path for place, path in own.items() if version_number(place.name) == version]
    return found[0] if len(found) == 1 else None


def _speed(below: Mapping[str, float]) -> tuple[int, float]:
    """Return the number of answers, and the seconds within which 99% of them were computed; (0, 0) if unknown.

    Args:
        below: by the bounds of the buckets in microseconds, how many answers took at most as long.
    """
    bounds = sorted((float(bound), count) for bound, count in below.items())
    counts = [count for _, count in bounds]
    if not counts or not counts[-1] or counts != sorted(counts) or bounds[-1][0] != math.inf:
        return 0, 0.0
    bound = next(bound for bound, within in bounds if within >= SHARE * counts[-1])
    return (int(counts[-1]), bound / 1e6) if 0 < bound < math.inf else (0, 0.0)


def in_words(found: Mapping[str, Figures], unread: Sequence[str], model: str, version: int, *, first: bool) -> str:
    """Return the figures of all servers, by their addresses, in one line; sums and servers with errors come first.

    Args:
        unread: the addresses without figures.
    """
    missing = f"not read: {few(unread, most=8)}" if unread else ""
    if not found:
        return missing and f"unknown, {missing}"
    servers = len(found) + len(unread)
    total = _sums(list(found.values()), servers, model, version, first) if servers > 1 else []
    worst_first = sorted(found.items(), key=lambda item: -sum(item[1].errors.values()) - item[1].failed_loads)
    text = "; ".join(filter(None, (*total, missing)))
    for shown, (address, one) in enumerate(worst_first):
        part = f"{address} {_words(one, model, version, first)}"
        if shown and len(text) + len(part) > MOST:
            return f"{text}; {len(found) - shown} more not shown"
        text = f"{text}; {part}" if text else part
    return text


def _sums(found: Sequence[Figures], servers: int, model: str, version: int, first: bool) -> list[str]:
    """Return the sums of what was counted between two readings, and the slowest load, each with how many have it."""
    both, parts = [(one, one.seconds) for one in found if one.seconds is not None and one.requests is not None], []
    if len(both) > 1:
        errors: Counter[str] = Counter()
        for one, _ in both:
            errors.update(one.errors)
        count = sum(one.requests or 0 for one, _ in both)
        within = f"{len(both)} of {servers} servers within {max(seconds for _, seconds in both):.1f} s"
        parts.append(f"{within}, all versions of {model}: {_counted(count, errors, first)}")
    if len(loads := [one.load_s for one in found if one.is_loaded]) > 1:
        most = _duration(max(loads))
        parts.append(f"{len(loads)} of {servers} servers loaded the SavedModel of version {version} in at most {most}")
    return parts


def _words(one: Figures, model: str, version: int, first: bool) -> str:
    span = f"since its start ({one.why_since_start})" if one.seconds is None else f"in {one.seconds:.1f} s"
    parts: Iterable[str] = (
        f"{span}, all versions of {model}: {_counted(one.requests, one.errors, first)}",
        f"99% of {one.answers:,} answers computed within {_duration(one.slowest_s)}" if one.slowest_s else "",
        _loaded(one, version),
    )
    return ", ".join(filter(None, parts))


def _loaded(one: Figures, version: int) -> str:
    """Return what is known of loading a version; a SavedModel that was read can still fail in its warm-up."""
    what = f"SavedModel of version {version}"
    failed = f"{what} failed to load {_times(one.failed_loads)}" if one.failed_loads else ""
    if one.failed_loads and one.loads:  # their times are counted together
        return f"{failed}, and was loaded {_times(one.loads)}"
    if not one.loads or not one.load_s:
        return failed
    warm_up = f"and warmed up in {_duration(one.warm_up_s)}" if one.warmed_up else "but its warm-up failed"
    taken = f"{what} loaded in {_duration(one.load_s)}"
    if one.loads > 1:
        taken = f"{what} loaded {_times(one.loads)} in {_duration(one.load_s)} altogether"
    return f"{taken} {warm_up}" if one.warm_up_s else taken


def _counted(requests: int | None, errors: Mapping[str, int], first: bool) -> str:
    """Return the numbers of requests and errors; those of the live verification are among them."""
    if requests is None:
        return "requests and errors unknown"
    count = sum(errors.values())
    by_status = ", ".join(f"{number:,} {status}" for status, number in sorted(errors.items()))
    expected = ", as expected before the first version" if first and errors.keys() == {"NOT_FOUND"} else ""
    words = counted(count, "error") if count else "no errors"
    return f"{counted(requests, 'request')}, {words}" + (f" ({by_status}{expected})" if count else "")


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
