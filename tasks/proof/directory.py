"""Where the proof of a version is: beside the versions, under the digest of their files, and never inside them.

    <models_root>/<name>/.proofs/<digest>/
      statement.dsse.json       the statement and its signature; written last
      <12 digits>-<name>        a file of evidence, under the first digits of its SHA-256
      model.sig                 the signature of the files alone, in the format of model-signing; only with a key

Model servers ignore names that are not numbers. Versions with the same bytes share the directory, so that a rollback
serves bytes that have a proof already.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ProofMismatch, StoreError
from tasks.proof.envelope import MOST, read_envelope
from tasks.proof.statement import PAYLOAD_TYPE, read_statement
from tasks.savedmodel.files import fsync_path, link_or_copy, make_directories, read_plain, replace_file

PROOFS = ".proofs"
STATEMENT = "statement.dsse.json"
SIGNATURE = "model.sig"
EVIDENCE = re.compile("[0-9a-f]{12}-")
PARTIAL = ".partial-"  # of files that are being written; a killed process leaves them to the next one


@dataclass(frozen=True)
class Kept:
    """The statement that is kept about some bytes.

    Attributes:
        statement: SHA-256 of its file, in hexadecimal. key_id: of the key that it names, or empty if it is unsigned.
    """

    statement: str
    key_id: str

    def __str__(self) -> str:
        """Return the short form that people read."""
        by = f"signed by key {self.key_id[:12]}" if self.key_id else "unsigned"
        return f"statement {self.statement[:12]}, {by}"


def proof_dir(model_dir: Path, digest: str) -> Path:
    """Return the directory of the proof of the bytes with this digest; it may not exist."""
    return model_dir / PROOFS / digest


def evidence_file(name: str, sha256: str) -> str:
    """Return the name on the disk of a file of evidence."""
    return f"{sha256[:12]}-{name}"


def unnamed(directory: Path, evidence: Mapping[str, str], *, signed: bool) -> list[Path]:
    """Return what is in the directory of a proof and belongs to no proof, by name.

    What a killed process was writing is left out: it is never read, and the next change removes it.

    Args:
        evidence: the SHA-256 of each file that the statement names, by its name. signed: whether the statement is.

    Raises:
        OSError: the directory cannot be read.
    """
    known = {STATEMENT, *(evidence_file(name, sha) for name, sha in evidence.items())}
    known |= {SIGNATURE} if signed else set()
    return sorted(p for p in directory.iterdir() if p.name not in known and not p.name.startswith(PARTIAL))


def left_behind(directory: Path) -> list[Path]:
    """Return what a killed process left in the directory of a proof: partial files, and evidence of another statement.

    It is empty unless the statement and all of its evidence are there: else files may have been exchanged, and a person
    needs what is there. A file with another name was not written here.
    """
    try:
        found = read_envelope(read_plain(directory / STATEMENT, MOST), PAYLOAD_TYPE)
        evidence = read_statement(found.payload).evidence
        others = unnamed(directory, evidence, signed=True)
        is_whole = all((directory / evidence_file(name, sha)).is_file() for name, sha in evidence.items())
    except (OSError, ProofMismatch):
        return []
    old = [path for path in others if EVIDENCE.match(path.name) and path.is_file()]
    return [*old, *sorted(directory.glob(f"{PARTIAL}*"))] if is_whole else []


def kept_statement(model_dir: Path, digest: str) -> Kept | None:
    """Return which statement is kept about some bytes, without checking its signature; None if there is none."""
    try:
        data = read_plain(proof_dir(model_dir, digest) / STATEMENT, MOST)
        found = read_envelope(data, PAYLOAD_TYPE)
    except (OSError, ProofMismatch):
        return None
    return Kept(hashlib.sha256(data).hexdigest(), found.key_id)


def write_proof(
    directory: Path, statement: bytes, evidence: Mapping[str, Path | bytes], signature: bytes | None, mode: int
) -> None:
    """Write a proof and flush it to the disk; the statement replaces an earlier one last, as a whole.

    Args:
        evidence: by the name on the disk: a file, which is linked where that is possible, or its bytes.
        signature: the file in the format of model-signing, or None. mode: of the files.

    Raises:
        StoreError: it cannot be written. What is there is either the earlier proof or the new one.
    """
    try:
        make_directories(directory)
        for left in directory.glob(f"{PARTIAL}*"):
            left.unlink()
        for name, content in evidence.items():
            if isinstance(content, bytes):
                _replace(directory / name, content, mode)
            else:
                partial = directory / f"{PARTIAL}{uuid.uuid4().hex}"
                link_or_copy(content, partial)
                with contextlib.suppress(PermissionError):  # another user's file stays as it is
                    partial.chmod(mode)  # a link shares it with the file of the run, as live versions do
                partial.replace(directory / name)  # what is there may be damaged
                partial.unlink(missing_ok=True)  # rename(2) leaves both names if they are links to one file
        if signature is not None:
            _replace(directory / SIGNATURE, signature, mode)
        fsync_path(directory)
        _replace(directory / STATEMENT, statement, mode)
        for path in (directory, directory.parent, directory.parent.parent):
            fsync_path(path)
        if signature is None:
            (directory / SIGNATURE).unlink(missing_ok=True)
        for path in directory.iterdir():
            if path.name not in {*evidence, SIGNATURE, STATEMENT}:
                path.unlink()  # evidence of an earlier statement about the same bytes
    except OSError as exc:
        raise StoreError(f"'{directory}' must be writable, got '{exc.filename or directory}': {exc.strerror}") from exc


def _replace(path: Path, data: bytes, mode: int) -> None:
    replace_file(path, data, path.with_name(f"{PARTIAL}{uuid.uuid4().hex}"), mode)
