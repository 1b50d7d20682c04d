"""Keys that sign and verify: ECDSA on the curve P-256, in PEM.

P-256 with SHA-256 is the one algorithm here, so that no file can choose a weaker one. OpenSSF's model-signing takes
keys of this kind as well.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from configs.errors import ConfigError
from configs.redaction import remember
from tasks.program import command_name

if TYPE_CHECKING:
    from configs.sections.promote import Promote

VARIABLE = "REHEARSAL_SIGNING_KEY"
FIELD = "promote.signing_key"
PRIVATE, PUBLIC = "PRIVATE KEY", "PUBLIC KEY"
LONGEST = 16384  # bytes; a PEM file of such a key has about 240
HOW_TO_MAKE = f"{command_name('flows.keys')} new --out FILE makes a pair"

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def signing_key(promote: Promote, *, signs: bool = True) -> PrivateKey | None:
    """Return the key that signs promotions, or None if none is configured.

    Args:
        signs: whether a promotion will need it, where `promote.require_proof` demands a proof.

    Raises:
        ConfigError: it cannot be used, or is needed and missing, or is not among `promote.trusted_keys`.
    """
    key = load_private(promote.signing_key)
    if not promote.require_proof:
        return key
    if key is None:
        if not signs:
            return None
        raise ConfigError(
            f"promote.require_proof needs a key that signs the promotion, but there is none; set {FIELD} or the "
            f"environment variable {VARIABLE}. {HOW_TO_MAKE}"
        )
    if key_id(key.public_key()) not in {key_id(public) for public in trusted_keys(promote)}:
        raise ConfigError(
            f"promote.trusted_keys must contain the public key of the signing key, {key_id(key.public_key())[:12]}, "
            "but it does not, so that its promotions would be refused; add the file that ends in .pub"
        )
    return key


def trusted_keys(promote: Promote) -> list[PublicKey]:
    """Return the public keys that are trusted to sign promotions.

    Raises:
        ConfigError: one cannot be used.
    """
    return [load_public(path) for path in promote.trusted_keys]


def load_private(path: Path | None = None, field: str = FIELD) -> PrivateKey | None:
    """Return the key that signs: of a file, else of the environment variable, else None.

    Args:
        path: the file (`promote.signing_key`). Without one, `REHEARSAL_SIGNING_KEY` holds the PEM text or a path.

    Raises:
        ConfigError: the key cannot be used. The message never repeats the value of the variable, which may be a key.
    """
    value = os.environ.get(VARIABLE, "")
    if path is not None:
        return _private(_read(path, f"{field} must be a readable file"), f"{field} ('{path}')")
    if not value.strip():
        return None
    if "-----BEGIN" in value:
        return _private(value.encode(), f"the environment variable {VARIABLE}")
    rule = f"the environment variable {VARIABLE} must be a private key in PEM, or the path of a readable file with one"
    path = Path(value.strip())  # secrets often end in a line break
    return _private(_read(path, rule, shown=False), f"the file that the environment variable {VARIABLE} names")


def load_public(source: Path | str) -> PublicKey:
    """Return a public key, given as a file or as its PEM text.

    Raises:
        ConfigError: it cannot be used.
    """
    if isinstance(source, str) and "-----BEGIN" in source:
        data, where = source.encode(), "a public key"
    else:
        data, where = _read(Path(source), "a public key must be in a readable file"), f"the public key '{source}'"
    if PRIVATE.encode() in data:
        remember(data.decode("utf-8", "replace"))
        raise ConfigError(f"{where} must hold a public key, got a private one; name the file that ends in .pub instead")
    _check_one(data, PUBLIC, where)
    try:
        found = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{where} must be a public key in PEM, got something else; {HOW_TO_MAKE}") from exc
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP256R1):
        raise ConfigError(f"{where} must be an ECDSA key on the curve P-256, got {_kind(found)}; {HOW_TO_MAKE}")
    return found


def new(path: Path) -> PublicKey:
    """Write a new private key (PKCS #8, mode 0600) and, beside it with the suffix `.pub`, its public key.

    Raises:
        ConfigError: the path names no private key; a file exists, which is never overwritten, or cannot be written.
    """
    if "-----BEGIN" in str(path):
        raise ConfigError("the new key must be given the name of a file, got the text of a key; give a new name")
    if not path.name:
        raise ConfigError(f"the new key must be given the name of a file, got '{path}'; add one, such as signer.pem")
    if path.suffix == ".pub":
        raise ConfigError(f"the private key must not end in .pub, as public keys do, got '{path}'; leave .pub out")
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    written: list[Path] = []
    try:
        for file, data, mode in ((path, text, 0o600), (public_path(path), pem(key.public_key()), 0o644)):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            written.append(file)
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(descriptor, mode)  # whatever the umask is
                stream.write(data)
                stream.flush()
                os.fsync(descriptor)
    except BaseException as exc:
        for file in written:
            with contextlib.suppress(OSError):
                file.unlink()
        if isinstance(exc, FileExistsError):
            raise ConfigError(
                f"a key is never overwritten, but '{exc.filename}' exists; choose another file, or move it away"
            ) from exc
        if isinstance(exc, OSError):
            raise ConfigError(f"the key must be writable, got '{exc.filename or path}': {exc.strerror}") from exc
        raise
    return key.public_key()


def public_path(path: Path) -> Path:
    """Return the file of the public key that belongs to a private one."""
    return path.with_name(f"{path.name}.pub")


def pem(public: PublicKey) -> bytes:
    """Return a public key as PEM text."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(public: PublicKey) -> str:
    """Return the name of a key: the SHA-256 of its DER SubjectPublicKeyInfo, in hexadecimal."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _read(path: Path, rule: str, *, shown: bool = True) -> bytes:
    """Return the start of a file, which may be a link, as in the mounted secrets of Kubernetes."""
    got = f"'{path}'" if shown else "the name of a file"
    if "-----BEGIN" in str(path):
        raise ConfigError(f"{rule}, got the text of a key; write it into a file, and name that")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not be waited for
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return stream.read(LONGEST)
    except OSError as exc:
        raise ConfigError(f"{rule}, got {got}: {exc.strerror}; {HOW_TO_MAKE}") from (exc if shown else None)
    except ValueError:  # a null byte
        raise ConfigError(f"{rule}, got a name that no file can have; {HOW_TO_MAKE}") from None


def _check_one(data: bytes, label: str, where: str) -> None:
    """Refuse a file of several keys, of which only the first one would be read.

    Raises:
        ConfigError: there is more than one.
    """
    count = len(re.findall(f"-----BEGIN [A-Z ]*{label}-----".encode(), data))
    if count > 1:
        raise ConfigError(f"{where} must hold one key, got {count}; put each key into a file of its own")


def _private(data: bytes, where: str) -> PrivateKey:
    if PRIVATE.encode() in data:
        remember(data.decode("utf-8", "replace"))
    elif PUBLIC.encode() in data:
        raise ConfigError(f"{where} must hold a private key, got a public one; name the file without .pub instead")
    _check_one(data, PRIVATE, where)
    try:
        found = serialization.load_pem_private_key(data, password=None)
    except TypeError as exc:
        raise ConfigError(
            f"{where} must be a private key without a passphrase, got an encrypted one; "
            "decrypt it with 'openssl pkcs8 -in FILE -out PLAIN', and keep that file where only this job can read it"
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{where} must be a private key in PEM, got something else; {HOW_TO_MAKE}") from exc
    if not isinstance(found, ec.EllipticCurvePrivateKey) or not isinstance(found.curve, ec.SECP256R1):
        raise ConfigError(f"{where} must be an ECDSA key on the curve P-256, got {_kind(found)}; {HOW_TO_MAKE}")
    return found


def _kind(key: object) -> str:
    """Return what a key is, in words."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return f"one on the curve {key.curve.name}"
    return f"a key of the kind {type(key).__name__.removesuffix('PrivateKey').removesuffix('PublicKey').lstrip('_')}"
