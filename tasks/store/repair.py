"""The doctor: finds what a crash left behind in the directories of a model, and finishes or removes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.errors import ManifestMismatch, PipelineError, StoreError, TrackingError
from tasks.program import command_name
from tasks.proof.chain import HEAD, HISTORY, chain_problems
from tasks.proof.directory import PROOFS, kept_statement, left_behind
from tasks.records import Change
from tasks.savedmodel.files import narrow, set_modes
from tasks.savedmodel.manifest import declared_digest, hash_files, verify_manifest
from tasks.store.experiment import running, spoiled
from tasks.store.history import finish_last_line, read, served_digest, state_of
from tasks.store.journal import commit, pending
from tasks.store.layout import STAGING, remove_abandoned, version_number, versions
from tasks.store.publish import PRUNED, WITHDRAWN, remove
from tasks.store.retention import note_pruned
from tasks.store.serving_config import labels_of
from tasks.store.transaction import FORMER_OUTBOX, OUTBOX, Production, finish, tell, unreadable, untold


@dataclass(frozen=True)
class Finding:
    """A problem that was found.

    Attributes:
        done: `finished`, `removed`, or `reported`, which means that a person must decide.
        text: one line that says what was found and, if a person must decide, what to do.
    """

    done: str
    text: str


def repair(production: Production, candidates_dir: Path, *, only_look: bool = False) -> list[Finding]:
    """Examine the directories of a model, and repair what has only one solution; the caller must hold the lock.

    Args:
        only_look: change nothing, and report what would be done.
    """
    found = mend(production, candidates_dir, only_look=only_look)
    return [*found, *_modes(production, only_look), *_reports(production)]


def mend(production: Production, candidates_dir: Path, *, only_look: bool = False) -> list[Finding]:
    """Make only the repairs that the next change needs, without MLflow and without reading every file."""
    found: list[Finding] = []
    model_dir = production.model_dir
    for step in (
        _history(model_dir, only_look),
        _leftovers(production, candidates_dir, only_look),
        _unreadable(model_dir, only_look),
        _open_change(production, only_look),
    ):
        try:
            found += step
        except (PipelineError, OSError) as exc:
            found.append(Finding("reported", str(exc)))
    return found


def _history(model_dir: Path, only_look: bool) -> Iterator[Finding]:
    """Finish the last line of the history, which every later step reads."""
    if what := finish_last_line(model_dir, only_look=only_look):
        yield Finding("finished", what)


def _unreadable(model_dir: Path, only_look: bool) -> Iterator[Finding]:
    """Rename files in the outbox that are not changes, so that they are not read again."""
    for path in unreadable(model_dir):
        aside = path.with_suffix(".unreadable")
        if not only_look:
            try:
                path.rename(aside)
            except OSError as exc:
                yield Finding("reported", f"'{path}' is not a valid change and cannot be renamed: {exc.strerror}")
                continue
        yield Finding("removed", f"'{path}', which is not a valid change; it is kept as '{aside.name}'")


def _modes(production: Production, only_look: bool) -> Iterator[Finding]:
    """Correct the modes of live versions, so that production's user can read them."""
    with contextlib.suppress(StoreError):  # `_reports` reports it
        for path in versions(production.model_dir).values():
            try:
                closed = narrow(path, production.directory_mode, production.file_mode) if path.is_dir() else []
            except OSError:
                continue  # `_reports` reports it
            if not closed:
                continue
            first, mode = closed[0]
            words = f"'{first}' must have mode {mode:04o} (promote.directory_mode, promote.file_mode) but had another"
            more = f", and {len(closed) - 1} more below '{path}'" if len(closed) > 1 else ""
            try:
                if not only_look:
                    set_modes(path, production.directory_mode, production.file_mode)
                yield Finding("finished", words + more)
            except OSError as exc:
                yield Finding("reported", f"{words}{more}. This user cannot set it ({exc.strerror}); set it yourself")


def catch_up(production: Production, *, only_look: bool = False) -> Iterator[Finding]:
    """Send MLflow the changes that it does not have yet, without the lock, so that production does not wait for it."""
    waiting = untold(production.model_dir)
    if not waiting:
        return
    if only_look:
        yield Finding("finished", f"{len(waiting)} changes would be sent to MLflow")
        return
    try:
        for change in tell(production):
            yield Finding("finished", f"the {change.title} was sent to MLflow")
    except (TrackingError, StoreError) as exc:
        yield Finding("reported", f"{len(untold(production.model_dir))} changes could not be sent to MLflow yet: {exc}")


def _leftovers(production: Production, candidates_dir: Path, only_look: bool) -> Iterator[Finding]:
    """Remove directories that were being written or removed; because the lock is held, no process is using them."""
    model_dir = production.model_dir
    being_filled = [model_dir, model_dir / OUTBOX, model_dir / FORMER_OUTBOX]
    doomed = [path for directory in being_filled for path in directory.glob(f"{STAGING}*")]
    doomed += model_dir.glob(f"{PRUNED}*")
    doomed += candidates_dir.glob(f"{PRUNED}*")
    for path in sorted(doomed):
        if not only_look:
            number = version_number(path.name.removeprefix(PRUNED).rpartition("-")[0])
            if number is not None and path.parent == model_dir:
                note_pruned(model_dir, number, "a killed process was removing it", production.signer)
            remove(path)
    for path in [*sorted(doomed), *remove_abandoned(candidates_dir, only_look=only_look)]:
        yield Finding("removed", f"'{path}', which a killed process left behind")
    for path in [path for directory in sorted((model_dir / PROOFS).glob("*")) for path in left_behind(directory)]:
        if not only_look:
            remove(path)
        yield Finding("removed", f"{str(path)!r}, which the statement beside it does not name")


