"""Asks a server that batches as its clients in production do: many at the same time, with one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tasks.datasets.blocks import joined
from tasks.datasets.rows import Array
from tasks.errors import PredictionError
from tasks.records import Candidate, ServedBatches
from tasks.serving.client import ModelClient
from tasks.serving.streaming import MOST_CONNECTIONS, in_order
from tasks.words import one_line

ROUNDS = 4  # times that each row is sent, each time with other neighbours
MOST_ROWS = 64  # different rows


def ask_concurrently(
    candidate: Candidate,
    client: ModelClient,
    rows: Mapping[str, Array],
    save: Callable[[str, Mapping[str, Array]], Path],
) -> ServedBatches:
    """Return the answers to one-row requests from concurrent clients, or the refusal of a request.

    Args:
        rows: the test rows, one array for each input. save: writes the answers to a file.

    Raises:
        ServingUnavailable, ServingTimeout: the server ended, or did not answer in time.
    """
    signature, n_rows = candidate.signature, len(next(iter(rows.values())))
    order = np.random.default_rng(0)
    picked = [int(row) for _ in range(ROUNDS) for row in order.permutation(min(n_rows, MOST_ROWS))]

    def ask(row: int) -> dict[str, Array]:
        one = {name: array[row : row + 1] for name, array in rows.items()}
        return client.predict(candidate.version, one, signature.outputs, signature.name, together=True)

    try:
        answers = joined(in_order(ask, picked, MOST_CONNECTIONS), signature.outputs)
    except (PredictionError, ValueError) as exc:
        return ServedBatches(MOST_CONNECTIONS, len(picked), None, refusal=one_line(str(exc)))
    return ServedBatches(MOST_CONNECTIONS, len(picked), save("batches", answers), tuple(picked))
