"""The object store of a configuration, if `models_root` is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache

from configs.errors import ConfigError
from configs.schema import Config
from tasks.errors import StoreRefused
from tasks.objects.base import Base
from tasks.objects.bucket import Bucket
from tasks.objects.mirror import Mirror
from tasks.proof.signing import signer_of
from tasks.store.lock import model_lock


@cache
def _bucket(address: str) -> Bucket:
    return Bucket(address)


def mirror_of(config: Config) -> Mirror | None:
    """Return the mirror of the configured model, or None if `models_root` is a directory.

    Raises:
        ConfigError: the extra is not installed.
    """
    if not config.object_store:
        return None
    promote = config.promote
    modes = int(promote.directory_mode, 8), int(promote.file_mode, 8)
    return Mirror(_bucket(config.object_store), config.live_dir, promote.layout, *modes, signer_of(config))


def claim_of(config: Config) -> Callable[[int], bool]:
    """Return what claims a number in the store, or finds each one free if `models_root` is a directory."""
    mirror = mirror_of(config)
    return mirror.claim if mirror is not None else lambda _number: True


def refresh(config: Config) -> None:
    """Make the mirror what the store says is live, before a champion is looked up; a directory needs nothing.

    Raises:
        LockTimeout: another process changes this mirror. StoreError: the store cannot be read.
    """
    mirror = mirror_of(config)
    if mirror is not None:
        with model_lock(mirror.model_dir, config.promote.lock_timeout_s), nothing_changed_yet():
            mirror.refresh()


def catch_up(config: Config) -> None:
    """Make the mirror what is live before a change, after waiting for another machine's; the caller holds the lock.

    Raises:
        ConfigError: the store does not accept this client. StoreError: the store cannot be read.
    """
    mirror, promote = mirror_of(config), config.promote
    if mirror is not None:
        with nothing_changed_yet():
            mirror.refresh(promote.lock_timeout_s + (promote.live_timeout_s if promote.live_addresses else 0))


@contextlib.contextmanager
def nothing_changed_yet() -> Iterator[None]:
    """Make it an error of the configuration if the store refuses this client before anything was changed."""
    try:
        yield
    except StoreRefused as exc:
        raise ConfigError(f"models_root: {exc}") from exc


def look_at_store(config: Config) -> None:
    """Check before a run that the store can be written as a promotion needs it; a directory needs nothing.

    Raises:
        ConfigError: it does not accept this client, does not keep conditional writes, or has another layout.
        StoreError: what is live cannot be read. StoreUnreachable: no answer.
    """
    mirror = mirror_of(config)
    if mirror is not None:
        with nothing_changed_yet():
            mirror.bucket.prove()
            mirror.check_layout(mirror.look(Base())[0])
