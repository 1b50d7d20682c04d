"""The whole proof of a version; this is the one place where all of its checks are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.proof.keys import PublicKey
from tasks.proof.verify import Proof, verify
from tasks.store.history import read, served_digest
from tasks.store.layout import version_number


def check_version(
    version_dir: Path,
    publics: Sequence[PublicKey],
    *,
    statement: Path | None = None,
    allow_unsigned: bool = False,
    bytes_only: bool = False,
) -> Proof:
    """Check all that is kept about a version; arguments and errors are those of `tasks.proof.verify.verify`.

    The version must have the digest that the history names, so that no version can take the place of another one.
    """
    place = version_dir.resolve()
    number = version_number(place.name)
    digest = served_digest(read(place.parent), number) if number is not None and statement is None else ""
    return verify(
        version_dir,
        publics,
        statement=statement,
        digest=digest,
        allow_unsigned=allow_unsigned,
        bytes_only=bytes_only,
    )
