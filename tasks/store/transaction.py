"""Changing what serves: each change finishes, or disappears.

    publish   journal | stage, verify, rename | verify live | history, outbox | strike out | tell MLflow
                                                    `-- not as validated: withdraw
    withdraw  journal | rename away                         | history, outbox | strike out | tell MLflow
    label     journal | verify live | models.config         | history, outbox | strike out | tell MLflow

A crash before the rename: the change disappears. After it: it is finished, by the next promotion or by the doctor.
Every step can be taken twice. What MLflow has not been told waits in the outbox: production, and above all a rollback,
never waits for MLflow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from configs.schema import Layout
from tasks.records import Change
from tasks.store.champion import predecessor
from tasks.store.history import State, append, process_user, read, state_of
from tasks.store.journal import JOURNAL, begin, commit, write_atomically
from tasks.store.layout import versions
from tasks.store.publish import bring_in, take_away
from tasks.store.serving_config import labels_of, listed_versions, write_config

STABLE, CANARY = "stable", "canary"
OUTBOX = ".untold"


@dataclass(frozen=True)
class Production:
    """A live directory, how it is served, and who is told.

    Attributes:
        verify: asks production about a version: an empty string if it answers as was validated, else why not.
        record: tells the registry what a change has come to.
    """

    model_dir: Path
    layout: Layout
    verify: Callable[[Change], str]
    record: Callable[[Change], None]


@dataclass(frozen=True)
class Result:
    """What became of a change: `live`, or `rolled back` with the reason."""

    state: str
    reason: str = ""
    live_dir: Path | None = None


def carry_out(production: Production, change: Change) -> Result:
    """Make a change from its first step to its last; the lock is the caller's.

    Raises:
        StoreError: nothing was changed.
    """
    begin(production.model_dir, change)
    if change.operation == "publish":
        try:
            bring_in(production.model_dir, change)
        except BaseException:
            commit(production.model_dir)  # nothing has happened
            raise
    return finish(production, change)


def finish(production: Production, change: Change) -> Result:
    """Take every step behind the rename, whether or not some were taken before."""
    if change.operation == "withdraw":
        return _withdraw(production, change)
    model_dir = production.model_dir
    if production.layout == "labels" and change.operation == "publish":
        _list(model_dir, change.version, labels_of(model_dir))
    problem = production.verify(change)
    if problem:
        if change.operation == "label":  # it keeps the label that it has
            commit(model_dir)
            return Result("rolled back", problem)
        return _withdraw(production, replace(change, operation="withdraw", reason=problem))
    if production.layout == "labels":
        _label(model_dir, change)
    if change.previous is not None and change.previous != change.version and serves(change):
        _note(model_dir, change, change.previous, "rolled back" if change.rolls_back else "superseded")
    _note(model_dir, change, change.version, "live")
    _queue(model_dir, change)
    commit(model_dir)
    return Result("live", change.reason, versions(model_dir).get(change.version))


def serves(change: Change) -> bool:
    """Return whether a change puts its version in the champion's place; a canary stands beside it."""
    return change.label != CANARY


def _withdraw(production: Production, change: Change) -> Result:
    """Take a live version away; what served before serves again."""
    model_dir = production.model_dir
    write_atomically(model_dir / JOURNAL, json.dumps(asdict(change), indent=1))
    if production.layout == "labels":
        labels = {label: version for label, version in labels_of(model_dir).items() if version != change.version}
        write_config(model_dir, [v for v in listed_versions(model_dir) if v != change.version], labels)
    take_away(model_dir, change.version)
    _note(model_dir, change, change.version, "rolled back")
    _queue(model_dir, change)
    commit(model_dir)
    return Result("rolled back", change.reason)


def _list(model_dir: Path, version: int, labels: dict[str, int]) -> None:
    """Have production load a version beside those that have a label, and the one that a rollback goes back to."""
    before = predecessor(model_dir, labels.get(STABLE))
    wanted = {version, *labels.values(), *([before] if before else [])}
    write_config(model_dir, sorted(wanted & versions(model_dir).keys()), labels)


def _label(model_dir: Path, change: Change) -> None:
    """Move the label; the first version ever is stable, too."""
    labels = {**labels_of(model_dir), change.label or STABLE: change.version}
    labels.setdefault(STABLE, change.version)
    _list(model_dir, change.version, labels)


def _note(model_dir: Path, change: Change, version: int, state: State) -> None:
    """Add a line of history, unless it is there already."""
    entries = read(model_dir)
    if state_of(entries, version) == state:
        return
    digest = change.digest if version == change.version else next(
        (entry.digest for entry in reversed(entries) if entry.version == version), ""
    )  # fmt: skip
    append(
        model_dir, version, state, digest, run=change.run, actor=change.actor or process_user(), reason=change.reason
    )


def _queue(model_dir: Path, change: Change) -> None:
    """Put a change into the outbox for MLflow; the same change is there once."""
    outbox = model_dir / OUTBOX
    outbox.mkdir(exist_ok=True)
    if change not in untold(model_dir).values():
        write_atomically(outbox / f"{time.time_ns()}.json", json.dumps(asdict(change)))


def untold(model_dir: Path) -> dict[Path, Change]:
    """Return file to change of what MLflow does not know yet, the oldest first."""
    files = sorted((model_dir / OUTBOX).glob("[0-9]*.json"))
    return {path: Change(**json.loads(path.read_text())) for path in files}


def tell(production: Production) -> list[Change]:
    """Tell the registry what it does not know yet, in order; return what it was told.

    Raises:
        TrackingError: it cannot be told; what is left waits.
    """
    told = []
    for path, change in untold(production.model_dir).items():
        production.record(change)
        path.unlink()
        told.append(change)
    return told
