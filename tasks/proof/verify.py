"""Checks a version directory against its statement, with public keys and files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ManifestMismatch, ProofMismatch
from tasks.proof.directory import PROOFS, SIGNATURE, STATEMENT, evidence_file, proof_dir, unnamed
from tasks.proof.envelope import MOST, open_envelope, read_envelope
from tasks.proof.keys import PublicKey
from tasks.proof.model_signing import check_signature_file
from tasks.proof.statement import PAYLOAD_TYPE, Statement, read_statement
from tasks.savedmodel.files import open_plain, read_plain
from tasks.savedmodel.manifest import MANIFEST, Manifest, declared_digest, hash_files


@dataclass(frozen=True)
class Proof:
    """What was checked.

    Attributes:
        directory: of the statement and its evidence. statement_digest: SHA-256 of the statement's file.
        statement: what it says. key_id: of the key that signed it, or empty if it is unsigned.
    """

    directory: Path
    statement_digest: str
    statement: Statement
    key_id: str


def all_files(version_dir: Path, found: Manifest) -> dict[str, str]:
    """Return the SHA-256 of each file by its path: those that were found, and the file of the manifest.

    Raises:
        ProofMismatch: the manifest cannot be read.
    """
    files = {path: sha for path, _, sha in found.files}
    if (version_dir / MANIFEST).is_file():
        files[MANIFEST.as_posix()] = _sha256(version_dir / MANIFEST, "the manifest")
    return files


def verify(  # noqa: PLR0913  one for each option of the command
    version_dir: Path,
    publics: Sequence[PublicKey],
    *,
    statement: Path | None = None,
    digest: str = "",
    allow_unsigned: bool = False,
    bytes_only: bool = False,
) -> Proof:
    """Check every byte of a version, its statement, the statement's signature and the evidence.

    Args:
        publics: the keys that are trusted to sign promotions.
        statement: its file, with the evidence beside it; None finds it beside the versions.
        digest: that the version must have; empty takes the one under which its statement is found.
        allow_unsigned: accept a statement without a signature, which proves nothing about who wrote it.
        bytes_only: check the files, the statement and its signature only.

    Raises:
        ProofMismatch: something is not as it was signed; the message names the file.
    """
    if not version_dir.is_dir():
        got = "is none" if version_dir.exists() else "does not exist"
        raise ProofMismatch(f"'{version_dir}' must be a version directory, but it {got}")
    try:
        found = hash_files(version_dir)
    except ManifestMismatch as exc:
        raise ProofMismatch(str(exc)) from exc
    files = all_files(version_dir, found)
    # The manifest may be that of another version, so that its digest is looked for last.
    digests = [digest] if digest else [found.digest, declared_digest(version_dir)]
    path = statement or _statement_of(version_dir, *digests)
    data = _read(path, "the statement about the version", "; if it is elsewhere, name its file with --statement")
    try:
        if allow_unsigned and not read_envelope(data, PAYLOAD_TYPE).key_id:
            payload, signer = read_envelope(data, PAYLOAD_TYPE).payload, ""
        else:
            payload, signer = open_envelope(data, publics, PAYLOAD_TYPE)
        said = read_statement(payload)
    except ProofMismatch as exc:
        raise ProofMismatch(f"'{path}' is refused: {exc}") from exc
    _compare(version_dir, path, said, found, files)
    if not bytes_only:
        for name, sha in said.evidence.items():
            file = path.parent / evidence_file(name, sha)
            if _sha256(file, "evidence of the statement") != sha:
                raise ProofMismatch(f"'{file}' was changed: its SHA-256 is not the one in '{path}'")
        if signer:
            _check_signature(path, said, files, publics)
        _refuse_others(path, said, signed=bool(signer))
    return Proof(path.parent, hashlib.sha256(data).hexdigest(), said, signer)


def _statement_of(version_dir: Path, *digests: str) -> Path:
    """Return the statement under the first of some digests that has one, or where the first one should be."""
    model_dir = version_dir.resolve().parent
    places = [proof_dir(model_dir, digest) / STATEMENT for digest in digests if _is_digest(digest)]
    return next((place for place in places if place.exists()), places[0])


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _compare(version_dir: Path, path: Path, said: Statement, found: Manifest, files: dict[str, str]) -> None:
    """Refuse a version whose files are not exactly those of the statement."""
    for name in sorted(said.files.keys() | files.keys()):
        file = version_dir / name
        if name not in files:
            raise ProofMismatch(f"'{file}' is missing; '{path}' names it")
        if name not in said.files:
            raise ProofMismatch(f"'{file}' was added; '{path}' does not name it")
        if files[name] != said.files[name]:
            raise ProofMismatch(f"'{file}' was changed: its SHA-256 is not the one in '{path}'")
    if found.digest != said.digest:  # sizes, which no change of bytes can reach without the ones above
        raise ProofMismatch(f"'{path}' names digest {said.digest[:12]}, but its files have {found.digest[:12]}")


def _check_signature(path: Path, said: Statement, files: dict[str, str], publics: Sequence[PublicKey]) -> None:
    file = path.with_name(SIGNATURE)
    try:
        check_signature_file(_read(file, "the signature of the files"), str(said.predicate["model"]), files, publics)
    except KeyError:
        raise ProofMismatch(f"'{path}' is refused: it does not name the model") from None
    except ProofMismatch as exc:
        raise ProofMismatch(str(exc) if str(file) in str(exc) else f"'{file}' is refused: {exc}") from exc


def _refuse_others(path: Path, said: Statement, *, signed: bool) -> None:
    """Refuse a file beside a statement that it does not name; a copy may lie among other files."""
    if path.parent.parent.name != PROOFS:
        return
    try:
        others = unnamed(path.parent, said.evidence, signed=signed)
    except OSError as exc:
        raise ProofMismatch(f"'{path.parent}' must be readable, got {exc.strerror}") from exc
    if others:
        raise ProofMismatch(
            f"{str(others[0])!r} was added; '{path}' does not name it. Remove it, or let the doctor remove what a "
            "killed process left"
        )


def _read(path: Path, what: str, remedy: str = "") -> bytes:
    try:
        return read_plain(path, MOST)
    except OSError as exc:
        raise ProofMismatch(f"'{path}' must be {what}, but it cannot be read ({exc.strerror}){remedy}") from exc


def _sha256(path: Path, what: str) -> str:
    """Return the digest of a file, which may be larger than the memory."""
    try:
        with open_plain(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise ProofMismatch(f"'{path}' must be {what}, but it cannot be read ({exc.strerror})") from exc
