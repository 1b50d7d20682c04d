"""Who signs and who may approve, by the configuration."""

from __future__ import annotations

from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from tasks.proof.chain import Signer
from tasks.proof.keys import PrivateKey, PublicKey, key_id, load_private, load_public, trusted_keys


def signer_of(config: Config) -> Signer | None:
    """Return who signs the head of the history, or None if no key is configured, or this machine does not have it.

    Raises:
        ConfigError: the key cannot be used.
    """
    promote = config.promote
    if promote.signing_key is not None and not promote.signing_key.exists():
        return None
    key = load_private(promote.signing_key)
    return None if key is None else Signer(key, tuple(trusted_keys(promote)))


def head_keys(config: Config) -> tuple[PublicKey, ...]:
    """Return the keys that may have signed the head of the history; a machine that only looks has public keys alone.

    Raises:
        ConfigError: a key cannot be used.
    """
    signer = signer_of(config)
    return signer.publics if signer is not None else tuple(trusted_keys(config.promote))


def reviewer_key(config: Config, verdict: str, file: str) -> PrivateKey | None:
    """Return the key with which a reviewer signs a verdict, or None if it needs no signature.

    A rejection needs none, because it is always safe to refuse.

    Args:
        verdict: `approved`, `rejected`, or empty for none. file: of the reviewer's private key, or empty.

    Raises:
        ConfigError: a key is missing, is not wanted, cannot be used, or is not one of `promote.approvers`.
    """
    publics = approvers_of(config)
    if file and verdict != "approved":
        raise ConfigError("--key signs an approval; a rejection and other decisions need no signature: leave it out")
    if file and not publics:
        raise ConfigError(
            "--key signs an approval, but promote.approvers lists no public key with which anyone could check it; add "
            "the file that ends in .pub, or leave --key out"
        )
    if not file:
        if publics and verdict == "approved":
            raise ConfigError(
                "--approve needs --key FILE, your private key, because promote.approvers lists public keys, so that a "
                "tag alone approves nothing"
            )
        return None
    key = load_private(Path(file), "--key")
    if key is None or key_id(key.public_key()) not in map(key_id, publics):
        known = ", ".join(key_id(public)[:8] for public in publics)
        got = key_id(key.public_key())[:8] if key is not None else "none"
        raise ConfigError(f"--key must be the private key of one of promote.approvers ({known}), got key {got}")
    return key


def approvers_of(config: Config) -> tuple[PublicKey, ...]:
    """Return the public keys of the reviewers; none means that a tag is enough.

    Raises:
        ConfigError: one cannot be used.
    """
    found = []
    for index, source in enumerate(config.promote.approvers):
        try:
            found.append(load_public(source))
        except ConfigError as exc:
            raise ConfigError(f"promote.approvers.{index}: {exc}") from exc
    return tuple(found)
