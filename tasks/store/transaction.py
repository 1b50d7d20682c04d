"""Changing what serves: each change finishes, or disappears.

    publish   journal | stage, verify, rename | verify live | history, outbox | close | tell MLflow
                                                    `-- not as validated: withdraw
    withdraw  journal | rename away                         | history, outbox | close | tell MLflow
    label     journal | list, verify live | move label      | history, outbox | close | tell MLflow
                                     `-- not as validated: close

A crash before the rename: the change disappears. After it: it is finished, by the next promotion or by the doctor.
Every step can be taken twice. What MLflow has not been told waits in the outbox: production, and above all a rollback,
never waits for MLflow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from configs.schema import Layout
from tasks.errors import StoreError
from tasks.records import Change
from tasks.store.champion import predecessor
from tasks.store.history import State, append, process_user, read, served_digest, state_of
from tasks.store.journal import JOURNAL, begin, commit, make_directory, write_atomically
from tasks.store.layout import versions
from tasks.store.lock import telling_lock
from tasks.store.publish import bring_in, take_away
from tasks.store.serving_config import labels_of, write_config

STABLE, CANARY = "stable", "canary"
OUTBOX = ".outbox"
FORMER_OUTBOX = ".untold"  # of earlier releases; what waits there is told from there


@dataclass(frozen=True)
class Production:
    """A live directory, how it is served, and who is told.

    Attributes:
        verify: asks production about a version: an empty string if it answers as was validated, else why not.
        record: tells the registry what a change has come to.
        directory_mode, file_mode: of what is published.
    """

    model_dir: Path
    layout: Layout
    verify: Callable[[Change], str]
    record: Callable[[Change], None]
    directory_mode: int = 0o755
    file_mode: int = 0o644


@dataclass(frozen=True)
class Result:
    """What became of a change: `live`, or `rolled back` with the reason.

    Attributes:
        unwritten: why it could not be written down that the version is live, or empty; the journal is open then, and
            the next change or the doctor writes it down.
    """

    state: str
    reason: str = ""
    live_dir: Path | None = None
    unwritten: str = ""


def carry_out(production: Production, change: Change) -> Result:
    """Make a change from its first step to its last; the lock is the caller's.

    Raises:
        StoreError: it could not be made. What is left of it is written down, and the next change finishes it.
    """
    model_dir = production.model_dir
    was_there = change.version in versions(model_dir)
    begin(model_dir, change)
    if change.operation == "publish":
        try:
            bring_in(model_dir, change, production.directory_mode, production.file_mode)
        except BaseException:
            if was_there or change.version not in versions(model_dir):
                commit(model_dir)  # nothing has happened; an interrupt just behind the rename would be another matter
            raise
    return finish(production, change)


def finish(production: Production, change: Change) -> Result:
    """Take every step behind the rename, whether or not some were taken before."""
    if change.operation == "withdraw":
        return _withdraw(production, change)
    model_dir = production.model_dir
    if not _answered_before(production, change):
        if production.layout == "labels":
            _list(model_dir, labels_of(model_dir), change.version)
        problem = production.verify(change)
        if problem and change.operation == "label":  # the label stays where it is
            _list(model_dir, labels_of(model_dir))
            commit(model_dir)
            return Result("rolled back", problem)
        if problem:
            return _withdraw(production, replace(change, operation="withdraw", reason=problem))
    if production.layout == "labels":
        _label(model_dir, change)
    unwritten = _write_down(model_dir, change)
    return Result("live", change.reason, versions(model_dir).get(change.version), unwritten)


def _write_down(model_dir: Path, change: Change) -> str:
    """Note that a version serves; return why that failed: it serves all the same, on a full disk, too."""
    try:
        _note(model_dir, change, change.version, "live" if serves(change) else "canary")
        if change.previous is not None and change.previous != change.version and serves(change):
            _note(model_dir, change, change.previous, "rolled back" if change.rolls_back else "superseded")
        _queue(model_dir, change)
        commit(model_dir)
    except StoreError as exc:
        return str(exc)
    return ""


def serves(change: Change) -> bool:
    """Return whether a change puts its version in the champion's place; a canary stands beside it."""
    return change.label != CANARY


def _answered_before(production: Production, change: Change) -> bool:
    """Return whether a crash came after production had answered as was validated, and that had been acted on.

    Asking again could then take back what others already rely on.
    """
    if production.layout == "labels":
        return labels_of(production.model_dir).get(change.label or STABLE) == change.version
    return state_of(read(production.model_dir), change.version) == "live"


