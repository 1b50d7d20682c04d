"""Keys, and the envelope of which no byte is free."""

from __future__ import annotations

import base64
import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.redaction import redact
from configs.sections.promote import Promote
from flows import keys as keys_command
from tasks.errors import ProofMismatch
from tasks.proof import keys
from tasks.proof.envelope import ORDER, canonical, open_envelope, pae, read_envelope, sign

KIND = "application/vnd.test+json"


@pytest.fixture
def key(tmp_path: Path) -> keys.PrivateKey:
    keys.new(tmp_path / "signer.pem")
    found = keys.load_private(tmp_path / "signer.pem")
    assert found is not None
    return found


def private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, password: str) -> str:
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


# --- keys ---------------------------------------------------------------------------------------------------------


def test_new_writes_a_private_key_for_its_owner_only_and_its_public_key_beside_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        public = keys.new(tmp_path / "ann.pem")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "ann.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ann.pem.pub").stat().st_mode) == 0o644
    private = keys.load_private(tmp_path / "ann.pem")
    assert private is not None
    ids = {keys.key_id(one) for one in (public, private.public_key(), keys.load_public(tmp_path / "ann.pem.pub"))}
    assert len(ids) == 1 and len(ids.pop()) == 64


@pytest.mark.parametrize("taken", ["ann.pem", "ann.pem.pub"])
def test_new_overwrites_no_file_and_leaves_no_half_of_a_pair(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    with pytest.raises(ConfigError, match=f"never overwritten, but '.*{taken}' exists"):
        keys.new(tmp_path / "ann.pem")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {taken: "precious"}


@pytest.mark.parametrize("name", ["", ".", "/", "KEY"])
def test_new_needs_a_name_and_does_not_repeat_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A key without a slash, on one line, could become the name of a file."""
    monkeypatch.chdir(tmp_path)
    text = "-----BEGIN PRIVATE KEY-----MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg-----END PRIVATE KEY-----"
    assert keys_command.main(["new", "--out", text if name == "KEY" else name]) == 2
    said = capsys.readouterr().err
    assert "must be given the name of a file" in said and "MIGH" not in said
    assert not [*tmp_path.iterdir()]


def test_new_writes_no_private_key_into_what_people_take_for_a_public_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages and pages say that the file that ends in .pub is the one to give away."""
    assert keys_command.main(["new", "--out", str(tmp_path / "signer.pem.pub")]) == 2
    assert "must not end in .pub" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_new_says_that_a_directory_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key must be writable, got .*: No such file"):
        keys.new(tmp_path / "none" / "ann.pem")


def test_the_id_of_a_key_is_what_openssl_computes(tmp_path: Path) -> None:
    keys.new(tmp_path / "ann.pem")
    der = ["openssl", "pkey", "-pubin", "-in", str(tmp_path / "ann.pem.pub"), "-outform", "DER"]
    binary = subprocess.run(der, check=True, capture_output=True).stdout
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=binary, check=True, capture_output=True).stdout
    assert keys.key_id(keys.load_public(tmp_path / "ann.pem.pub")) == digest.decode().split()[0]


@pytest.mark.parametrize("how", ["text", "path", "path and line break"])
def test_the_environment_variable_holds_the_key_or_its_path(
    key: keys.PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    text = (tmp_path / "signer.pem").read_text()
    monkeypatch.setenv(keys.VARIABLE, text if how == "text" else f"{tmp_path / 'signer.pem'}{how[4:] and chr(10)}")
    found = keys.load_private()
    assert found is not None and found.private_numbers() == key.private_numbers()
    assert text.splitlines()[1] not in redact(f"a log that repeats {text}")


def test_without_a_field_and_a_variable_there_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    assert keys.load_private() is None


P256, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (private_pem(P256, "hunter22"), "without a passphrase, got an encrypted one"),
        (private_pem(OTHER, ""), "curve P-256, got one on the curve secp384r1"),
        (private_pem(ed25519.Ed25519PrivateKey.generate(), ""), "curve P-256, got a key of the kind"),
        (keys.pem(P256.public_key()).decode(), "must hold a private key, got a public one"),
        ("name: digits\n", "must be a private key in PEM, got something else"),
        ("", "must be a private key in PEM, got something else"),
        (private_pem(P256, "") + private_pem(OTHER, ""), "must hold one key, got 2"),
    ],
)
def test_an_unusable_private_key_is_a_configuration_error_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        keys.load_private(tmp_path / "key")
    assert "\n" not in str(caught.value)
    assert "promote.signing_key" in str(caught.value)


