"""Removes what nobody needs any more below work_dir: of runs that ended without a verdict, and of pruned candidates.

    candidates/<name>/<N>   stays if it was judged (promote.keep), or if its run may be going on
    runs/<ID>               stays if its run may be going on, or while a version or candidate with its files is there:
                            an approval, the live verification and a rollback find it by the stored rehearsal
    sweeps/<identity>       stays if its sweep may be going on, and for a week after it was interrupted
    rows/<SHA-256>.npz      stays while a run directory has it
    trainings/<name>/<ID>   stays while its training goes on, and for a week after that was killed

Nothing goes because something is not to be seen: a history or candidates on a disk that is not mounted, or those of
another production, do not say that nobody needs a file.

A run that has ended makes no more rehearsals. Therefore the runs that have ended are listed first, and what is needed
is read afterwards.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from configs.schema import Config
from tasks.errors import LockTimeout, PipelineError, StoreError
from tasks.owner import is_held
from tasks.savedmodel.files import open_plain
from tasks.savedmodel.manifest import declared_digest
from tasks.store.history import read
from tasks.store.layout import remove_abandoned, version_number
from tasks.store.lock import model_lock
from tasks.store.publish import PRUNED, put_aside, remove
from tasks.store.rehearsals import KEPT, digest_of, number_of, record_of, usefulness
from tasks.store.repair import Finding
from tasks.store.retention import prune_candidates
from tasks.store.runs import (
    ID,
    NEW,
    RUNS,
    SILENCE_S,
    RunDirectories,
    create_run_dir,
    file_time,
    owner_of,
    run_directories,
    run_names,
)
from tasks.store.shared_rows import remove_unused
from tasks.store.sweeps import find_old_sweeps
from tasks.training.backup import TRAININGS

log = logging.getLogger(__name__)
KEPT_BACKUP_S = 7 * 24 * 3600.0
HALF_DONE = re.compile(rf"{re.escape(NEW)}{ID.pattern}|{re.escape(PRUNED)}{ID.pattern}-[0-9a-f]{{8}}")


def begin_run(config: Config, name: str = "", *, digests: tuple[str, ...] = (), uses: tuple[str, ...] = ()) -> Path:
    """Create a directory for the files of one run of this process, and remove what earlier runs left.

    Args:
        name, digests, uses: as for `create_run_dir`.
    """
    run_dir = create_run_dir(config, name, digests=digests, uses=uses)
    is_there = owner_of(run_dir) is not None
    if is_there or not uses:  # else what it reads could be removed
        clear(config)
    # on a full disk there is room now
    return run_dir if is_there else create_run_dir(config, run_dir.name, digests=digests, uses=uses)


def clear(config: Config) -> None:
    """Remove what earlier runs left, before a run begins; never fail.

    Candidates are pruned here as well (promote.keep), because a model that is always rejected has no promotion.
    """
    removed: list[object] = []
    try:
        removed += _removed_by(find_leftovers(config))
        if pruned := _prune(config):  # a candidate without a verdict is none of those to keep
            removed += [*pruned, *_removed_by(find_leftovers(config))]
        removed += remove_abandoned(config.candidates_dir, only_look=False)
        for path in config.candidates_dir.glob(f"{PRUNED}*"):
            remove(path)
    except Exception as exc:  # noqa: BLE001  such as by a history that somebody edited; the run does without
        log.warning("what earlier runs left could not be removed: %s", exc)
    if removed:
        log.info("removed %d directories that earlier runs left in '%s'", len(removed), config.work_dir)


def find_leftovers(config: Config, *, only_look: bool = False) -> list[Finding]:
    """Return what ended runs left below work_dir, and remove it unless `only_look` is set."""
    findings: list[Finding] = []
    try:
        runs, gone = run_directories(config), set[Path]()
        findings += _half_done(config.work_dir / RUNS, runs.unowned, only_look)
        for path in _unjudged(config, runs):
            findings.append(_removed(path, "a candidate that was never judged and whose run has ended", only_look))
            gone |= {path} if findings[-1].done == "removed" else set()
        needed = _needed_digests(config, gone)
        findings += _of_ended_runs(config, runs, needed, only_look)
        findings += _of_earlier_releases(config, runs, needed, only_look)
        findings += find_old_sweeps(config, only_look=only_look)
        findings += _old_backups(config, only_look)
    except (PipelineError, OSError) as exc:
        findings.append(Finding("reported", f"what ended runs left in '{config.work_dir}' cannot be removed: {exc}"))
    if not only_look:
        remove_unused(config)
    return findings


def digests_in_use(config: Config, runs: RunDirectories | None = None) -> set[str]:
    """Return the digests of candidates that runs have exported, or read, which may be going on."""
    runs = run_directories(config) if runs is None else runs
    read_by_runs = (path for _, path in _numbered(config.candidates_dir) if runs.are_reading(path))
    return {*runs.digests_in_use, *map(declared_digest, read_by_runs)}


def _removed_by(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.done == "removed"]


def _prune(config: Config) -> list[Path]:
    keep, model_dir = config.promote.keep, config.live_dir
    if not keep or not model_dir.is_dir() or len(_numbered(config.candidates_dir)) <= keep:
        return []
    in_use = digests_in_use(config)
    try:
        with model_lock(model_dir, 0):
            return prune_candidates(model_dir, config.candidates_dir, config.promote.layout, keep, in_use)
    except LockTimeout:  # production is being changed, and the change prunes as well
        return []


def _unjudged(config: Config, runs: RunDirectories) -> list[Path]:
    """Return the candidates that ended runs exported and nobody judged; those of earlier releases are not known."""
    exported = {digest for owner in runs.ended.values() for digest in owner.digests} - digests_in_use(config, runs)
    judged = {(entry.version, entry.digest) for entry in read(config.live_dir) if entry.state != "exported"}
    found = [(number, declared_digest(path), path) for number, path in _numbered(config.candidates_dir)]
    return [
        path for number, digest, path in found
        if digest in exported and (number, digest) not in judged
        and not record_of(config.candidates_dir, digest, number).exists()
    ]  # fmt: skip


def _needed_digests(config: Config, gone: Collection[Path]) -> set[str]:
    """Return the digests of the files that are there, as candidates or live versions, as manifest and history say.

    What was judged, and is not in the history, is needed as well, because then it is another history.
    """
    there = [*_numbered(config.candidates_dir), *_numbered(config.live_dir)]
    there = [(number, path) for number, path in there if path not in gone]
    numbers = {number for number, _ in there}
    entries = read(config.live_dir)
    known = {entry.digest for entry in entries if entry.version in numbers}
    judged = {digest_of(record) for record in (config.candidates_dir / KEPT).glob("*.json")}
    unknown = judged - {entry.digest for entry in entries}
    return {*known, *unknown, *(declared_digest(path) for _, path in there)} - {""}


def _of_ended_runs(config: Config, runs: RunDirectories, needed: set[str], only_look: bool) -> Iterator[Finding]:
    named, of_twins = _named(config.candidates_dir, needed)
    elsewhere = not config.candidates_dir.is_dir()  # an export creates it
    for path, owner in runs.ended.items():
        if owner.digests and elsewhere:
            continue
        of_needed = path.name in named or (needed & {*owner.digests} and path.name not in of_twins)
        if not of_needed and not runs.are_reading(path):
            what = "whose candidates are gone" if owner.digests else "that ended without a candidate"
            yield _removed(path, f"the directory of a run {what}", only_look)


def _of_earlier_releases(config: Config, runs: RunDirectories, needed: set[str], only_look: bool) -> Iterator[Finding]:
    """Remove a directory without an owner if only pruned candidates of this model name it; report unknown ones."""
    named_by: dict[str, set[Path]] = {path.name: set() for path in runs.unowned}
    for record in config.candidates_dir.parent.glob(f"*/{KEPT}/*.json") if runs.unowned else ():
        for name in _run_names(record) & named_by.keys():
            named_by[name].add(record)
    for path in runs.unowned:
        records = named_by[path.name]
        ours = all(record.parent == config.candidates_dir / KEPT for record in records)
        if records and ours and not needed & {digest_of(record) for record in records} and not runs.are_reading(path):
            yield _removed(path, "the directory of a run whose candidates are gone", only_look)
    unknown = [path for path in runs.unowned if not named_by[path.name] and _has_file(path)]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        yield Finding(
            "reported",
            f"'{unknown[0]}'{more} does not say whose run it belongs to, as in earlier releases, and no rehearsal "
            "names it; remove it unless its run is going on",
        )


def _old_backups(config: Config, only_look: bool) -> Iterator[Finding]:
    """Remove the backups of killed trainings that were not repeated for a week."""
    directory = config.work_dir / TRAININGS / config.name
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    now = file_time(directory) if found else 0.0
    for path in found:
        if path.is_dir() and now - _changed(path) > KEPT_BACKUP_S and not is_held(path):
            yield _removed(path, "the backup of a training that was not repeated for a week", only_look)


def _half_done(directory: Path, unowned: Sequence[Path], only_look: bool) -> Iterator[Finding]:
    """Remove run directories that a process was removing, or could not create: it was killed, or the disk was full."""
    now = file_time(directory)
    hidden = [path for path in directory.glob(".*") if HALF_DONE.fullmatch(path.name)]
    doomed = [path for path in hidden if path.name.startswith(PRUNED)]
    new = [path for path in hidden if path.name.startswith(NEW)]
    new += [path for path in unowned if path.is_dir() and not _has_file(path)]
    doomed += [path for path in new if now - _changed(path) > SILENCE_S]
    for path in sorted(doomed):
        try:
            if not only_look:
                remove(path)
        except StoreError as exc:
            yield Finding("reported", str(exc))
            continue
        yield Finding("removed", f"'{path}', which a process left behind")


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:  # a run that begins has just renamed it
        return math.inf


def _has_file(directory: Path) -> bool:
    return any(not path.is_dir() for path in directory.rglob("*"))


def _removed(path: Path, what: str, only_look: bool) -> Finding:
    """Remove a directory; it is renamed first, so that no part of it is ever taken for the whole."""
    try:
        if not only_look:
            remove(put_aside(path))
    except StoreError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError):  # then another process was faster
            return Finding("reported", f"'{path}', {what}, cannot be removed: {exc}")
    return Finding("removed", f"'{path}', {what}")


def _named(candidates_dir: Path, digests: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the run directories that the rehearsals of these digests name: those that are needed, and the others.

    Of several candidates with one digest, those are needed that are still there, and the one that `recall` takes.
    """
    numbers = {number for number, _ in _numbered(candidates_dir)}
    taken, named, of_twins = set[str](), set[str](), set[str]()
    records = [path for path in (candidates_dir / KEPT).glob("*.json") if digest_of(path) in digests]
    for record in sorted(records, key=usefulness, reverse=True):
        is_needed = digest_of(record) not in taken or number_of(record) in {None, *numbers}
        (named if is_needed else of_twins).update(_run_names(record))
        taken.add(digest_of(record))
    return named, of_twins


def _run_names(record: Path) -> set[str]:
    with open_plain(record) as file:
        return run_names(file.read().decode("utf-8", errors="replace"))


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """Return the version directories by number; unlike `versions`, this takes two with the same number."""
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    found = [(version_number(path.name), path) for path in paths if path.is_dir()]
    return [(number, path) for number, path in found if number is not None]