def _withdraw(production: Production, change: Change) -> Result:
    """Take a live version away; what served before serves again."""
    model_dir = production.model_dir
    try:
        write_atomically(model_dir / JOURNAL, json.dumps(asdict(change), indent=1))
        if production.layout == "labels":
            _list(model_dir, {label: v for label, v in labels_of(model_dir).items() if v != change.version})
    finally:
        take_away(model_dir, change.version)  # needs no room on a full disk; the doctor knows it by its name
    _note(model_dir, change, change.version, "rolled back")
    _queue(model_dir, change)
    commit(model_dir)
    return Result("rolled back", change.reason)


def _list(model_dir: Path, labels: dict[str, int], version: int | None = None) -> None:
    """Have production load what has a label, what a rollback goes back to, and `version`.

    A label whose version somebody has removed goes: production would refuse the whole file for it.
    """
    live = versions(model_dir)
    labels = {label: number for label, number in labels.items() if number in live}
    wanted = {version, predecessor(model_dir, labels.get(STABLE)), *labels.values()}
    write_config(model_dir, sorted(live.keys() & wanted), labels)


def _label(model_dir: Path, change: Change) -> None:
    """Move the label; the first version ever is stable, too."""
    labels = {**labels_of(model_dir), change.label or STABLE: change.version}
    labels.setdefault(STABLE, change.version)
    if change.rolls_back is not None:  # nobody shall be served what was taken back, and no --to stable bring it back
        labels = {label: change.version if v == change.rolls_back else v for label, v in labels.items()}
    # What had the label stays loaded until the next change: a server unloads first and moves its labels then, and
    # between the two a client of the label would get an error.
    _list(model_dir, labels, change.previous)


def _note(model_dir: Path, change: Change, version: int, state: State) -> None:
    """Add a line of history, unless it is there already."""
    entries = read(model_dir)
    if state_of(entries, version) == state:
        return
    digest = change.digest if version == change.version else served_digest(entries, version)
    append(
        model_dir, version, state, digest, run=change.run, actor=change.actor or process_user(), reason=change.reason
    )


def _queue(model_dir: Path, change: Change) -> None:
    """Put a change into the outbox for MLflow; the same change is there once."""
    outbox = model_dir / OUTBOX
    make_directory(outbox)
    waiting = untold(model_dir)
    if change not in waiting.values():
        after = max((int(path.stem) + 1 for path in waiting), default=0)  # in order, even if the clock was set back
        done = replace(change, time=datetime.now(UTC).isoformat(timespec="seconds"))
        write_atomically(outbox / f"{max(time.time_ns(), after)}.json", json.dumps(asdict(done)))


def untold(model_dir: Path) -> dict[Path, Change]:
    """Return file to change of what MLflow does not know yet, the oldest first; what is no change is passed over."""
    files = [path for path in _outbox_files(model_dir) if path.stem.isdecimal()]
    read_back = ((path, _read_change(path)) for path in sorted(files, key=lambda path: (int(path.stem), path)))
    return {path: change for path, change in read_back if change is not None}


def unreadable(model_dir: Path) -> list[Path]:
    """Return the files in the outbox that nobody can tell MLflow about, such as what was cut short."""
    return sorted(path for path in _outbox_files(model_dir) if _read_change(path) is None)


def _outbox_files(model_dir: Path) -> list[Path]:
    return [path for name in (FORMER_OUTBOX, OUTBOX) for path in (model_dir / name).glob("*.json")]


def _read_change(path: Path) -> Change | None:
    try:
        change = Change(**json.loads(path.read_text()))
        return change if path.stem.isdecimal() and isinstance(change.version, int) else None
    except (OSError, ValueError, TypeError):
        return None


def tell(production: Production) -> list[Change]:
    """Tell the registry what it does not know yet, in order; return what it was told.

    The lock of production is not needed, and must not be held: a registry that hangs would hold up a rollback.

    Raises:
        TrackingError: it cannot be told; what is left waits. StoreError: it was told, and that cannot be noted.
    """
    told: list[Change] = []
    if not untold(production.model_dir):
        return told
    with telling_lock(production.model_dir):
        for path, change in untold(production.model_dir).items():
            production.record(change)
            try:
                path.unlink()
            except OSError as exc:
                raise StoreError(f"'{path}' must be removable, got {exc.strerror}") from exc
            told.append(change)
    return told
