"""The changes that a promotion, `--to stable` and a rollback make: in production, and before it in a rehearsal."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import StoreError
from tasks.records import Candidate, Champion, Change
from tasks.savedmodel.manifest import holds
from tasks.store.champion import champion_version
from tasks.store.history import process_user, read, served_digest
from tasks.store.layout import versions
from tasks.store.rollback_target import bytes_of, rollback_target
from tasks.store.serving_config import labels_of
from tasks.store.transaction import CANARY, STABLE, Production


def publishing(
    found: Production, candidate: Candidate, champion: Champion | None, number: int, directory: str
) -> Change:
    """Return the change that makes a candidate live, or the canary if a version is stable.

    Args:
        number, directory: the live version, and its name on the disk.
    """
    labels = labels_of(found.model_dir) if found.layout == "labels" else {}
    return Change(
        "publish", number, directory, candidate.digest, str(candidate.version_dir.resolve()),
        previous=champion.version if champion else None,
        previous_digest=champion.digest if champion else "",
        label="" if found.layout == "latest" else CANARY if STABLE in labels else STABLE,
    )  # fmt: skip


def making_stable(found: Production, actor: str) -> Change:
    """Return the change that makes the canary the stable version.

    Raises:
        StoreError: there is no canary, or its files are gone.
    """
    name = found.model_dir.name
    if found.layout != "labels":
        raise StoreError(f"--to stable moves a label, but promote.layout of '{name}' is {found.layout}")
    labels = labels_of(found.model_dir)
    version, stable = labels.get(CANARY), labels.get(STABLE)
    if version is None or version == stable:
        beside = f" besides version {stable}, which is stable" if stable else ""
        raise StoreError(f"--to stable makes the canary stable, but '{name}' has no canary{beside}")
    digest, source = bytes_of(found.model_dir, version)
    return Change(
        "label", version, source.name, digest, previous=stable,
        previous_digest=served_digest(read(found.model_dir), stable) if stable else "", label=STABLE,
        actor=actor or process_user(),
    )  # fmt: skip


def going_back(found: Production, candidates_dir: Path, to: int | None, actor: str) -> Change:
    """Return the change that makes the previous version, or version `to`, live again.

    In the `latest` layout it has no number yet: `version` is the one whose bytes are published under the next number.

    Raises:
        StoreError: there is no version to go back to, or its files are gone.
    """
    name, labelled = found.model_dir.name, found.layout == "labels"
    champion = champion_version(found.model_dir, found.layout)  # not its files, which may be damaged
    if champion is None:
        raise StoreError(f"a rollback needs a live version, but '{found.model_dir}' has none; promote one first")
    target = rollback_target(found.model_dir, champion) if to is None else to
    if target == champion:
        raise StoreError(f"--to must be another version, because version {champion} of '{name}' is live")
    digest, source = bytes_of(found.model_dir, target, None if labelled else candidates_dir)
    live = versions(found.model_dir).get(champion)
    if live is not None and holds(live, digest):  # else damaged files are replaced
        raise StoreError(
            f"--to must be a version with other bytes, because version {champion} of '{name}', which is live, has "
            f"those of version {target}"
        )
    return Change(
        "label" if labelled else "publish", target, source.name if labelled else str(target), digest,
        str(source.resolve()), previous=champion, previous_digest=served_digest(read(found.model_dir), champion),
        rolls_back=champion, label=STABLE if labelled else "", actor=actor or process_user(),
        reason=f"rollback from version {champion} to the bytes of version {target}",
    )  # fmt: skip
