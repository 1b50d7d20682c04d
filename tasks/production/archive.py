"""Candidates that wait for a person, in an object store: archived after their judgement, brought for their approval."""

from __future__ import annotations

from collections.abc import Callable

from configs.schema import Config
from tasks.errors import ManifestMismatch
from tasks.objects.archive import fetch_candidate, forget_old, is_here, send_candidate
from tasks.objects.mirror import Mirror
from tasks.objects.store import mirror_of, refresh
from tasks.objects.transfer import is_listed
from tasks.production.turn import in_turn
from tasks.store.leftovers import digests_in_use
from tasks.store.rehearsals import record_of
from tasks.store.transaction import Production


def archive(config: Config, version: int, digest: str) -> None:
    """Upload a judged candidate, so that a person can decide about it on any machine; a directory needs nothing.

    Raises:
        StoreError: the store cannot be written, or the files are not those that were judged.
    """
    mirror = mirror_of(config)
    if mirror is None:
        return
    kept = send_candidate(mirror, config, version, digest)

    def name_it(mirror: Mirror) -> None:
        # After the refresh, because a doctor that removed the upload has written live.json since then, or before.
        if not is_listed(mirror.bucket, config.name, kept.stored):
            raise ManifestMismatch(f"candidate {version} was removed from the store while it was archived")
        mirror.show(archived=[kept])

    _in_turn(config, name_it)


def share_history(config: Config) -> None:
    """Let other machines know what was decided about candidates here; a directory is seen by all already.

    Raises:
        StoreError: the store cannot be written.
    """
    _in_turn(config, lambda _mirror: None)


def bring(config: Config, version: int, digest: str) -> bool:
    """Return whether this machine can decide about a candidate, after fetching it from the archive if it is elsewhere.

    Raises:
        StoreError: the store cannot be read, or its files are not those that were judged.
    """
    mirror = mirror_of(config)
    if mirror is None:
        return True
    refresh(config)  # also the history, in which another machine may have rejected it
    if is_here(config, version, digest):
        return True
    live = mirror.base().live
    for kept in live.candidates if live else ():
        if (kept.version, kept.digest) == (version, digest):
            fetch_candidate(mirror, config, kept)
            return True
    return record_of(config.candidates_dir, digest, version).exists()  # what is wrong with it here is said elsewhere


def _in_turn(config: Config, step: Callable[[Mirror], None]) -> None:
    """Take a step with the mirror as it is live now, again if another machine was faster; then `promote.keep` holds."""
    mirror = mirror_of(config)
    if mirror is None:
        return

    def change(_found: Production) -> None:
        step(mirror)
        forget_old(config, digests_in_use(config) if config.promote.keep else ())

    in_turn(config, change, whatever_is_live=True)
