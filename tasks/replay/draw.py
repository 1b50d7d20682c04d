"""Draws some of the recorded requests, each with the same probability, in one pass over the file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from configs.schema import Config
from tasks.datasets.strings import Array
from tasks.errors import DataError, WrongFile
from tasks.records import Signature
from tasks.replay.bodies import arrays_of
from tasks.replay.files import FIELD, LOOKED_AT, requests_in
from tasks.replay.slices import check_slices


def drawn(file: Path, signature: Signature, config: Config, most: int = 0) -> list[dict[str, Array]]:
    """Return the rows of up to `export.warmup_requests` requests that fit the inputs, in the order of the file.

    The same seed draws the same ones.

    Args:
        most: how many of the file are looked at; 0 means all.

    Raises:
        DataError: the file cannot be read, or, as `WrongFile`, no request fits.
    """
    count = config.export.warmup_requests
    kept: list[tuple[int, dict[str, Array]]] = []
    rng = random.Random(config.seed)  # noqa: S311  nothing secret
    for seen, (number, rows) in enumerate(_fitting(file, signature, config.name, most), start=1):
        if len(kept) < count:
            kept.append((number, rows))
        elif (place := rng.randrange(seen)) < count:
            kept[place] = number, rows
    return [rows for _, rows in sorted(kept, key=lambda one: one[0])]


def _fitting(file: Path, signature: Signature, model: str, most: int) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield number and rows of the requests that fit the inputs, of which there is one at least.

    Raises:
        DataError, WrongFile: as `drawn`.
    """
    found, why = False, ""
    for request in requests_in(file, model, most):
        if request.skipped:
            continue
        try:
            rows = arrays_of(request, signature)
        except DataError as exc:
            why = why or f"request {request.number:,}: {exc}"
            continue
        found = True
        yield request.number, rows
    if not found:
        why = why or "there are none"
        raise WrongFile(f"{FIELD} '{file}' must have requests that fit the inputs of the model, got none ({why})")


def check_requests(config: Config, signature: Signature) -> None:
    """Refuse recorded requests of which none of the first ones fits a model, and slices that are not its inputs.

    Raises:
        DataError: the file cannot be read. WrongFile: as said.
    """
    file = config.gates.replay.file
    if file is not None and "replay" in config.gates.judging:
        check_slices(config.gates.replay.slices, signature)
        next(_fitting(file, signature, config.name, LOOKED_AT))
