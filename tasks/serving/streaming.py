"""Many rows over a few connections: cut into requests, kept in order, in flat memory."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from tasks.datasets.rows import Array

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

# What one request should carry: rates are flat from about here on, measured against TensorFlow Serving 2.20 with
# 64 float32 a row (1 MB: 145,000 rows/s, 2.5 MB: 199,000 rows/s over 4 connections)
BODY_BYTES = 2_500_000
MAX_ROWS = 4096
CONNECTIONS = 4
PROGRESS_S = 5.0


def row_blocks(inputs: Mapping[str, Array], row_bytes: int) -> Iterator[dict[str, Array]]:
    """Cut rows into blocks that make good requests; the blocks are views, nothing is copied.

    Args:
        inputs: one array an input; all with the same first axis, the row.
        row_bytes: bytes that one row takes in a request.
    """
    n_rows = len(next(iter(inputs.values())))
    step = max(1, min(MAX_ROWS, BODY_BYTES // max(1, row_bytes)))
    for start in range(0, n_rows, step):
        yield {name: array[start : start + step] for name, array in inputs.items()}


def in_order(function: Callable[[T], R], items: Iterable[T], connections: int = CONNECTIONS) -> Iterator[R]:
    """Apply a function to items on several threads and give the results in order.

    At most twice as many items as connections are under way, so that memory stays flat however many there are.
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
            for future in pending:  # after an error nobody wants the rest
                future.cancel()


def with_progress(
    answers: Iterable[dict[str, Array]], n_rows: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[dict[str, Array]]:
    """Pass answers on, and log every few seconds how many of `n_rows` rows have been answered."""
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


def joined(answers: Iterable[dict[str, Array]]) -> dict[str, Array]:
    """Return one array an output from the answers to consecutive blocks of rows."""
    parts: dict[str, list[Array]] = {}
    for answer in answers:
        for name, array in answer.items():
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}