def _open_change(production: Production, only_look: bool) -> Iterator[Finding]:
    change = pending(production.model_dir)
    if change is None:
        return
    what = change.title
    if change.operation == "publish":
        now = _come_to(production.model_dir, change)
        if now is None:
            if not only_look:
                commit(production.model_dir)
            yield Finding("removed", f"the {what}, which had not changed production yet; run the promotion again")
            return
        change = now
    if only_look:
        yield Finding("finished", f"the {what} would be finished")
        return
    result = finish(production, change)
    words = f"the {what}: {result.state}{f' ({result.reason})' if result.reason else ''}"
    if result.unwritten:
        yield Finding("reported", f"{words}, but this could not be recorded: {result.unwritten}")
    else:
        yield Finding("finished", words)


def _come_to(model_dir: Path, change: Change) -> Change | None:
    """Return the change that finishes an interrupted publish, or None if nothing of it is live."""
    live_dir = versions(model_dir).get(change.version)
    if live_dir is None:
        # On a full disk, a version is withdrawn before that can be recorded.
        taken_away = any(model_dir.glob(f"{WITHDRAWN}{change.version}-*"))
        reason = "it was taken out of production"
        return replace(change, operation="withdraw", reason=reason) if taken_away else None
    try:
        verify_manifest(live_dir, change.digest)
    except (ManifestMismatch, OSError) as exc:
        if declared_digest(live_dir) != change.digest:
            return None  # a foreign directory, which is reported
        return replace(change, operation="withdraw", reason=f"it was never verified in production, and {exc}")
    return change


def _reports(production: Production) -> Iterator[Finding]:
    """Yield problems that may be intended."""
    model_dir = production.model_dir
    try:
        live, labels = versions(model_dir), labels_of(model_dir)
    except StoreError as exc:
        yield Finding("reported", str(exc))
        return
    entries = read(model_dir)
    yield from _chain(production)
    for version, path in live.items():
        if not path.is_dir():
            yield Finding("reported", f"'{path}' is a file, but a server regards it as a version; remove it")
            continue
        try:
            found = hash_files(path).digest
        except (PipelineError, OSError) as exc:
            yield Finding("reported", f"'{path}' cannot be read: {exc}")
            continue
        promoted = served_digest(entries, version)
        if not promoted:
            yield Finding("reported", f"'{path}' was not promoted by this project: it is not in the history")
        elif promoted != found:
            yield Finding(
                "reported",
                f"'{path}' was changed after its promotion: its digest is {found[:12]}, and was {promoted[:12]} when "
                "it was promoted; roll back, or promote a new version",
            )
        elif problem := production.unproven(path, found):
            yield Finding("reported", f"version {version} has no proof (promote.require_proof): {problem}")
    last = next((entry.version for entry in reversed(entries) if entry.state == "live"), 0)
    if last and last not in live and state_of(entries, last) == "live":
        now = f"version {max(live)} serves" if live and production.layout == "latest" else "it does not serve"
        yield Finding(
            "reported",
            f"version {last} is live in the history, but is not in '{model_dir}': {now}; put it back with "
            f"`rollback --to {last}`, or promote a new version",
        )
    yield from _experiment(production)
    if production.layout == "labels":
        for label, version in labels.items():
            if version not in live:
                yield Finding("reported", f"the label '{label}' names version {version}, which is not in '{model_dir}'")


def _chain(production: Production) -> Iterator[Finding]:
    """Yield where the history is not as it was written; lines of a process without the key are not a fault."""
    model_dir = production.model_dir
    if not (model_dir / HISTORY).exists():
        return
    live = {entry.digest for entry in read(model_dir) if entry.state == "live" and entry.digest.isalnum()}
    kept = (kept_statement(model_dir, digest) for digest in live)
    # Who signed a statement signed the head as well; without one, the key may be new.
    signed = (model_dir / HEAD).exists() or any(statement.key_id for statement in kept if statement is not None)
    publics = production.publics if signed else ()
    for problem in chain_problems(model_dir, publics, model=model_dir.name, to_the_end=False):
        yield Finding("reported", f"{problem}; restore the file from a copy, see docs/signing.md")


def _experiment(production: Production) -> Iterator[Finding]:
    """Yield why the experiment that runs is not what it was when it began."""
    try:
        known = running(production.model_dir)
    except StoreError as exc:
        yield Finding("reported", str(exc))
        return
    if known is None:
        return
    changed, needed = spoiled(production.model_dir, known), ""
    if production.layout != "labels":
        changed = [f"promote.layout is {production.layout}, which has no labels"]
        needed = " and promote.layout: labels"
    if changed:
        yield Finding(
            "reported",
            f"the experiment {known.name} runs, but {'; '.join(changed)}: its outcomes decide nothing any more; end it "
            f"with {command_name('flows.ab')} --stop{needed}",
        )
