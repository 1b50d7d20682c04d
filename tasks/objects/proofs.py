"""The proofs of live versions in an object store: uploaded and fetched as versions are, each a directory of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.errors import ManifestMismatch, StoreError
from tasks.objects.bucket import Bucket
from tasks.objects.live import Proved, new_name, upload_path
from tasks.objects.transfer import fetch, send
from tasks.proof.directory import SIGNATURE, STATEMENT, Kept, proof_dir, write_proof
from tasks.savedmodel.files import link_or_copy
from tasks.savedmodel.manifest import write_manifest
from tasks.store.layout import STAGING


def upload_proof(bucket: Bucket, model_dir: Path, digest: str, kept: Kept) -> Proved:
    """Upload the proof of some bytes, and read it back; nothing names it yet.

    Raises:
        StoreError: a file cannot be read, or the store cannot be written.
    """
    staging = model_dir / f"{STAGING}{new_name()}"
    try:
        staging.mkdir()
        for path in proof_dir(model_dir, digest).iterdir():
            if path.is_file() and not path.name.startswith("."):
                link_or_copy(path, staging / path.name)
        archive = write_manifest(staging).digest
        proved = Proved(kept.statement, archive, upload_path(archive, "proofs"))
        send(bucket, model_dir.name, proved.stored, staging)
    except OSError as exc:
        raise StoreError(f"the proof of digest {digest[:12]} must be readable, got {exc.strerror}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return proved


def fetch_proof(bucket: Bucket, model_dir: Path, digest: str, proved: Proved, mode: int) -> None:
    """Put the proof of some bytes beside them, in the place of another statement about them.

    Raises:
        ManifestMismatch: the store has other files. StoreError: it cannot be written.
    """
    staging = model_dir / f"{STAGING}{new_name()}"
    try:
        fetch(bucket, model_dir.name, proved.stored, staging)
        found = {path.name: path for path in staging.iterdir() if path.is_file()}
        if STATEMENT not in found:
            raise ManifestMismatch(f"the proof of digest {digest[:12]} in the store has no {STATEMENT}")
        statement, signature = found.pop(STATEMENT).read_bytes(), found.pop(SIGNATURE, None)
        signed = signature.read_bytes() if signature else None
        write_proof(proof_dir(model_dir, digest), statement, dict(found), signed, mode)
    except OSError as exc:
        raise StoreError(f"'{model_dir}' must be writable, got {exc.strerror}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)
