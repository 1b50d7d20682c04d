"""Compares what a production server reports with what the history says.

A server reports numbers of versions, and never bytes. That it has loaded the bytes of the history is known only as far
as it watches the directory whose files are compared here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import ManifestMismatch, PredictionError
from tasks.production.live_check import Endpoint
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.history import SERVED, Entry, served_digest, state_of
from tasks.store.layout import versions
from tasks.store.serving_config import labels_of
from tasks.store.timeline import CANARY, STABLE, served_at

AVAILABLE = "AVAILABLE"


@dataclass(frozen=True)
class Comparison:
    """What a server reports beside the history, in sentences.

    Attributes:
        same: what agrees. different: what does not.
    """

    same: tuple[str, ...]
    different: tuple[str, ...]


def compare(endpoint: Endpoint, model_dir: Path, entries: Sequence[Entry]) -> Comparison:
    """Ask a server, and compare.

    Raises:
        ServingError: the server does not answer, or refuses.
    """
    labels = labels_of(model_dir)
    with contextlib.closing(endpoint.client()) as client:
        states = {number: state for number, (state, _) in client.states().items()}
        named: dict[str, int] = {}
        for label in labels:
            with contextlib.suppress(PredictionError):  # the server does not know it
                named[label] = client.labelled(label)
    should = {one.role: one.entry for one in served_at(entries, datetime.max.replace(tzinfo=UTC))}
    return Comparison(
        tuple(_same(states, should, named)),
        (
            *_different(states, should, entries),
            *(_labels(labels, named, should) if labels else _default(states, should)),
            *_files(model_dir, states, entries),
        ),
    )


def _same(states: Mapping[int, str], should: Mapping[str, Entry], named: Mapping[str, int]) -> Iterator[str]:
    for role, entry in should.items():
        if states.get(entry.version) == AVAILABLE:
            label = f", and its label '{role}' names it" if named.get(role) == entry.version else ""
            yield f"version {entry.version}, which is {role}, is AVAILABLE{label}"


def _different(states: Mapping[int, str], should: Mapping[str, Entry], entries: Sequence[Entry]) -> Iterator[str]:
    for role, entry in should.items():
        state = states.get(entry.version, "not loaded")
        if state != AVAILABLE:
            yield f"version {entry.version}, which is {role} in the history, is {state}"
    available = sorted(number for number, state in states.items() if state == AVAILABLE)
    for number in available:
        if not any(entry.version == number and entry.state in SERVED for entry in entries):
            known = state_of(list(entries), number)
            yield f"version {number} is AVAILABLE, but it {f'is {known}' if known else 'is not'} in the history"


def _default(states: Mapping[int, str], should: Mapping[str, Entry]) -> Iterator[str]:
    """Yield that requests get another version: without labels, a server takes the highest one that is AVAILABLE."""
    highest = max((number for number, state in states.items() if state == AVAILABLE), default=None)
    live = should[STABLE].version if STABLE in should else None
    if highest is not None and (live is None or highest > live):
        wanted = f"version {live} is live" if live else "no version is live"
        yield f"requests without a version get version {highest}, but {wanted} in the history"


def _labels(labels: Mapping[str, int], named: Mapping[str, int], should: Mapping[str, Entry]) -> Iterator[str]:
    """Yield which labels do not name what they should: by the history, else by `models.config`."""
    for label, number in labels.items():
        # a canary that has become stable keeps the label until the next one comes
        wanted = should[label].version if label == STABLE and STABLE in should else number
        if label == CANARY and CANARY in should:
            wanted = should[CANARY].version
        if named.get(label) != wanted:
            has = f"version {named[label]}" if label in named else "nothing"
            yield f"the label '{label}' names {has} on the server, and version {wanted} in the history"


def _files(model_dir: Path, states: Mapping[int, str], entries: Sequence[Entry]) -> Iterator[str]:
    """Yield which AVAILABLE versions have other files here than those that were promoted."""
    for number, path in versions(model_dir).items():
        digest = served_digest(list(entries), number)
        if states.get(number) != AVAILABLE or not digest:
            continue
        try:
            verify_manifest(path, digest)
        except (ManifestMismatch, OSError) as exc:
            yield f"the files of version {number} in '{model_dir}' are not those that were promoted: {exc}"
