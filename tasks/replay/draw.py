"""Draws some of the recorded requests, each with the same probability, in one pass over the file."""

from __future__ import annotations

import random
from pathlib import Path

from configs.schema import Config
from tasks.datasets.strings import Array
from tasks.errors import DataError, WrongFile
from tasks.records import Signature
from tasks.replay.bodies import arrays_of
from tasks.replay.files import FIELD, LOOKED_AT, Request, requests_in
from tasks.replay.slices import check_slices


def drawn(file: Path, signature: Signature, config: Config, most: int = 0) -> list[dict[str, Array]]:
    """Return the rows of up to `export.warmup_requests` requests that fit the inputs, in the order of the file.

    The same seed draws the same ones.

    Args:
        most: how many of the file are looked at; 0 means all.

    Raises:
        DataError: the file cannot be read, or, as `WrongFile`, none of the drawn requests fits.
    """
    count = config.export.warmup_requests
    kept: list[Request] = []
    seen, rng = 0, random.Random(config.seed)  # noqa: S311  nothing secret
    for request in requests_in(file, config.name, most):
        if request.skipped:
            continue
        seen += 1
        if len(kept) < count:
            kept.append(request)
        elif (place := rng.randrange(seen)) < count:
            kept[place] = request
    fitting, why = [], "there are none"
    for request in sorted(kept, key=lambda one: one.number):
        try:
            fitting.append(arrays_of(request, signature))
        except DataError as exc:
            why = f"request {request.number:,}: {exc}"
    if not fitting:
        raise WrongFile(f"{FIELD} '{file}' must have requests that fit the inputs of the model, got none ({why})")
    return fitting


def check_requests(config: Config, signature: Signature) -> None:
    """Refuse recorded requests of which none of the first ones fits a model, and slices that are not its inputs.

    Raises:
        DataError: the file cannot be read. WrongFile: as said.
    """
    file = config.gates.replay.file
    if file is not None and "replay" in config.gates.judging:
        check_slices(config.gates.replay.slices, signature)
        drawn(file, signature, config, LOOKED_AT)