def test_a_missing_file_is_named_but_a_value_of_the_variable_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"promote.signing_key must be a readable file, got '.*none': No such file"):
        keys.load_private(tmp_path / "none")
    body = "".join(private_pem(P256, "").splitlines()[1:-1])  # somebody forgot the first and the last line
    monkeypatch.setenv(keys.VARIABLE, body)
    with pytest.raises(ConfigError, match="must be a private key in PEM, or the path of a readable file") as caught:
        keys.load_private()
    assert body not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("cut", [None, 120])
def test_the_text_of_a_key_in_the_place_of_a_path_is_not_repeated(cut: int | None) -> None:
    """`--key "$(cat ann.pem)"` is a usage error, and no log or message may show the key, even if it was cut short."""
    text = private_pem(P256, "")
    body = text.splitlines()[1][:40]
    for load in (keys.load_private, keys.load_public):
        with pytest.raises(ConfigError, match="got the text of a key") as caught:
            load(Path(text))
        assert body not in str(caught.value)
    for field in ("signing_key", "trusted_keys"):
        with pytest.raises(ValidationError, match="must be the path of a file, not the text of a key"):
            Promote(**{field: text})
    assert redact(f"before '{text[:cut]}") == ("before '***" if cut else "before '***\n")


def test_a_link_leads_to_a_key_and_a_pipe_is_not_waited_for(key: keys.PrivateKey, tmp_path: Path) -> None:
    """Kubernetes mounts a secret as a link; a pipe that nobody writes to must not hold up a run."""
    (tmp_path / "link").symlink_to(tmp_path / "signer.pem")
    found = keys.load_private(tmp_path / "link")
    assert found is not None and found.private_numbers() == key.private_numbers()
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ConfigError, match="not a regular file"):
            keys.load_private(place)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (private_pem(P256, ""), "must hold a public key, got a private one"),
        (keys.pem(OTHER.public_key()).decode(), "curve P-256, got one on the curve secp384r1"),
        ("ssh-ed25519 AAAA", "must be a public key in PEM"),
        (keys.pem(P256.public_key()).decode() + keys.pem(OTHER.public_key()).decode(), "must hold one key, got 2"),
    ],
)
def test_an_unusable_public_key_is_a_configuration_error(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(ConfigError, match=words):
        keys.load_public(tmp_path / "key")


def test_a_public_key_is_read_from_its_text_as_well() -> None:
    assert keys.key_id(keys.load_public(keys.pem(P256.public_key()).decode())) == keys.key_id(P256.public_key())


# --- envelopes ----------------------------------------------------------------------------------------------------


def test_an_envelope_opens_with_the_key_that_signed_it_and_is_the_same_each_time(key: keys.PrivateKey) -> None:
    payload = canonical({"b": [1, 2.5, "é"], "a": None})
    data = sign(payload, KIND, key)
    assert data == sign(payload, KIND, key)
    others = [P256.public_key(), key.public_key()]
    assert open_envelope(data, others, KIND) == (payload, keys.key_id(key.public_key()))


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    # The example of protocol.md at https://github.com/secure-systems-lab/dsse.
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae(b"hello world", "http://example.com/HelloWorld") == expected


def test_openssl_verifies_the_signature(key: keys.PrivateKey, tmp_path: Path) -> None:
    data = json.loads(sign(canonical({"a": 1}), KIND, key))
    (tmp_path / "sig").write_bytes(base64.b64decode(data["signatures"][0]["sig"]))
    (tmp_path / "signed").write_bytes(pae(base64.b64decode(data["payload"]), data["payloadType"]))
    command = ["openssl", "dgst", "-sha256", "-verify", str(tmp_path / "signer.pem.pub"), "-signature"]
    verified = subprocess.run(
        [*command, str(tmp_path / "sig"), str(tmp_path / "signed")], check=False, capture_output=True
    )
    assert verified.stdout.strip() == b"Verified OK"


def test_an_unsigned_envelope_says_so_and_is_refused() -> None:
    data = sign(canonical({"a": 1}), KIND, None)
    assert json.loads(data)["signatures"] == []
    assert read_envelope(data, KIND).key_id == ""
    with pytest.raises(ProofMismatch, match="it is not signed"):
        open_envelope(data, [P256.public_key()], KIND)


def test_a_key_that_is_not_trusted_and_another_type_are_refused(key: keys.PrivateKey) -> None:
    data = sign(canonical({"a": 1}), KIND, key)
    with pytest.raises(ProofMismatch, match="must be signed by a trusted key"):
        open_envelope(data, [P256.public_key()], KIND)
    with pytest.raises(ProofMismatch, match="none is given"):
        open_envelope(data, [], KIND)
    with pytest.raises(ProofMismatch, match="payload type application/other"):
        open_envelope(data, [key.public_key()], "application/other")


def test_no_bit_of_an_envelope_is_free(key: keys.PrivateKey) -> None:
    """Every flip of one bit, every removal of one byte, and 2,000 insertions are refused."""
    data = sign(canonical({"list": [1, 2, 3], "text": "value"}), KIND, key)
    random_bytes = random.Random(7)
    changed = [bytes([*data[:i], data[i] ^ (1 << bit), *data[i + 1 :]]) for i in range(len(data)) for bit in range(8)]
    changed += [data[:i] + data[i + 1 :] for i in range(len(data))]
    for _ in range(2000):
        place = random_bytes.randint(0, len(data))
        changed.append(data[:place] + bytes([random_bytes.choice(b" \n\t0A=,}x\x00")]) + data[place:])
    for other in changed:
        if other != data:
            with pytest.raises(ProofMismatch):
                open_envelope(other, [key.public_key()], KIND)


def edited(data: bytes, **fields: object) -> bytes:
    return canonical({**json.loads(data), **fields})


def test_another_encoding_of_the_same_signature_is_refused(key: keys.PrivateKey) -> None:
    """The other s, more than one signature, unknown fields, spaces and free bits in base64 are all refused."""
    data = sign(canonical({"a": 1}), KIND, key)
    (signature,) = json.loads(data)["signatures"]
    r, s = decode_dss_signature(base64.b64decode(signature["sig"]))
    high = base64.b64encode(encode_dss_signature(r, ORDER - s)).decode()
    payload = json.loads(data)["payload"]
    assert payload.endswith("=")
    others = [
        edited(data, signatures=[{**signature, "sig": high}]),
        edited(data, signatures=[signature, signature]),
        edited(data, signatures=[{**signature, "extra": 1}]),
        edited(data, signatures=[{**signature, "keyid": 7}]),
        edited(data, signatures=[{"sig": signature["sig"]}]),
        edited(data, signatures=None),
        edited(data, extra=1),
        edited(data, payloadType=1),
        edited(data, payload=payload.rstrip("=")),
        edited(data, payload=f"{payload}\n"),
        edited(data, payload=payload.replace("=", "") + "=" * payload.count("=") + "===="),
        json.dumps(json.loads(data)).encode(),
        data + b"\n",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b"",
        b"\xff",
    ]
    for other in others:
        with pytest.raises(ProofMismatch, match="not a canonical DSSE envelope"):
            open_envelope(other, [key.public_key()], KIND)


@pytest.mark.parametrize(
    "payload", [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1,"a":1}', b'{"a":1}\n', b"NaN", b"\xc3\xa9"]
)
def test_a_payload_that_is_not_canonical_json_is_neither_signed_nor_accepted(
    key: keys.PrivateKey, payload: bytes
) -> None:
    with pytest.raises(ValueError, match="canonical JSON"):
        sign(payload, KIND, key)
    raw = key.sign(pae(payload, KIND), ec.ECDSA(keys_hash()))
    encoded = {"keyid": keys.key_id(key.public_key()), "sig": base64.b64encode(raw).decode()}
    fields = {"payload": base64.b64encode(payload).decode(), "payloadType": KIND, "signatures": [encoded]}
    with pytest.raises(ProofMismatch, match="not a canonical DSSE envelope"):
        open_envelope(canonical(fields), [key.public_key()], KIND)


def keys_hash() -> object:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def test_keys_and_envelopes_load_no_heavy_package() -> None:
    heavy = "('tensorflow', 'keras', 'prefect', 'mlflow', 'numpy', 'requests', 'grpc', 'pydantic', 'docker')"
    code = f"import sys, tasks.proof.envelope; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
