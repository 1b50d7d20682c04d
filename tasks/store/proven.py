"""The whole proof of a version; this is the one place where all of its checks are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import ProofMismatch, StoreError
from tasks.proof.approval import APPROVAL_FILE, read_approval, unchecked_approval
from tasks.proof.chain import HEAD, HISTORY, chain_problems
from tasks.proof.directory import STATEMENT, evidence_file
from tasks.proof.keys import PublicKey
from tasks.proof.verify import Proof, verify
from tasks.store.history import SERVED, Entry, read, served_digest
from tasks.store.layout import version_number

DIGEST = re.compile("[0-9a-f]{64}")


def check_version(  # noqa: PLR0913
    version_dir: Path,
    publics: Sequence[PublicKey],
    *,
    statement: Path | None = None,
    allow_unsigned: bool = False,
    bytes_only: bool = False,
    approvers: Sequence[PublicKey] = (),
    head: str = "",
    model: str = "",
) -> Proof:
    """Check all that is kept about a version; the other arguments and errors are those of `tasks.proof.verify.verify`.

    The version must have the digest that the history names, so that no version can take the place of another one. The
    history beside it must be the chain that was signed, and say that the version went live with these bytes; a copy,
    whose statement is named, needs none.

    Args:
        approvers: public keys of reviewers, one of whom must have signed an approval; none accepts any approval.
        head: a digest that was noted elsewhere, which a line of the history must have.
        model: the model's name, which the statement must have; empty takes any.
    """
    if statement is None and version_number(version_dir.name) is not None and version_dir.is_symlink():
        raise ProofMismatch(  # else it would be checked as the version to which it leads
            f"'{version_dir}' must be the directory of a version, got a link to '{version_dir.resolve()}'"
        )
    place = version_dir.resolve()
    with_history = bool(head) or (statement is None and not bytes_only)
    number = version_number(place.name)
    digest = served_digest(_history(place.parent), number) if number is not None and statement is None else ""
    if digest and not DIGEST.fullmatch(digest):
        raise ProofMismatch(f"'{place.parent / HISTORY}' names no digest for version {number}, but '{digest[:80]}'")
    try:
        proof = verify(
            version_dir,
            publics,
            statement=statement,
            digest=digest,
            allow_unsigned=allow_unsigned,
            bytes_only=bytes_only,
        )
    except ProofMismatch:
        if digest and (place.parent / HEAD).exists():  # an edited history may have named the digest of other bytes
            _check_history(place.parent, publics, head, allow_unsigned=allow_unsigned)
        raise
    said = proof.statement
    if model not in ("", said.predicate.get("model")):
        raise ProofMismatch(
            f"'{version_dir}' must be a version of '{model}', got one of '{said.predicate.get('model')}'"
        )
    if with_history:
        signed = said.digest if proof.key_id and not allow_unsigned else ""
        its_model = str(said.predicate.get("model", ""))
        _check_history(place.parent, publics, head, its_model, signed, allow_unsigned=allow_unsigned)
        # After the chain, so that an edited line is named first.
        if not any(_went_live(entry, said.digest, number) for entry in _history(place.parent)):
            what = f"version {number}" if number is not None else f"'{place.name}'"
            raise ProofMismatch(
                f"'{place.parent / HISTORY}' does not say that {what} went live with the bytes {said.digest[:12]}; "
                "either its promotion is not complete, or it is a copy; name the statement of a copy with --statement"
            )
    if not bytes_only:
        _check_approval(proof, approvers)
    return proof


def _history(model_dir: Path) -> list[Entry]:
    """Return the lines of a history.

    Raises:
        ProofMismatch: it cannot be read.
    """
    try:
        return read(model_dir)
    except StoreError as exc:
        raise ProofMismatch(str(exc)) from exc


def _went_live(entry: Entry, digest: str, number: int | None) -> bool:
    """Return whether a line says that some bytes were served, as a version with this number if it has one."""
    return entry.state in SERVED and entry.digest == digest and number in (None, entry.version)


def _check_history(  # noqa: PLR0913
    model_dir: Path, publics: Sequence[PublicKey], head: str, model: str = "", digest: str = "", *,
    allow_unsigned: bool,
) -> None:  # fmt: skip
    """Refuse a history that is not the chain that was signed.

    Raises:
        ProofMismatch: it is not.
    """
    if allow_unsigned and not (model_dir / HEAD).exists():
        publics = ()
    problems = chain_problems(model_dir, publics, head, model=model, digest=digest, to_the_end=not allow_unsigned)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ProofMismatch(f"{problems[0]}{more}")


def _check_approval(proof: Proof, approvers: Sequence[PublicKey]) -> None:
    """Check the reviewer's own signature, which the signature of the statement covers as evidence.

    Raises:
        ProofMismatch: there is none and one is needed, or it is for something else.
    """
    said = proof.statement
    sha = said.evidence.get(APPROVAL_FILE, "")
    if not sha:
        if approvers:
            raise ProofMismatch(f"'{proof.directory / STATEMENT}' names no approval that a reviewer signed")
        return
    path = proof.directory / evidence_file(APPROVAL_FILE, sha)
    try:
        text = path.read_text(encoding="ascii")
        approval, _ = read_approval(text, approvers) if approvers else (unchecked_approval(text), "")
    except (OSError, ValueError, ProofMismatch) as exc:
        raise ProofMismatch(f"'{path}' is refused: {exc}") from exc
    if (approval.digest, approval.model) != (said.digest, said.predicate.get("model")):
        raise ProofMismatch(f"'{path}' is refused: it approves {approval.model} {approval.digest[:12]}")
