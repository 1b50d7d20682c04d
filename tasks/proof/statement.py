"""The statement about one promotion: an in-toto Statement v1 with a predicate of this project.

    _type           https://in-toto.io/Statement/v1
    subject         `.` with the digest of the version, and every file of it with its SHA-256
    predicateType   https://keras-rehearsal/promotion/v1
    predicate       how the version was made, what judged it, and who let it go live (docs/proof.md)

Source: in-toto's attestation framework, spec/v1/statement.md and spec/v1/envelope.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import ProofMismatch
from tasks.proof.envelope import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://keras-rehearsal/promotion/v1"
WHOLE = "."
"""The name of the subject that stands for the version as a whole; its SHA-256 is the digest of the manifest."""


@dataclass(frozen=True)
class Statement:
    """What a statement says.

    Attributes:
        digest: of the version, in hexadecimal. files: the SHA-256 of each file, by its path with slashes.
        evidence: the SHA-256 of each file of evidence, by its name.
        predicate: all that is said about the version, evidence included.
    """

    digest: str
    files: Mapping[str, str]
    evidence: Mapping[str, str]
    predicate: Mapping[str, Any]

    def payload(self) -> bytes:
        """Return the canonical JSON, which is signed."""
        named = [(WHOLE, self.digest), *sorted(self.files.items())]
        evidence = [{"digest": {"sha256": sha}, "name": name} for name, sha in sorted(self.evidence.items())]
        return canonical(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"digest": {"sha256": sha}, "name": name} for name, sha in named],
                "predicateType": PREDICATE_TYPE,
                "predicate": {**self.predicate, "evidence": evidence},
            }
        )


def read_statement(payload: bytes) -> Statement:
    """Return what a payload says.

    Raises:
        ProofMismatch: it is not a statement about a promotion.
    """
    try:
        found = json.loads(payload)
        subjects = {one["name"]: one["digest"]["sha256"] for one in found["subject"]}
        predicate = dict(found["predicate"])
        evidence = {one["name"]: one["digest"]["sha256"] for one in predicate.pop("evidence")}
        statement = Statement(subjects.pop(WHOLE), subjects, evidence, predicate)
        sums = [statement.digest, *subjects.values(), *evidence.values()]
        good = statement.payload() == payload and all(map(_is_name, evidence)) and all(map(_is_sha256, sums))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ProofMismatch(f"it is not an in-toto statement of the type {PREDICATE_TYPE}")
    return statement


def _is_sha256(text: object) -> bool:
    """Return whether it is a SHA-256 in hexadecimal, which may also be a part of a file's name."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


def _is_name(name: object) -> bool:
    """Return whether a name is that of a file in the directory of the statement, and of no other one."""
    return isinstance(name, str) and name.isprintable() and "/" not in name and name not in ("", ".", "..")
