"""The signed approval of a candidate: an in-toto Statement v1 in a DSSE envelope, signed with the reviewer's own key.

    subject         the model's name and the digest of the candidate's bytes
    predicateType   https://keras-rehearsal/approval/v1
    predicate       candidate (its number), run (MLflow's id), verdict, by (the name that the reviewer gave), time

It names bytes, model, candidate and run, so that it holds for nothing else. The form is canonical, as that of every
signed file here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import ProofMismatch
from tasks.proof.envelope import canonical, open_envelope, read_envelope, sign
from tasks.proof.keys import PrivateKey, PublicKey
from tasks.proof.statement import PAYLOAD_TYPE, STATEMENT_TYPE

PREDICATE_TYPE = "https://keras-rehearsal/approval/v1"
VERDICT = "approved"
APPROVAL_FILE = "approval.dsse.json"  # its name among the evidence of a statement


@dataclass(frozen=True)
class Approval:
    """What a reviewer signed.

    Attributes:
        model: its name. digest: of the candidate's files, in hexadecimal. candidate: its number.
        run: MLflow's id of the run that judged it. by: the reviewer's name. time: ISO 8601, UTC.
    """

    model: str
    digest: str
    candidate: int
    run: str
    by: str
    time: str

    def payload(self) -> bytes:
        """Return the canonical JSON, which is signed."""
        predicate = {
            "candidate": self.candidate, "run": self.run, "verdict": VERDICT, "by": self.by, "time": self.time,
        }  # fmt: skip
        return canonical(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"digest": {"sha256": self.digest}, "name": self.model}],
                "predicateType": PREDICATE_TYPE,
                "predicate": predicate,
            }
        )


def sign_approval(approval: Approval, key: PrivateKey) -> str:
    """Return the file of an approval, which is text in ASCII."""
    return sign(approval.payload(), PAYLOAD_TYPE, key).decode("ascii")


def read_approval(text: str, publics: Sequence[PublicKey]) -> tuple[Approval, str]:
    """Return what a reviewer signed, and the id of the key.

    Args:
        publics: the keys of the reviewers.

    Raises:
        ProofMismatch: none of them signed exactly this text, or it is not an approval.
    """
    payload, signer = open_envelope(text.encode("utf-8", "surrogatepass"), publics, PAYLOAD_TYPE)
    return _read(payload), signer


def unchecked_approval(text: str) -> Approval:
    """Return what an approval says, without checking who signed it.

    Raises:
        ProofMismatch: it is not an approval.
    """
    return _read(read_envelope(text.encode("utf-8", "surrogatepass"), PAYLOAD_TYPE).payload)


def _read(payload: bytes) -> Approval:
    try:
        found = json.loads(payload)
        (subject,), said = found["subject"], found["predicate"]
        names = (said["candidate"], said["run"], said["by"], said["time"])
        approval = Approval(subject["name"], subject["digest"]["sha256"], *names)
        good = approval.payload() == payload
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise ProofMismatch(f"it is not an approval, an in-toto statement of the type {PREDICATE_TYPE}")
    return approval


def approval_digest(text: str) -> str:
    """Return the SHA-256 of the file of an approval, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
