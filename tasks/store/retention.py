"""Removes old versions (promote.keep), but never one that is still needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from configs.sections.promote import Layout
from tasks.proof.chain import Signer
from tasks.proof.directory import PROOFS
from tasks.savedmodel.manifest import declared_digest
from tasks.store.champion import champion_version, predecessor
from tasks.store.history import SERVED, Entry, append, read, served_digest, state_of
from tasks.store.layout import versions
from tasks.store.publish import WITHDRAWN, put_aside, remove
from tasks.store.serving_config import labels_of, listed_versions

C = TypeVar("C")
WAITING = ("awaiting review", "approved")
UNDER_WAY, LONGEST_RUN = ("exported", "validated"), timedelta(days=1)


def prune(  # noqa: PLR0913, PLR0917
    model_dir: Path, candidates_dir: Path, layout: Layout, keep: int, in_use: Collection[str] = (),
    signer: Signer | None = None,
) -> list[Path]:  # fmt: skip
    """Remove all but the `keep` newest live versions and candidates, and return the removed paths.

    These are never removed: the champion, the version that a rollback goes back to, versions that have a label or are
    listed for production, candidates that wait for a person or are still being judged, the last candidate with the
    bytes of a needed version, versions that this project did not promote, and the last live version, because an empty
    base path would unload the model. The caller must hold the lock.

    Args:
        in_use: digests of candidates that must stay because their runs may be going on.
        signer: who signs the head of the history, or None.
    """
    if not keep:
        return []
    entries, needed = read(model_dir), _needed(model_dir, layout)
    removed = []
    for version, version_dir in _old(model_dir, keep):
        if version not in needed and served_digest(entries, version) and len(versions(model_dir)) > 1:
            doomed = put_aside(version_dir)
            note_pruned(model_dir, version, f"promote.keep is {keep}", signer)  # else the doctor notes it
            remove(doomed)
            removed.append(version_dir)
    removed += prune_candidates(model_dir, candidates_dir, layout, keep, in_use)
    for withdrawn in sorted(model_dir.glob(f"{WITHDRAWN}*"), key=_withdrawn_number)[:-keep]:
        remove(withdrawn)
        removed.append(withdrawn)
    return [*removed, *_prune_proofs(model_dir, candidates_dir)]


def _prune_proofs(model_dir: Path, candidates_dir: Path) -> list[Path]:
    """Remove the proofs of bytes that are gone: no version, withdrawn version or candidate has them any more."""
    entries, live = read(model_dir), versions(model_dir)
    there = [*live.values(), *model_dir.glob(f"{WITHDRAWN}*"), *versions(candidates_dir).values()]
    kept = {*map(declared_digest, there), *(served_digest(entries, version) for version in live)}
    proofs = sorted((model_dir / PROOFS).iterdir()) if (model_dir / PROOFS).is_dir() else []
    old = [path for path in proofs if path.name not in kept]
    for path in old:
        remove(path)
    return old


def prune_candidates(
    model_dir: Path, candidates_dir: Path, layout: Layout, keep: int, in_use: Collection[str] = ()
) -> list[Path]:
    """Remove old candidates as `prune` does, and nothing that is live.

    A candidate that is not in the history stays: another production may need it, or this history may be elsewhere, such
    as on a disk that is not mounted. One without a verdict, such as most of a sweep, is none of the `keep` newest.
    """
    old = old_candidates(model_dir, _own_candidates(read(model_dir), candidates_dir), layout, keep, in_use)
    for version_dir in old:
        remove(put_aside(version_dir))
    return old


def old_candidates(
    model_dir: Path, own: Mapping[C, tuple[int, set[str]]], layout: Layout, keep: int, in_use: Collection[str] = ()
) -> list[C]:
    """Return those of some candidates that nobody needs, by the rule of `prune_candidates`.

    Args:
        own: the number of each, and the digests that the number had in the history; in ascending order.
    """
    entries, needed = read(model_dir), _needed(model_dir, layout)
    kept = {served_digest(entries, version) for version in needed} - {""}
    judged = [version for version, _ in own.values() if state_of(entries, version) != "exported"]
    # Of candidates with the same bytes one is enough, or each night's run would add one.
    last = {digest: version for version, known in own.values() if version in judged for digest in known}
    newest = judged[-keep] if keep and len(judged) >= keep else 0
    return [
        candidate for candidate, (version, known) in own.items()
        if version < newest and version not in needed and not known & {*in_use}
        and not any(last[digest] == version for digest in known & kept)
        and not any(_in_use(entries, version, digest) for digest in known)
    ]  # fmt: skip


def _own_candidates(entries: list[Entry], candidates_dir: Path) -> dict[Path, tuple[int, set[str]]]:
    """Return the candidates that are in the history, each with the digests that its number had there."""
    found = {}
    for version, version_dir in versions(candidates_dir).items():
        known, declared = {entry.digest for entry in entries if entry.version == version}, declared_digest(version_dir)
        if known and (declared in known or not declared):  # a damaged manifest declares nothing
            found[version_dir] = (version, known)
    return found


def _needed(model_dir: Path, layout: Layout) -> set[int]:
    """Return the versions that production serves or a rollback goes back to."""
    champion = champion_version(model_dir, layout)
    needed = {champion, predecessor(model_dir, champion), *labels_of(model_dir).values(), *listed_versions(model_dir)}
    return {version for version in needed if version is not None}


def note_pruned(model_dir: Path, version: int, reason: str, signer: Signer | None = None) -> None:
    """Add the removal to the history, unless it is there already."""
    entries = read(model_dir)
    if state_of(entries, version) != "pruned":
        append(model_dir, version, "pruned", served_digest(entries, version), signer, reason=reason)


def _in_use(entries: list[Entry], version: int, digest: str) -> bool:
    """Return whether a person may still decide about a candidate, or a run may still be judging it.

    The number alone does not identify a candidate, because another work_dir may have used it for other files.
    """
    own = [entry for entry in entries if (entry.version, entry.digest) == (version, digest)][-1]
    later = entries[entries.index(own) :]
    if own.state in WAITING:  # an approved one may have gone live under a higher number
        return not any(entry.digest == digest and entry.state in SERVED for entry in later)
    return own.state in UNDER_WAY and datetime.now(UTC) - datetime.fromisoformat(own.time) < LONGEST_RUN


def _old(directory: Path, keep: int) -> list[tuple[int, Path]]:
    return list(versions(directory).items())[:-keep] if keep else []


def _withdrawn_number(path: Path) -> int:
    return int(path.name.removeprefix(WITHDRAWN).partition("-")[0])
