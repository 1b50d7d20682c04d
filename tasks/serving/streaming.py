"""Sends many rows over a few connections, in order and in constant memory."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tasks.datasets.rows import Array

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

CONNECTIONS = 4
MOST_CONNECTIONS = 16  # for requests that are to meet in the server
PROGRESS_S = 5.0


def in_order(function: Callable[[T], R], items: Iterable[T], connections: int = CONNECTIONS) -> Iterator[R]:
    """Apply a function to items on several threads, and yield the results in order.

    At most twice as many items as connections are in progress, so that memory does not grow with their number.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(connections, thread_name_prefix="client") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * connections:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # after an error, the rest is not needed
                future.cancel()


def with_progress(
    answers: Iterable[dict[str, Array]], n_rows: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[dict[str, Array]]:
    """Yield the answers, and log every few seconds how many of `n_rows` rows have been answered."""
    begun = said = clock()
    done = 0
    for answer in answers:
        done += len(next(iter(answer.values())))
        if clock() - said >= PROGRESS_S and done < n_rows:
            said = clock()
            log.info(
                "%d of %d rows answered, %d rows/s",
                done,
                n_rows,
                done / (said - begun),
                extra={"progress": done / n_rows},
            )
        yield answer
