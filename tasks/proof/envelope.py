"""A signed file: the DSSE v1 envelope, https://github.com/secure-systems-lab/dsse (protocol.md and envelope.md).

    {"payload": base64, "payloadType": text, "signatures": [{"keyid": text, "sig": base64}]}

Any reader of DSSE can read such a file. This reader is stricter than DSSE, which ignores unknown fields and leaves the
encoding free: a file must be the one canonical encoding of what it says, so that no byte of it can be changed without
being seen. JSON has sorted keys, no spaces and no final newline. Base64 is padded and has no free bits. A signature is
DER with the lower of the two values s that verify.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tasks.errors import ProofMismatch
from tasks.proof.keys import PrivateKey, PublicKey, key_id

MOST = 2**26  # bytes of a signed file, which is read as a whole
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order n of the group of P-256; with (r, s) also (r, n - s) verifies. Source: FIPS 186-4, D.1.2.3."""


@dataclass(frozen=True)
class Envelope:
    """What an envelope says, before its signature is checked; `key_id` and `signature` are empty if it is unsigned."""

    payload: bytes
    payload_type: str
    key_id: str = ""
    signature: bytes = b""


def canonical(value: Any) -> bytes:
    """Return the one JSON encoding of a value: ASCII, sorted keys, no spaces, no newline at the end.

    Raises:
        ValueError: it holds a number that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def pae(payload: bytes, payload_type: str) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: PrivateKey | None) -> bytes:
    """Return the file with a payload and its signature; without a key, its list of signatures is empty.

    Args:
        payload: canonical JSON. payload_type: the media type that says what it means.

    Raises:
        ValueError: the payload is not canonical JSON, so that `open_envelope` would refuse it.
    """
    if not _is_canonical(payload):
        raise ValueError("the payload of an envelope must be canonical JSON; write it with `canonical`")
    signatures = []
    if key is not None:
        # RFC 6979: the same payload has the same signature, so that an interrupted change can be repeated.
        raw = key.sign(pae(payload, payload_type), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        signatures = [{"keyid": key_id(key.public_key()), "sig": _base64(_with_low_s(raw))}]
    return canonical({"payload": _base64(payload), "payloadType": payload_type, "signatures": signatures})


def open_envelope(data: bytes, publics: Iterable[PublicKey], payload_type: str) -> tuple[bytes, str]:
    """Return the payload of a signed file and the id of the key that signed it.

    Args:
        publics: the trusted keys. payload_type: the only type that is accepted.

    Raises:
        ProofMismatch: one of them did not sign exactly this file, or the file is not canonical.
    """
    found = read_envelope(data, payload_type)
    if not found.key_id:
        raise ProofMismatch("it is not signed")
    trusted = {key_id(public): public for public in publics}
    if found.key_id not in trusted:
        given = ", ".join(sorted(one[:12] for one in trusted)) or "none is given"
        raise ProofMismatch(f"it must be signed by a trusted key ({given}), got key {found.key_id[:12]}")
    try:
        trusted[found.key_id].verify(found.signature, pae(found.payload, payload_type), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise ProofMismatch(f"its signature is not that of key {found.key_id[:12]}") from None
    return found.payload, found.key_id


def read_envelope(data: bytes, payload_type: str) -> Envelope:
    """Return what an envelope says; its signature is not checked.

    Raises:
        ProofMismatch: it is not the canonical encoding of an envelope of this type with at most one signature.
    """
    try:
        fields = json.loads(data.decode("ascii"))
        payload, kind, signatures = fields["payload"], fields["payloadType"], fields["signatures"]
        envelope = Envelope(base64.b64decode(payload, validate=True), kind)
        if signatures:
            (only,) = signatures
            raw = base64.b64decode(only["sig"], validate=True)
            envelope = Envelope(envelope.payload, kind, only["keyid"], raw)
        good = all(isinstance(text, str) for text in (kind, envelope.key_id))
        good = good and data == _encoded(envelope) and _is_canonical(envelope.payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ProofMismatch("it is not a canonical DSSE envelope with at most one signature")
    if kind != payload_type:
        raise ProofMismatch(f"it must have the payload type {payload_type}, got {kind[:80]!r}")
    return envelope


def _encoded(envelope: Envelope) -> bytes:
    """Return the only file that says this."""
    signatures = []
    if envelope.key_id or envelope.signature:
        low = _with_low_s(envelope.signature)
        signatures = [{"keyid": envelope.key_id, "sig": _base64(low)}]
    fields = {"payload": _base64(envelope.payload), "payloadType": envelope.payload_type, "signatures": signatures}
    return canonical(fields)


def _is_canonical(payload: bytes) -> bool:
    try:
        return canonical(json.loads(payload.decode("ascii"))) == payload
    except (ValueError, RecursionError):
        return False


def _with_low_s(signature: bytes) -> bytes:
    """Return the canonical form of an ECDSA signature: DER, with the lower s.

    Raises:
        ValueError: it is not DER.
    """
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, ORDER - s))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
