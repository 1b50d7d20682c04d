"""The files of a version in the format of OpenSSF's model-signing, so that its own command verifies them as well.

    model_signing verify key models/digits/7 --signature model.sig --public_key signer.pem.pub

The format is a Sigstore bundle v0.3 with a DSSE envelope, in which an in-toto statement lists the files. Source: the
package model-signing 1.1.1 (signing.py, _signing/sign_ec_key.py). Nothing of that package is needed to write it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from tasks.errors import ProofMismatch
from tasks.proof.envelope import canonical, open_envelope, sign
from tasks.proof.keys import PrivateKey, PublicKey, key_id, pem
from tasks.proof.statement import PAYLOAD_TYPE, STATEMENT_TYPE

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


def signature_file(model: str, files: Mapping[str, str], key: PrivateKey) -> bytes:
    """Return the bytes of a signature file.

    Args:
        model: the model's name. files: the SHA-256 of every file of the version, by its path with slashes.
    """
    envelope = json.loads(sign(_payload(model, files), PAYLOAD_TYPE, key))
    return canonical(_bundle(envelope, key.public_key()))


def check_signature_file(data: bytes, model: str, files: Mapping[str, str], publics: Iterable[PublicKey]) -> str:
    """Return the id of the key that signed exactly these files.

    Raises:
        ProofMismatch: the signature file is not what `signature_file` writes with one of the keys.
    """
    known = {key_id(public): public for public in publics}
    try:
        envelope = json.loads(data)["dsseEnvelope"]
        payload, signer = open_envelope(canonical(envelope), known.values(), PAYLOAD_TYPE)
        good = payload == _payload(model, files) and data == canonical(_bundle(envelope, known[signer]))
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise ProofMismatch("it is not the signature of these files in the format of model-signing")
    return signer


def _bundle(envelope: Mapping[str, object], public: PublicKey) -> dict[str, object]:
    hint = hashlib.sha256(pem(public)).hexdigest()
    material = {"publicKey": {"hint": hint}, "tlogEntries": []}
    return {"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}


def _payload(model: str, files: Mapping[str, str]) -> bytes:
    """Return the statement of model-signing: the digest of all digests, and each file with its own."""
    names = sorted(files, key=PurePosixPath)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in names)).hexdigest()
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": model, "digest": {"sha256": root}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
                "resources": [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in names],
            },
        }
    )
