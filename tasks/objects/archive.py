"""The candidates' archive in an object store, so that an approval does not need the machine that judged.

    candidate/<N>/...   the candidate's files
    runs/<ID>/...       its run directories: rows, requests, in-process and served answers
    rehearsal.json      the verdict, as it is stored beside the candidates

All of it is one directory with a manifest of its own, uploaded and read back as a version is. live.json names it
afterwards, together with the history up to then, so that half an upload is never taken for a candidate.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from configs.schema import Config
from tasks.errors import ManifestMismatch, StoreError, VersionExists
from tasks.objects.live import Archived, upload_path
from tasks.objects.mirror import Mirror
from tasks.objects.store import mirror_of
from tasks.objects.transfer import fetch, send
from tasks.savedmodel.files import fsync_path, link_or_copy, walk
from tasks.savedmodel.manifest import holds, verify_manifest, write_manifest
from tasks.store.history import read
from tasks.store.journal import write_atomically
from tasks.store.layout import staging_directory, version_number, versions
from tasks.store.rehearsals import record_of, rehearsal_file
from tasks.store.retention import old_candidates
from tasks.store.runs import ID, OWNER, RUNS, note_owner, run_names
from tasks.waiting import waiting_for

CANDIDATE, RECORD = "candidate", "rehearsal.json"


def is_here(config: Config, version: int, digest: str) -> bool:
    """Return whether this work_dir has a candidate, its rehearsal, which is written last, and its run directories.

    Raises:
        StoreError: the rehearsal cannot be read.
    """
    directory, record = versions(config.candidates_dir).get(version), record_of(config.candidates_dir, digest, version)
    if directory is None or not record.exists() or not holds(directory, digest):
        return False
    try:
        names = run_names(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise StoreError(f"'{record}' must contain a rehearsal, but it cannot be read: {exc}") from exc
    return all((config.work_dir / RUNS / name).is_dir() for name in names)


def send_candidate(mirror: Mirror, config: Config, version: int, digest: str) -> Archived:
    """Upload a judged candidate with all that an approval needs, and read it back; nothing names it yet.

    Raises:
        ManifestMismatch: the candidate, or what the store gives back, is not what was judged. StoreError: a file is
            missing, or the store cannot be written.
    """
    version_dir, record = versions(config.candidates_dir)[version], record_of(config.candidates_dir, digest, version)
    verify_manifest(version_dir, digest)
    with staging_directory(config.candidates_dir) as staging:
        try:
            _link_files(version_dir, staging / CANDIDATE / version_dir.name)
            link_or_copy(record, staging / RECORD)
            for name in run_names(record.read_text(encoding="utf-8")):
                _link_files(config.work_dir / RUNS / name, staging / RUNS / name)
            archive = write_manifest(staging).digest
        except OSError as exc:
            raise StoreError(
                f"candidate {version} must be archived with its run, got '{exc.filename}': {exc.strerror}"
            ) from exc
        kept = Archived(version, digest, archive, upload_path(archive, "candidates"))
        with waiting_for(f"candidate {version} to be uploaded to {mirror.bucket.address}"):
            send(mirror.bucket, config.name, kept.stored, staging)
    return kept


def _link_files(directory: Path, target: Path) -> None:
    """Link the files of a directory, without empty directories; who owned a run means nothing on another machine."""
    for entry in walk(directory) if directory.is_dir() else ():
        if not entry.odd and entry.name != OWNER:
            (target / entry.name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(directory / entry.name, target / entry.name)


def fetch_candidate(mirror: Mirror, config: Config, kept: Archived) -> None:
    """Bring a candidate of the archive into this work_dir, as if it had been judged with it.

    Everything is compared with its digest before the first part gets its name, and the rehearsal, without which the
    rest means nothing, comes last.

    Raises:
        ManifestMismatch: the store has other files than the digests say. VersionExists: another candidate of this
            work_dir has the number. StoreError: a file cannot be written.
    """
    with staging_directory(config.candidates_dir) as staging:
        with waiting_for(f"candidate {kept.version} from {mirror.bucket.address}"):
            fetch(mirror.bucket, config.name, kept.stored, staging)
        found = [*(staging / CANDIDATE).iterdir()] if (staging / CANDIDATE).is_dir() else []
        if [version_number(path.name) for path in found] != [kept.version]:
            raise ManifestMismatch(f"the archive of candidate {kept.version} must have it, and no other one")
        verify_manifest(found[0], kept.digest)
        taken = versions(config.candidates_dir).get(kept.version)
        if taken is not None and not holds(taken, kept.digest):
            raise VersionExists(
                f"candidate {kept.version} of the archive has other files than '{taken}'; decide about it with "
                "another work_dir"
            )
        try:
            _put_runs(config, staging / RUNS, kept.digest)
            if taken is None:
                _put(found[0], config.candidates_dir / found[0].name)
            record = rehearsal_file(config.candidates_dir, kept.digest, kept.version)
            record.parent.mkdir(exist_ok=True)
            write_atomically(record, (staging / RECORD).read_text(encoding="utf-8"))
        except OSError as exc:
            raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc


def _put_runs(config: Config, runs: Path, digest: str) -> None:
    """Put run directories into place, each with an owner, so that they are kept as long as the candidate is."""
    (config.work_dir / RUNS).mkdir(exist_ok=True)
    for run_dir in sorted(runs.iterdir()) if runs.is_dir() else ():
        if ID.fullmatch(run_dir.name):
            note_owner(config, run_dir, (digest,))
            _put(run_dir, config.work_dir / RUNS / run_dir.name)


def _put(path: Path, target: Path) -> None:
    """Rename a directory; if it is there, such as of another candidate of the same run, its files get their bytes."""
    try:
        path.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        for entry in walk(path):
            (target / entry.name).parent.mkdir(parents=True, exist_ok=True)
            (path / entry.name).replace(target / entry.name)
    fsync_path(target.parent)


def forget_old(config: Config, in_use: Collection[str]) -> None:
    """Name the candidates no more that `promote.keep` does not keep here either; the caller holds the lock.

    Their objects are removed by the doctor when nothing has named them for a day.
    """
    mirror = mirror_of(config)
    live = mirror.base().live if mirror else None
    if mirror is None or live is None or not config.promote.keep:
        return
    entries = read(config.live_dir)
    known = {kept: {e.digest for e in entries if e.version == kept.version} & {kept.digest} for kept in live.candidates}
    own = {kept: (kept.version, digests) for kept, digests in known.items() if digests}
    old = old_candidates(config.live_dir, own, config.promote.layout, config.promote.keep, in_use)
    if old:
        mirror.show(forgotten=old)
