"""Follows live.json beside a server: fetches versions, verifies them, and lets the server see each by one rename.

    fetch into a hidden directory -> compare every byte -> rename to the number -> models.config -> remove old versions

The server that watches the directory sees nothing of a version or all of it. Nothing is removed before what replaces it
is there, and whatever goes wrong, what is served stays.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from configs.redaction import redact
from configs.schema import MODEL_NAME
from tasks.errors import (
    LockTimeout,
    ManifestMismatch,
    PipelineError,
    StoreError,
    StoreRefused,
    StoreUnreachable,
    VersionExists,
)
from tasks.objects.bucket import Bucket
from tasks.objects.live import LIVE, Live, Stored, read_live
from tasks.objects.transfer import fetch
from tasks.savedmodel.files import fsync_path, link_tree, make_directories, set_modes
from tasks.savedmodel.manifest import declared_digest, holds, verify_manifest
from tasks.store.history import HISTORY
from tasks.store.journal import write_atomically
from tasks.store.layout import STAGING, versions
from tasks.store.publish import PRUNED, put_aside, remove
from tasks.store.serving_config import labels_of, listed_versions, write_config

log = logging.getLogger(__name__)

MARK = ".synced.json"
LOCK = ".sync.lock"


@dataclass(frozen=True)
class Target:
    """The directory that is filled.

    Attributes:
        root: `<root>/<name>/<N>` is a version. keep: number of the newest versions to have, with the layout `latest`.
        directory_mode, file_mode: of everything that is published.
    """

    root: Path
    keep: int = 2
    directory_mode: int = 0o755
    file_mode: int = 0o644


@dataclass(frozen=True)
class Followed:
    """What is in the directory of one model."""

    generation: int
    champion: int | None
    digest: str
    versions: tuple[int, ...]


@contextlib.contextmanager
def only_sync(root: Path) -> Iterator[None]:
    """Hold the lock of a directory that is filled.

    Raises:
        LockTimeout: another sync fills it. StoreError: it cannot be written.
    """
    try:
        make_directories(root)
        held = FileLock(root / LOCK).acquire(timeout=0)
    except Timeout as exc:
        raise LockTimeout(f"only one sync can fill '{root}' at a time, and another one does; end it first") from exc
    except OSError as exc:
        raise StoreError(f"--to must be a writable directory, got '{exc.filename or root}': {exc.strerror}") from exc
    with held:
        yield


class Follower:
    """Makes a directory follow an object store.

    Attributes:
        followed: what is there now, by model. problems: why a model does not follow now, by model; "" is for the store.
        serves: whether the last look left everything there that serves; an earlier version may be missing.
    """

    def __init__(self, bucket: Bucket, target: Target, models: Sequence[str] = ()) -> None:
        """Prepare to follow these models, or all that are in the store; the caller holds the directory's lock."""
        self.followed: dict[str, Followed] = {}
        self.problems: dict[str, PipelineError] = {}
        self.serves = False
        self._bucket, self._target, self._models = bucket, target, tuple(models)
        self._applied: dict[str, tuple[str, Live]] = {}  # with the ETag that it had
        self._verified: set[tuple[str, str, str]] = set()

    def look(self) -> bool:
        """Look once at each model, and make the directory what the store says; return whether it is now."""
        try:
            names = self._models or tuple(filter(MODEL_NAME.fullmatch, self._bucket.directories()))
        except StoreError as exc:
            self.problems, self.serves = {**self.problems, "": exc}, False
            return False
        problems: dict[str, PipelineError] = {}
        behind: dict[str, PipelineError] = {}
        for name in dict.fromkeys((*names, *self.followed)):
            try:
                problem = self._follow(name)
                if problem is not None:
                    behind[name] = problem
            except PipelineError as exc:
                problems[name] = exc
            except OSError as exc:
                problems[name] = StoreError(f"'{exc.filename}' must be writable, got {exc.strerror}")
        self.problems, self.serves = {**problems, **behind}, not problems
        return not self.problems

    def _follow(self, name: str) -> PipelineError | None:
        """Make a directory what the store says, and return why a version is missing that serves nothing now."""
        where, model_dir = f"{self._bucket.address}/{name}/{LIVE}", self._target.root / name
        etag, applied = self._applied.get(name, ("", None))
        if applied is not None and not self._is_here(applied):
            log.warning("'%s' is not what this sync made of it any more, and is filled again", model_dir)
            etag = ""
        found = self._bucket.read(f"{name}/{LIVE}", etag)
        if found is None:
            if (model_dir / MARK).exists():
                raise StoreError(
                    f"'{where}' is gone; what is served stays. Restore it, or remove '{model_dir}' as well"
                )
            self.followed.pop(name, None)
            self._applied.pop(name, None)
            return None
        if found.content is None:
            return None
        live = read_live(found.content, name, where)
        problem = self._apply(live, where)
        if problem is None:
            self._applied[name] = (found.etag, live)
        champion = live.champion
        digest = live.versions[champion].digest if champion is not None else ""
        there = tuple(versions(model_dir))
        before, self.followed[name] = self.followed.get(name), Followed(live.generation, champion, digest, there)
        if before == self.followed[name]:
            return problem
        what = f"version {champion} serves (digest {digest[:12]})" if digest else "no version serves"
        log.info("%s: generation %d is here: %s", name, live.generation, what)
        return problem

    def _is_here(self, live: Live) -> bool:
        """Return whether the directory still has the versions and labels that it was given; no file is read."""
        model_dir, wanted = self._target.root / live.name, _wanted(live, self._target.keep)
        has_versions = versions(model_dir).keys() == wanted.keys()
        return has_versions and (model_dir / MARK).exists() and _has_labels(model_dir, live)

    def _apply(self, live: Live, where: str) -> PipelineError | None:
        model_dir = self._target.root / live.name
        self._begin(model_dir, live, where)
        wanted = _wanted(live, self._target.keep)
        self._remove_leftovers(model_dir, {stored.digest for stored in wanted.values()})
        serving = {live.champion, *live.labels.values()}
        problem: PipelineError | None = None
        for number, stored in sorted(wanted.items(), key=lambda item: (item[0] in serving, item[0]), reverse=True):
            try:
                self._bring(model_dir, number, stored)
            except PipelineError as exc:
                if number in serving:
                    raise
                problem = exc  # what only a later rollback needs must not keep a bad version in production
        if not _has_labels(model_dir, live):
            write_config(model_dir, _listed(model_dir, live), live.labels)
        self._mark(model_dir, live.generation)
        for number, path in versions(model_dir).items():
            if number not in wanted:
                log.info("removing '%s', which is not needed any more", path)
                remove(put_aside(path))
        return problem

    def _begin(self, model_dir: Path, live: Live, where: str) -> None:
        """Check that this directory belongs to this store, and that the store did not go back."""
        mark = model_dir / MARK
        try:
            before = json.loads(mark.read_text(encoding="utf-8"))
            address, generation = str(before["from"]), int(before["generation"])
        except FileNotFoundError:
            if versions(model_dir) or (model_dir / HISTORY).exists():
                raise StoreError(
                    f"'{model_dir}' must be empty at first, because a sync removes what the store does not name, but "
                    "it has versions of its own; choose another directory with --to"
                ) from None
            make_directories(model_dir, self._target.directory_mode)
            self._mark(model_dir, 0)
            return
        except (ValueError, KeyError, TypeError) as exc:
            raise StoreError(f"'{mark}' must say what was synced, but it is damaged; remove '{model_dir}'") from exc
        if address != self._bucket.address:
            raise StoreError(f"'{model_dir}' follows {address}, got --from {self._bucket.address}; use another --to")
        if live.generation < generation:
            raise StoreError(
                f"'{where}' went back from generation {generation} to {live.generation}; what is served stays. If the "
                f"store was restored from a copy, remove '{mark}' and the versions beside it"
            )

    def _mark(self, model_dir: Path, generation: int) -> None:
        plain = {"from": self._bucket.address, "generation": generation}
        write_atomically(model_dir / MARK, json.dumps(plain), self._target.file_mode)

    def _remove_leftovers(self, model_dir: Path, digests: set[str]) -> None:
        for path in [*model_dir.glob(f"{STAGING}*"), *model_dir.glob(f"{PRUNED}*")]:
            if path.name.removeprefix(STAGING) not in digests:
                remove(path)

    def _bring(self, model_dir: Path, number: int, stored: Stored) -> None:
        """Publish a version, unless it is there with every byte."""
        path, key = versions(model_dir).get(number), (model_dir.name, stored.directory, stored.digest)
        if path is not None:
            if key in self._verified or holds(path, stored.digest):
                self._verified.add(key)
                return
            if declared_digest(path) not in ("", stored.digest):
                raise VersionExists(
                    f"version {number} has other files in the store than in '{path}', but a server never loads a "
                    "number again; what is served stays. Promote a new version"
                )
            log.warning("'%s' is damaged, and is fetched again", path)
        staging = model_dir / f"{STAGING}{stored.digest}"
        try:
            self._fill(model_dir, stored, staging)
            set_modes(staging, self._target.directory_mode, self._target.file_mode)
            damaged = put_aside(path) if path is not None else None
            staging.rename(model_dir / stored.directory)
            fsync_path(model_dir)
        except (StoreUnreachable, StoreRefused, ManifestMismatch):
            raise  # the files that are complete are kept for the next try
        except (StoreError, OSError):  # such as a full disk, whose room is needed
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if damaged is not None:
            remove(damaged)
        self._verified.add(key)
        log.info("%s: version %d is there, with digest %s", model_dir.name, number, stored.digest[:12])

    def _fill(self, model_dir: Path, stored: Stored, staging: Path) -> None:
        """Fill a directory with a version, from another number with the same files if there is one."""
        for path in versions(model_dir).values():
            if not staging.exists() and declared_digest(path) == stored.digest and holds(path, stored.digest):
                link_tree(path, staging)
                verify_manifest(staging, stored.digest)
                return
        began = time.monotonic()
        staging.mkdir(exist_ok=True)
        fetch(self._bucket, model_dir.name, stored, staging)
        log.info("%s: fetched %s in %.1f s", model_dir.name, stored.directory, time.monotonic() - began)


def reasons(problems: dict[str, PipelineError]) -> str:
    """Return all problems in one line."""
    return redact("; ".join(f"{name}: {exc}" if name else str(exc) for name, exc in problems.items()))


def _wanted(live: Live, keep: int) -> dict[int, Stored]:
    """Return the versions that a server needs: the newest ones, or those that are listed or have a label."""
    if live.layout == "latest":
        return {number: live.versions[number] for number in sorted(live.versions)[-keep:]}
    return {number: live.versions[number] for number in {*live.listed, *live.labels.values()}}


def _listed(model_dir: Path, live: Live) -> list[int]:
    return sorted({*live.listed} & versions(model_dir).keys())


def _has_labels(model_dir: Path, live: Live) -> bool:
    """Return whether `models.config` says what it should, if this layout has one."""
    now = (labels_of(model_dir), listed_versions(model_dir)) if live.layout == "labels" else None
    return now is None or now == (live.labels, _listed(model_dir, live))
