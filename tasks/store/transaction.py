"""Changes of production: each change is either finished or removed.

    publish     journal | stage, prove, rename, show  | verify live | history, outbox | close, show | tell MLflow
                                                            `-- not as validated: withdraw
    withdraw    journal | rename away, show                         | history, outbox | close, show | tell MLflow
    label       journal | list, show, verify live | move label, show | history, outbox | close, show | tell MLflow
                                             `-- not as validated: close, show
    experiment  journal | list, show, verify live | set labels, show, verify each | record, show
                        |                    `-- not as validated ----------`-- remove labels, close, show
                        | history, outbox | close, show | tell MLflow
    end         journal | remove labels, record                     | history, outbox | close, show | tell MLflow

An experiment that was not recorded before a crash is removed, so that no rollback waits for its verification. A label
that moves to the winner ends the experiment in the same step.

After a crash before the rename, the change is removed. After a later crash, the next promotion or the doctor
finishes the change. Every step can be repeated. Changes that MLflow does not have yet wait in the outbox, so that
production, and above all a rollback, never waits for MLflow.

Servers see a directory as it is, so that `show` has nothing to do. An object store shows what was published there last
(tasks/objects/mirror.py).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from configs.sections.promote import Layout
from tasks.errors import StoreError
from tasks.proof.chain import Signer
from tasks.proof.keys import PublicKey
from tasks.records import Arm, Change
from tasks.savedmodel.manifest import Manifest
from tasks.store.champion import predecessor
from tasks.store.experiment import forget, keep, running
from tasks.store.history import NOTES, Entry, State, append, head_digest, process_user, read, served_digest, state_of
from tasks.store.journal import JOURNAL, begin, commit, make_directory, read_change, write_atomically
from tasks.store.layout import versions
from tasks.store.lock import telling_lock
from tasks.store.publish import bring_in, take_away
from tasks.store.serving_config import labels_of, write_config

STABLE, CANARY = "stable", "canary"
OUTBOX = ".outbox"
FORMER_OUTBOX = ".untold"  # of earlier releases; its changes are sent as well


@dataclass(frozen=True)
class Production:
    """A live directory, how it is served, and how the registry is updated.

    Attributes:
        verify: checks a version in production, and returns an empty string or the reason why it failed.
        verify_label: likewise checks that the label of a change answers as its version does.
        record: sends a change to the registry.
        directory_mode, file_mode: modes of published directories and files; None leaves files as they are.
        show: makes what the directory says visible to servers that do not watch the directory itself.
        signer: who signs the head of the history, or None. publics: the keys that may have signed it.
        prove: writes the proof of a change that publishes the files of a directory, before they go live.
        unproven: returns why the files of a directory, which have a digest, lack the proof that they need, or nothing.
    """

    model_dir: Path
    layout: Layout
    verify: Callable[[Change], str]
    record: Callable[[Change], None]
    directory_mode: int = 0o755
    file_mode: int | None = 0o644
    verify_label: Callable[[Change], str] = lambda _change: ""
    show: Callable[[], None] = lambda: None
    signer: Signer | None = None
    publics: tuple[PublicKey, ...] = ()
    prove: Callable[[Change, Path, Manifest], None] = lambda _change, _directory, _manifest: None
    unproven: Callable[[Path, str], str] = lambda _directory, _digest: ""


@dataclass(frozen=True)
class Result:
    """The result of a change: `live`, or `rolled back` with the reason.

    Attributes:
        unwritten: why the live version could not be recorded, or empty. The change stays open then, and the next
            change or the doctor records it.
    """

    state: str
    reason: str = ""
    live_dir: Path | None = None
    unwritten: str = ""


def carry_out(production: Production, change: Change) -> Result:
    """Make a change from its first step to its last; the caller must hold the lock.

    Raises:
        StoreError: the change failed. The rest of it is in the journal, and the next change finishes it.
    """
    model_dir = production.model_dir
    was_there = change.version in versions(model_dir)
    begin(model_dir, change)
    if change.operation == "publish":
        try:
            prove = partial(production.prove, change)
            bring_in(model_dir, change, production.directory_mode, production.file_mode, prove)
        except BaseException:
            if was_there or change.version not in versions(model_dir):
                commit(model_dir)  # nothing has changed, unless an interrupt came just after the rename
            raise
    if change.operation == "experiment":
        return _experiment(production, change)
    return finish(production, change)


def finish(production: Production, change: Change) -> Result:
    """Take every step after the rename, even if some were taken before."""
    if change.operation == "withdraw":
        return _withdraw(production, change)
    model_dir = production.model_dir
    if change.operation == "experiment":
        if not _runs(model_dir, change):
            return _take_back(production, change, "it was interrupted before it ran")
        return Result("live", change.reason, unwritten=_write_down(production, change))
    if change.operation != "end" and not _answered_before(production, change):
        if production.layout == "labels":
            _list(model_dir, labels_of(model_dir), change.version)
        production.show()
        problem = production.verify(change)
        if problem and change.operation == "label":  # the label stays where it is
            _list(model_dir, labels_of(model_dir))
            commit(model_dir)
            production.show()
            return Result("rolled back", problem)
        if problem:
            return _withdraw(production, replace(change, operation="withdraw", reason=problem))
    if change.operation == "end":
        _list(model_dir, _without_arms(labels_of(model_dir), change))
    elif production.layout == "labels":
        _label(model_dir, change)
        production.show()
    if change.arms:
        forget(model_dir)
    unwritten = _write_down(production, change)
    return Result("live", change.reason, versions(model_dir).get(change.version), unwritten)


def _experiment(production: Production, change: Change) -> Result:
    """Let an experiment run if every version of it answers as validated, or take everything back."""
    model_dir = production.model_dir
    try:
        problem = _problem_of_arms(production, change)
        if not problem:
            keep(model_dir, change, datetime.now(UTC).isoformat(timespec="seconds"))
            production.show()
    except BaseException as exc:
        if isinstance(exc, StoreError) or not _runs(model_dir, change):
            forget(model_dir)  # what servers do not see does not run
            with contextlib.suppress(StoreError):  # the first error says more; the next change shows it
                _take_back(production, change, "")
        raise
    return _take_back(production, change, problem) if problem else finish(production, change)


def _problem_of_arms(production: Production, change: Change) -> str:
    """List the versions, verify them, give them their labels, verify these; return why one failed, or nothing.

    All labels are written at once, because a server takes a new file only as a whole.
    """
    model_dir, labels = production.model_dir, labels_of(production.model_dir)
    of_arms = [replace(change, version=arm.version, digest=arm.digest, label=arm.label) for arm in change.arms]
    _list(model_dir, labels, *(arm.version for arm in change.arms))
    production.show()
    for arm in of_arms:
        if problem := production.verify(arm):
            return problem
    _list(model_dir, {**labels, **{arm.label: arm.version for arm in change.arms}})
    production.show()
    for arm in of_arms:
        if problem := production.verify_label(arm):
            return problem
    return ""


def _runs(model_dir: Path, change: Change) -> bool:
    found = running(model_dir)
    return found is not None and found.name == change.experiment


def _take_back(production: Production, change: Change, reason: str) -> Result:
    """Make `models.config` what it was before an experiment that does not run."""
    model_dir = production.model_dir
    _list(model_dir, _without_arms(labels_of(model_dir), change))
    commit(model_dir)
    production.show()
    return Result("rolled back", reason)


def _without_arms(labels: Mapping[str, int], change: Change) -> dict[str, int]:
    ended = {arm.label for arm in change.arms}
    return {label: version for label, version in labels.items() if label not in ended}


def _write_down(production: Production, change: Change) -> str:
    """Record that a version is live, and return why that failed; it stays live even on a full disk."""
    model_dir = production.model_dir
    try:
        for arm in change.arms:
            _note_arm(production, change, arm)
        if change.operation in ("experiment", "end"):
            _queue(model_dir, change)
            commit(model_dir)
            production.show()
            return ""
        _note(production, change, change.version, "live" if serves(change) else "canary")
        if change.previous is not None and change.previous != change.version and serves(change):
            _note(production, change, change.previous, "rolled back" if change.rolls_back else "superseded")
        _queue(model_dir, change)
        commit(model_dir)
        production.show()
    except StoreError as exc:
        return str(exc)
    return ""


def serves(change: Change) -> bool:
    """Return whether a change makes its version the champion; a canary does not replace the champion."""
    return change.label != CANARY


def overtaken(entries: list[Entry], change: Change) -> bool:
    """Return whether the history has a later change, as of another machine, that decided what is served."""
    by_canary = change.operation != "withdraw" and not serves(change)
    own = "rolled back" if change.operation == "withdraw" else "canary" if by_canary else "live"
    its = [place for place, entry in enumerate(entries) if (entry.version, entry.state) == (change.version, own)]
    later = entries[its[-1] + 1 :] if its else []
    return any(
        entry.version != change.version and entry.state == ("canary" if by_canary else "live") for entry in later
    )


def _answered_before(production: Production, change: Change) -> bool:
    """Return whether the version was verified before a crash, and the result was already applied.

    Verifying it again could withdraw a version that clients already use.
    """
    if production.layout == "labels":
        return labels_of(production.model_dir).get(change.label or STABLE) == change.version
    return state_of(read(production.model_dir), change.version) == "live"


def _withdraw(production: Production, change: Change) -> Result:
    """Withdraw a live version, so that the previous version is served again."""
    model_dir = production.model_dir
    try:
        write_atomically(model_dir / JOURNAL, json.dumps(asdict(change), indent=1))
        if production.layout == "labels":
            _list(model_dir, {label: v for label, v in labels_of(model_dir).items() if v != change.version})
    finally:
        take_away(model_dir, change.version)  # works on a full disk; the doctor recognises it by its name
    production.show()
    _note(production, change, change.version, "rolled back")
    _queue(model_dir, change)
    commit(model_dir)
    production.show()
    return Result("rolled back", change.reason)


def _list(model_dir: Path, labels: Mapping[str, int], *more: int | None) -> None:
    """Make production load the versions that have a label, the version that a rollback goes back to, and `more`.

    A label whose version was removed is dropped, because production would refuse the whole file.
    """
    live = versions(model_dir)
    labels = {label: number for label, number in labels.items() if number in live}
    wanted = {*more, predecessor(model_dir, labels.get(STABLE)), *labels.values()}
    write_config(model_dir, sorted(live.keys() & wanted), labels)


def _label(model_dir: Path, change: Change) -> None:
    """Move the label; the very first version is also stable. The labels of an experiment that ends go."""
    labels = {**_without_arms(labels_of(model_dir), change), change.label or STABLE: change.version}
    labels.setdefault(STABLE, change.version)
    if change.rolls_back is not None:  # no label may name the version that was rolled back
        labels = {label: change.version if v == change.rolls_back else v for label, v in labels.items()}
    # The version that had the label stays loaded until the next change: a server unloads versions before it moves
    # labels, and in between a client of the label would get an error.
    _list(model_dir, labels, change.previous)


def _note(production: Production, change: Change, version: int, state: State) -> None:
    """Add a line of history, unless it is there already."""
    model_dir = production.model_dir
    entries = read(model_dir)
    if state_of(entries, version) == state:
        return
    digest = change.digest if version == change.version else served_digest(entries, version)
    append(
        model_dir, version, state, digest, production.signer,
        run=change.run, actor=change.actor or process_user(), reason=change.reason,
    )  # fmt: skip


def _note_arm(production: Production, change: Change, arm: Arm) -> None:
    """Add a line of history about a version of an experiment, unless it is there already."""
    model_dir = production.model_dir
    state: State = "in experiment" if change.operation == "experiment" else "experiment ended"
    reason = f"experiment {change.experiment}: {arm}" + (f"; {change.reason}" if state == "experiment ended" else "")
    noted = [entry for entry in read(model_dir) if entry.version == arm.version and entry.state in NOTES][-1:]
    if [(entry.state, entry.reason) for entry in noted] != [(state, reason)]:
        append(
            model_dir, arm.version, state, arm.digest, production.signer,
            actor=change.actor or process_user(), reason=reason,
        )  # fmt: skip


def _queue(model_dir: Path, change: Change) -> None:
    """Add a change to the outbox for MLflow, unless it is the last one there.

    An equal change may be there already if another one has come in between, as when a label moves back and forth.
    """
    outbox = model_dir / OUTBOX
    make_directory(outbox)
    waiting = untold(model_dir)
    if [*waiting.values()][-1:] != [change]:
        after = max((int(path.stem) + 1 for path in waiting), default=0)  # in order, even if the clock was set back
        now = datetime.now(UTC).isoformat(timespec="seconds")
        done = replace(change, time=now, head=head_digest(model_dir))
        write_atomically(outbox / f"{max(time.time_ns(), after)}.json", json.dumps(asdict(done)))


def untold(model_dir: Path) -> dict[Path, Change]:
    """Return the changes that MLflow does not have yet by file, the oldest first; invalid files are ignored."""
    files = [path for path in _outbox_files(model_dir) if path.stem.isdecimal()]
    read_back = ((path, _read_change(path)) for path in sorted(files, key=lambda path: (int(path.stem), path)))
    return {path: change for path, change in read_back if change is not None}


def unreadable(model_dir: Path) -> list[Path]:
    """Return the files in the outbox that are not valid changes, such as incomplete ones."""
    return sorted(path for path in _outbox_files(model_dir) if _read_change(path) is None)


def _outbox_files(model_dir: Path) -> list[Path]:
    return [path for name in (FORMER_OUTBOX, OUTBOX) for path in (model_dir / name).glob("*.json")]


def _read_change(path: Path) -> Change | None:
    try:
        change = read_change(json.loads(path.read_text()))
        return change if path.stem.isdecimal() and isinstance(change.version, int) else None
    except (OSError, ValueError, TypeError):
        return None


def annotate(model_dir: Path, change: Change, metrics: str) -> bool:
    """Add what production's metrics say to a change that MLflow does not have yet, and return whether it was there.

    Raises:
        LockTimeout: another process updates MLflow. StoreError: the change cannot be written.
    """
    with telling_lock(model_dir):
        waiting = untold(model_dir).items()
        found = [item for item in waiting if (item[1].version, item[1].digest) == (change.version, change.digest)]
        for path, queued in found[-1:]:
            write_atomically(path, json.dumps(asdict(replace(queued, metrics=metrics))))
    return bool(found)


def tell(production: Production) -> list[Change]:
    """Send the registry the changes that it does not have yet, in order, and return them.

    The caller must not hold the lock of production, because a registry that hangs would delay a rollback.

    Raises:
        TrackingError: a change cannot be sent; the rest waits. StoreError: a change was sent, but cannot be removed
            from the outbox.
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
