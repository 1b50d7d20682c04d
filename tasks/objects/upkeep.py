"""What the doctor does with an object store: finds what is behind, damaged, or left by a process that was killed.

The caller of each function must hold the lock of the mirror's directory.
"""

from __future__ import annotations

from tasks.errors import ManifestMismatch
from tasks.objects.base import Base
from tasks.objects.bucket import Listed
from tasks.objects.live import upload_of
from tasks.objects.mirror import Mirror
from tasks.objects.transfer import check
from tasks.proof.directory import kept_statement
from tasks.savedmodel.manifest import holds
from tasks.store.layout import versions
from tasks.store.repair import Finding

OLD_S = 24 * 3600.0  # an upload that nothing names may still be going on until then


def sweep(mirror: Mirror, *, only_look: bool = False, older_s: float = OLD_S) -> list[Finding]:
    """Remove uploads that nothing names and that are older than a day, as a process leaves them that was killed.

    live.json is written again before anything is removed. A process that began with an older one, and is still
    uploading, can then no longer name what is removed here.
    """
    base = mirror.base()
    live = mirror.look(Base())[0] if only_look else base.live
    if live is None:
        return []
    named = {stored.path for stored in live.versions.values()} | {kept.path for kept in live.candidates}
    named |= {proved.path for proved in live.proofs.values()}
    named |= {live.history.path} if live.history else set()
    groups: dict[str, list[Listed]] = {}
    for kind in ("versions/", "candidates/", "proofs/", "history/"):
        for found in mirror.bucket.objects(mirror.key(kind)):
            upload = upload_of(found.key.removeprefix(mirror.key("")))
            if upload and upload not in named:
                groups.setdefault(mirror.key(upload), []).append(found)
    for found in mirror.bucket.objects(".probe-"):
        groups.setdefault(found.key, []).append(found)
    old = {name: of_it for name, of_it in groups.items() if all(one.age_s >= older_s for one in of_it)}
    if old and not only_look:
        mirror.write(base, mirror.next_live(base, live))
        mirror.bucket.remove(one.key for of_it in old.values() for one in of_it)
    return [Finding("removed", f"'{mirror.bucket.address}/{name}', which nothing names") for name in sorted(old)]


def behind(mirror: Mirror) -> list[Finding]:
    """Return how the directory differs from the store, without changing either."""
    base = mirror.base()
    live, etag, _ = mirror.look(base)
    if live is None:
        return [Finding("reported", f"'{mirror.where}' is gone; restore it")] if base.live else []
    if etag != base.etag:
        return [Finding("finished", f"generation {live.generation} would be fetched from '{mirror.where}'")]
    return []


def damaged(mirror: Mirror, *, only_look: bool = False) -> list[Finding]:
    """Read every version and proof in the store; upload again what is not as its digest says, if it is still here."""
    live = mirror.look(Base())[0] if only_look else mirror.base().live
    again, found = set(), []
    for number, stored in live.versions.items() if live else ():
        try:
            check(mirror.bucket, mirror.model_dir.name, stored)
        except ManifestMismatch as exc:
            path = versions(mirror.model_dir).get(number)
            words = f"version {number} is damaged in the store: {exc}"
            if path is not None and holds(path, stored.digest):
                again.add(stored.digest)
                found.append(Finding("finished", f"{words}; it {'would be' if only_look else 'is'} uploaded again"))
            else:
                found.append(Finding("reported", f"{words}; servers keep what they have. Promote another version"))
    for kept in live.candidates if live else ():
        try:
            check(mirror.bucket, mirror.model_dir.name, kept.stored)
        except ManifestMismatch as exc:
            words = (
                f"candidate {kept.version} is damaged in the store: {exc}; decide about it with the work_dir of its run"
            )
            found.append(Finding("reported", words))
    for digest, proved in live.proofs.items() if live else ():
        try:
            check(mirror.bucket, mirror.model_dir.name, proved.stored)
        except ManifestMismatch as exc:
            here, words = kept_statement(mirror.model_dir, digest), f"the proof of digest {digest[:12]} is damaged"
            if here is not None and here.statement == proved.statement:
                again.add(digest)
                does = "would be" if only_look else "is"
                found.append(Finding("finished", f"{words} in the store: {exc}; it {does} uploaded again"))
            else:
                found.append(Finding("reported", f"{words} in the store: {exc}; promote the version again"))
    if again and not only_look:
        mirror.show(again)
    return found
