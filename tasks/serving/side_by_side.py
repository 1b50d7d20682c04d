"""Serves several candidates in one throwaway server, each pinned to its version, and asks each for the same rows.

A server that cannot load one of its versions ends, and a request can end it for all of them. The version that it names
is left out and the others are served again; where it names none, they are divided until the guilty one is alone. If
its server then ended by nothing that a model does, such as a kill, it is served once more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.sections.serving import Serving
from tasks.datasets.rows import Array, load_arrays, save_arrays
from tasks.errors import (
    AccessDenied,
    ModelLoadError,
    PredictionError,
    ServingError,
    ServingUnavailable,
)
from tasks.records import Backend, Candidate
from tasks.serving.client import ModelClient
from tasks.serving.exits import has_no_room
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import OWN, open_clients

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A candidate and the rows to ask it for.

    Attributes:
        rows: `.npz` of the rows in the form of its signature, one array for each input.
        answers: the `.npz` to write its answers to, one array for each output.
    """

    candidate: Candidate
    rows: Path
    answers: Path


def ask_side_by_side(
    backend: Backend, serving: Serving, asked: Sequence[Asked], log_file: Path
) -> Mapping[int, ServingError]:
    """Write the answers of all candidates, and return the errors of those that were refused or crashed, by version.

    Raises:
        ServingUnavailable: no server can be started or reached. AccessDenied: it refuses this client.
        ServingError: the machine has no space on a disk or no file descriptors.
    """
    return dict(_faults(backend, serving, list(asked), log_file))


def _faults(
    backend: Backend, serving: Serving, asked: list[Asked], log_file: Path, *, again: bool = False
) -> Iterator[tuple[int, ServingError]]:
    if not asked:
        return
    first, *others = asked
    try:
        with (
            throwaway_server(backend, serving, first.candidate, log_file, beside=[one.candidate for one in others]) as (
                server,
                rest,
            ),
            open_clients(serving, server, rest) as (client, *_),
        ):
            refusals: list[tuple[int, ServingError]] = []
            for one in asked:
                try:
                    save_arrays(one.answers, _answers(client, one))
                except PredictionError as exc:
                    if server.ended():
                        raise
                    refusals.append((one.candidate.version, exc))
    except (ServingUnavailable, AccessDenied):
        raise
    except ServingError as exc:
        if has_no_room(str(exc)):  # a full disk must not choose the winner
            raise
        if not others and not again and not isinstance(exc, OWN):
            log.warning("%s; version %d is served once more", exc, first.candidate.version)
            yield from _faults(backend, serving, asked, log_file, again=True)
        elif not others:
            yield first.candidate.version, exc
        else:
            yield from _without_the_guilty(backend, serving, asked, log_file, exc)
    else:
        yield from refusals


def _without_the_guilty(
    backend: Backend, serving: Serving, asked: list[Asked], log_file: Path, error: ServingError
) -> Iterator[tuple[int, ServingError]]:
    """Serve again all versions but those that an error names, or each half of them."""
    named = error.versions if isinstance(error, ModelLoadError) else ()
    if named:
        yield from ((number, error) for number in named)
        log.warning("%s; the other versions are served without it", error)
        yield from _faults(backend, serving, [one for one in asked if one.candidate.version not in named], log_file)
        return
    log.warning("%s; %d versions are served in two servers instead, to find which one is at fault", error, len(asked))
    middle = len(asked) // 2
    for half in (asked[:middle], asked[middle:]):
        yield from _faults(backend, serving, half, log_file)


def _answers(client: ModelClient, one: Asked) -> dict[str, Array]:
    signature = one.candidate.signature
    return client.predict(one.candidate.version, load_arrays(one.rows), signature.outputs, signature.name)
