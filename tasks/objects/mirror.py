"""The mirror of one model in an object store: a directory that the store's own protocol changes, and what joins both.

    refresh   make the directory what live.json says            before a change, and before a champion is looked up
    show      upload what is new, then replace live.json         after each step of a change that servers must see

All rules of a change (tasks/store) hold in the directory: its lock, journal, history and repair. live.json is only ever
replaced if it is still what the last refresh read, so a mirror that is not up to date cannot change production. The
change under way is part of live.json; if its process dies, another machine ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import ConfigError
from configs.sections.promote import Layout
from tasks.errors import ManifestMismatch, StoreConflict, StoreError
from tasks.objects.base import Base, note_base, read_base
from tasks.objects.bucket import Bucket
from tasks.objects.live import LIVE, Archived, Kept, Live, Proved, Stored, new_name, read_live, upload_of, upload_path
from tasks.objects.proofs import fetch_proof, upload_proof
from tasks.objects.transfer import fetch, send
from tasks.proof.chain import Signer
from tasks.proof.directory import kept_statement
from tasks.records import Change
from tasks.savedmodel.files import fsync_path, set_modes
from tasks.savedmodel.manifest import declared_digest, holds
from tasks.store.champion import predecessor
from tasks.store.experiment import forget, put, running
from tasks.store.history import Entry, process_user, read, served_digest, snapshot, state_of, take
from tasks.store.journal import begin, commit, pending
from tasks.store.layout import STAGING, version_number, versions
from tasks.store.publish import PRUNED, WITHDRAWN, put_aside, remove
from tasks.store.serving_config import labels_of, listed_versions, write_config
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)

POLL_S = 0.5
BEFORE_PRODUCTION = ("exported", "validated", "awaiting review", "approved", "unchanged", "rejected")


@dataclass(frozen=True)
class Mirror:
    """One model's directory and its place in the store; the caller of each method must hold the directory's lock.

    Attributes:
        model_dir: the directory. directory_mode, file_mode: modes of what is fetched into it.
        signer: who signs the head of the history, or None.
    """

    bucket: Bucket
    model_dir: Path
    layout: Layout
    directory_mode: int = 0o755
    file_mode: int = 0o644
    signer: Signer | None = None

    @property
    def where(self) -> str:
        """Return the address of live.json."""
        return f"{self.bucket.address}/{self.key(LIVE)}"

    @property
    def _all_of_it(self) -> str:
        return f"'{self.bucket.address}/{self.model_dir.name}/'"

    def refresh(self, wait_s: float | None = None) -> None:
        """Make the directory what live.json says, except for what an unfinished change of this directory did.

        Args:
            wait_s: wait for a change that another machine is making; if it does nothing for so many seconds, go on with
                it here. None does not wait, and leaves the change to others.

        Raises:
            ConfigError: the layout is another one than in the store. StoreError, StoreRefused, StoreUnreachable: the
                store cannot be read, or the directory not be written.
        """
        base = self.base()
        live, etag, is_left = self.look(base, wait_s)
        if live is None:
            if base.live is not None:
                raise StoreError(
                    f"'{self.where}' must exist, because generation {base.live.generation} was there, but it is gone; "
                    f"restore it. To begin without what was live, remove '{self.model_dir}' and {self._all_of_it}"
                )
            if not base.intent:
                self._check_never_live()
            return
        self.check_layout(live)
        if etag == base.etag:
            if pending(self.model_dir) is None and not (base.own and live.change):
                self._heal(live)
        elif live.write == base.intent:  # this directory wrote it, and its process ended before it noted that
            self._note(Base(etag, live, own=True))
        else:
            if base.live is not None and live.generation < base.live.generation:
                log.warning("'%s' went back to generation %d: the store was restored", self.where, live.generation)
            self._adopt(live)
            self._note(Base(etag, live))
        if is_left and live.change is not None and pending(self.model_dir) is None:
            log.warning("the %s of version %d was left by %s", live.change.operation, live.change.version, live.writer)
            begin(self.model_dir, live.change)

    def check_layout(self, live: Live | None) -> None:
        """Raise an error if this machine would change the layout of what is live, and so remove its labels.

        Raises:
            ConfigError: its layout is another one.
        """
        if live is not None and live.versions and live.layout != self.layout:
            raise ConfigError(
                f"promote.layout must be {live.layout} as in '{self.where}', on which servers and clients rely, got "
                f"{self.layout}; to change it, promote with another name or models_root"
            )

    def claim(self, number: int) -> bool:
        """Claim a number for this machine, and return whether no other had claimed it."""
        try:
            self.bucket.write(self.key(f"numbers/{number}"), new_name().encode(), "")
        except StoreConflict:
            return False
        return True

    def show(
        self, again: Collection[str] = (), *, archived: Collection[Archived] = (), forgotten: Collection[Archived] = ()
    ) -> None:
        """Make what the directory says visible in the store; nothing is written if it is there already.

        Args:
            again: digests whose files are uploaded once more, because they were damaged.
            archived: candidates to name, which were uploaded before. forgotten: those to name no more.

        Raises:
            StoreConflict: another machine has changed live.json since the last refresh; nothing was changed there.
            ManifestMismatch: what the store gives back is not what was written. StoreUnreachable: it does not answer.
        """
        base = self.base()
        uploaded: list[str] = []
        try:
            live = self._now(base, uploaded, again, _candidates(base, archived, forgotten))
        except Exception:
            self._discard(uploaded)
            raise
        if live is None or live.says_the_same(base.live):
            return
        try:
            self.write(base, live)
        except StoreConflict:  # after any other error, the store may yet get the request
            self._discard(uploaded)
            raise

    def look(self, base: Base, wait_s: float | None = None) -> tuple[Live | None, str, bool]:
        """Return what is live with its ETag, and whether its change was left by a process that does nothing more."""
        seen, since = "", time.monotonic()
        with contextlib.ExitStack() as waiting:
            while True:
                with contextlib.nullcontext() if seen else waiting_for(f"an answer of {self.bucket.address}"):
                    found = self.bucket.read(self.key(LIVE))
                if found is None or found.content is None:
                    return None, "", False
                live = read_live(found.content, self.model_dir.name, self.where)
                own = live.write == base.intent or (base.own and found.etag == base.etag)
                if live.change is None or own or wait_s is None:
                    return live, found.etag, False
                if not seen:
                    waiting.enter_context(waiting_for(f"another machine's change of '{self.model_dir.name}' to end"))
                if found.etag != seen:
                    seen, since = found.etag, time.monotonic()
                if time.monotonic() - since >= wait_s:
                    return live, found.etag, True
                time.sleep(POLL_S)

    def _check_never_live(self) -> None:
        """Raise an error if the store has more than the one first change leaves that ended before it wrote live.json.

        Else a new machine would publish a version that was not compared with those that are live, and candidates that
        wait for a person would be named by nothing.
        """
        histories, uploads = self._uploads("history/"), self._uploads("versions/") | self._uploads("candidates/")
        if histories and len(histories) + len(uploads) > 2 and self.bucket.read(self.key(LIVE)) is None:
            raise StoreError(
                f"'{self.where}' must exist, because the store has versions or candidates and their history, but it is "
                f"gone; restore it. To begin without what was live, remove {self._all_of_it}"
            )

    def _uploads(self, kind: str) -> set[str]:
        objects = self.bucket.objects(self.key(kind))
        return {upload_of(found.key.removeprefix(self.key(""))) for found in objects} - {""}

    def _adopt(self, live: Live) -> None:
        """Make the directory what live.json says; what an unfinished change did here is undone."""
        self._fetch_missing(live)
        for number, path in versions(self.model_dir).items():
            if number not in live.versions:
                remove(put_aside(path))
        self._set_labels(live)
        self._take_history(live)
        commit(self.model_dir)

    def _heal(self, live: Live) -> None:
        """Put back what was lost or damaged in the directory, and remove what does not belong there."""
        entries = read(self.model_dir)
        being_removed = (path.name.removeprefix(PRUNED) for path in self.model_dir.glob(f"{PRUNED}*"))
        gone = {version_number(name.rpartition("-")[0]) for name in being_removed}
        gone |= {number for number in live.versions if state_of(entries, number) == "pruned"}
        gone -= versions(self.model_dir).keys()
        for number, path in versions(self.model_dir).items():
            if number not in live.versions:
                log.warning("'%s' is not in the store, and is removed from its mirror", path)
                remove(put_aside(path))
        self._fetch_missing(live, leave=gone)
        self._set_labels(live)

    def _fetch_missing(self, live: Live, leave: Collection[int | None] = ()) -> None:
        here = versions(self.model_dir)
        needed = {live.champion, predecessor(self.model_dir, live.champion), *live.labels.values()}
        for number, stored in sorted(live.versions.items(), reverse=True):
            if number in leave:
                continue
            path = here.get(number)
            if path is not None and (
                holds(path, stored.digest) if number in needed else declared_digest(path) == stored.digest
            ):
                continue
            if path is not None:
                log.warning("'%s' is not what the store has, and is fetched again", path)
                remove(put_aside(path))
            with waiting_for(f"version {number} from {self.bucket.address}"):
                self._fetch(stored)
        self._fetch_proofs(live)

    def _fetch(self, stored: Stored) -> None:
        staging = self.model_dir / f"{STAGING}{new_name()}"
        try:
            fetch(self.bucket, self.model_dir.name, stored, staging)
            set_modes(staging, self.directory_mode, self.file_mode)
            staging.rename(self.model_dir / stored.directory)
            fsync_path(self.model_dir)
        except OSError as exc:
            raise StoreError(f"'{self.model_dir}' must be writable, got {exc.strerror}") from exc
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _set_labels(self, live: Live) -> None:
        now = (labels_of(self.model_dir), listed_versions(self.model_dir))
        if live.layout == "labels" and now != (dict(live.labels), sorted(live.listed)):
            write_config(self.model_dir, live.listed, live.labels)
        if running(self.model_dir) != live.experiment:
            put(self.model_dir, live.experiment) if live.experiment else forget(self.model_dir)

    def _take_history(self, live: Live) -> None:
        """Replace the history by the store's, and keep what happened here before production."""
        take(self.model_dir, self._history(live), live.head.encode(), BEFORE_PRODUCTION, self.signer)

    def _history(self, live: Live) -> bytes:
        kept = live.history
        if kept is None:
            return b""
        found = self.bucket.read(self.key(kept.path))
        content = (found and found.content) or b""
        if (len(content), hashlib.sha256(content).hexdigest()) != (kept.size, kept.sha256):
            raise StoreError(
                f"'{self.bucket.address}/{self.key(kept.path)}' must be the history that '{self.where}' names, but "
                "it is missing or changed; restore it"
            )
        return content

    def _now(
        self, base: Base, uploaded: list[str], again: Collection[str], candidates: tuple[Archived, ...]
    ) -> Live | None:
        """Return what the directory says, after uploading what the store does not have; None if there is nothing."""
        change, entries = pending(self.model_dir), read(self.model_dir)
        here = versions(self.model_dir)
        if base.live is None and not here and not candidates:
            return None
        known = dict(base.live.versions) if base.live else {}
        by_digest = {stored.digest: stored.path for stored in known.values() if stored.digest not in again}
        found: dict[int, Stored] = {}
        for number, path in here.items():
            own = change.digest if change is not None and change.version == number else served_digest(entries, number)
            digest = own or declared_digest(path)
            if number in known and known[number].digest != digest:
                raise StoreError(f"version {number} of '{self.where}' has other files; a number never gets new ones")
            if digest not in by_digest:
                stored = Stored(path.name, digest, upload_path(digest))
                uploaded.append(stored.path)
                log.info("uploading version %d to %s, and reading it back", number, self.bucket.address)
                with waiting_for(f"version {number} to be uploaded to {self.bucket.address}"):
                    send(self.bucket, self.model_dir.name, stored, path)
                by_digest[digest] = stored.path
            found[number] = Stored(path.name, digest, by_digest[digest])
        self._check_lost(known.keys() - found.keys(), base, change, entries)
        proofs = self._proofs(base, uploaded, {stored.digest for stored in found.values()}, again)
        labels = {label: n for label, n in labels_of(self.model_dir).items() if n in found}
        listed = tuple(n for n in listed_versions(self.model_dir) if n in found)
        if self.layout == "latest":
            labels, listed = {}, ()
        history, head = snapshot(self.model_dir)
        return self.next_live(
            base,
            Live(
                self.model_dir.name, 0, "", self.layout, found, self._kept(base, uploaded, history), listed, labels,
                change, candidates=candidates, experiment=running(self.model_dir), proofs=proofs,
                head=head.decode("ascii", "replace"),
            ),
        )  # fmt: skip

    def _proofs(
        self, base: Base, uploaded: list[str], digests: Collection[str], again: Collection[str]
    ) -> dict[str, Proved]:
        """Return the proofs of versions, after uploading those that the store does not have."""
        before = base.live.proofs if base.live else {}
        found = {digest: before[digest] for digest in digests if digest in before}
        for digest in digests:
            kept = kept_statement(self.model_dir, digest)
            known = before.get(digest) if digest not in again else None
            if kept is not None and (known is None or known.statement != kept.statement):
                found[digest] = upload_proof(self.bucket, self.model_dir, digest, kept)
                uploaded.append(found[digest].path)
        return dict(sorted(found.items()))

    def _fetch_proofs(self, live: Live) -> None:
        """Make the proofs beside the versions those that the store names."""
        for digest, proved in live.proofs.items():
            kept = kept_statement(self.model_dir, digest)
            if kept is not None and kept.statement == proved.statement:
                continue
            try:
                fetch_proof(self.bucket, self.model_dir, digest, proved, self.file_mode)
            except ManifestMismatch as exc:  # it must hold up no rollback; promote.require_proof refuses its version
                log.warning("the proof of digest %s is damaged in the store: %s", digest[:12], exc)

    def _check_lost(self, lost: Collection[int], base: Base, change: Change | None, entries: list[Entry]) -> None:
        """Raise an error if a version is missing here that no change took out of production."""
        begun = base.live.change if base.live else None
        changed = {found.version for found in (change, begun) if found is not None}
        for number in lost:
            withdrawn = any(self.model_dir.glob(f"{WITHDRAWN}{number}-*"))
            if number not in changed and not withdrawn and state_of(entries, number) not in ("pruned", "rolled back"):
                raise StoreError(f"version {number} must be in '{self.model_dir}', but it is gone; run it again")

    def _kept(self, base: Base, uploaded: list[str], content: bytes) -> Kept | None:
        sha, before = hashlib.sha256(content).hexdigest(), base.live.history if base.live else None
        if not content or (before and before.sha256 == sha):
            return before
        kept = Kept(f"history/{new_name()}.jsonl", len(content), sha)
        uploaded.append(kept.path)
        self.bucket.create(self.key(kept.path), content)
        return kept

    def next_live(self, base: Base, live: Live) -> Live:
        """Return what is to be written after what the mirror was made from."""
        generation = base.live.generation + 1 if base.live else 1
        writer = f"{process_user()}, process {os.getpid()} on {socket.gethostname()}"
        return replace(live, generation=generation, write=new_name(), writer=writer)

    def write(self, base: Base, live: Live) -> None:
        """Replace live.json, if it is still what the mirror was made from.

        Raises:
            StoreConflict: it is not.
        """
        self._note(replace(base, intent=live.write))
        etag = self.bucket.write(self.key(LIVE), live.text(), base.etag)
        self._note(Base(etag, live, own=True))

    def _discard(self, uploaded: list[str]) -> None:
        """Remove what was uploaded for a live.json that was not written; what cannot be removed is swept later."""
        with contextlib.suppress(StoreError):
            for path in uploaded:
                self.bucket.remove(one.key for one in self.bucket.objects(self.key(path)))

    def key(self, path: str) -> str:
        """Return the key of a path below the model."""
        return f"{self.model_dir.name}/{path}"

    def base(self) -> Base:
        """Return what the directory was made from."""
        return read_base(self.model_dir)

    def _note(self, base: Base) -> None:
        note_base(self.model_dir, base)


def _candidates(base: Base, archived: Collection[Archived], forgotten: Collection[Archived]) -> tuple[Archived, ...]:
    """Return the candidates of live.json with and without some; one that is archived again replaces itself."""
    again = {(kept.version, kept.digest) for kept in archived}
    before = base.live.candidates if base.live else ()
    stay = [kept for kept in before if kept not in forgotten and (kept.version, kept.digest) not in again]
    return tuple(sorted((*stay, *archived), key=lambda kept: (kept.version, kept.digest)))
