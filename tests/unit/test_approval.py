"""A signed approval counts for one candidate, one model, one run and once; a tag counts where no key is listed."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from configs.errors import ConfigError
from configs.loading import load_config
from configs.schema import Config
from flows import ab, promote_cli, rollback
from tasks.errors import ProofMismatch
from tasks.production.approved import Approved, approval_of, noted
from tasks.proof import keys
from tasks.proof.approval import Approval, approval_digest, read_approval, sign_approval
from tasks.proof.keys import key_id
from tasks.proof.signing import approvers_of, reviewer_key
from tasks.registry.approvals import Reviewed
from tasks.store.history import Entry

DIGEST, OTHER = "a" * 64, "b" * 64
ANN, BOB, EVE = (ec.derive_private_key(number, ec.SECP256R1()) for number in (11, 12, 13))
APPROVAL = Approval("m", DIGEST, 7, "run", "ann", "2026-11-27T00:00:00+00:00")


def pem(key: keys.PrivateKey) -> str:
    return keys.pem(key.public_key()).decode()


def config_with(*approvers: keys.PrivateKey) -> Config:
    return Config(name="m", promote={"approvers": tuple(map(pem, approvers))})


CONFIG = config_with(ANN, BOB)


def reviewed(approval: str, **changes: Any) -> Reviewed:
    return dataclasses.replace(
        Reviewed(3, 7, DIGEST, "approved", "mallory", "run", "awaiting review", approval), **changes
    )


def test_a_tag_is_enough_where_no_key_is_listed() -> None:
    """Without approvers, the name beside the tag counts, and the words say that it was a tag."""
    found = approval_of(config_with(), reviewed("", by="ann"), [])
    assert found.words == "approved by ann, by a tag in MLflow"
    assert approval_of(config_with(), reviewed("", by=""), []).by == "a reviewer in MLflow"


@pytest.mark.parametrize("command", [ab, promote_cli, rollback])
def test_a_name_is_printable_text(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A line break in a name could add a line to an outcome, and a terminal code could hide one."""
    with pytest.raises(SystemExit) as ended:
        command.build_parser().parse_args(["--config", "c.yaml", "--by", "ann\n\x1b[31mm promoted"])
    assert ended.value.code == 2
    assert r"a name must be printable text on one line, got 'ann\n\x1b[31mm promoted'" in capsys.readouterr().err
    assert command.build_parser().parse_args(["--config", "c.yaml", "--by", "Žofia Ün"]).by == "Žofia Ün"


def test_a_signed_name_is_shown_on_one_line() -> None:
    """An approval may have been signed by another program, and the signature says nothing about line breaks."""
    signed = sign_approval(dataclasses.replace(APPROVAL, by="ann\n\x1b[31mm promoted"), ANN)
    assert approval_of(CONFIG, reviewed(signed), []).by == "ann m promoted"


def test_the_reviewers_signature_is_needed_where_keys_are_listed() -> None:
    """The name is the one that was signed, whatever the tag beside it says, and the words name the key."""
    signed = sign_approval(APPROVAL, BOB)
    found = approval_of(CONFIG, reviewed(signed), [])
    assert found == Approved("ann", f"signed with key {key_id(BOB.public_key())[:8]}", signed)
    assert found.words == f"approved by ann, signed with key {key_id(BOB.public_key())[:8]}"
    with pytest.raises(ProofMismatch, match="a tag and no signature"):
        approval_of(CONFIG, reviewed(""), [])
    with pytest.raises(ProofMismatch, match="must be signed by a trusted key"):
        approval_of(CONFIG, reviewed(sign_approval(APPROVAL, EVE)), [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": OTHER}, "for the digest"),
        ({"candidate": 8}, "for candidate 8, and not for 7"),
        ({"run": "another"}, "MLflow's run another"),
        ({"model": "n"}, "the model n"),
    ],
)
def test_an_approval_of_something_else(change: dict[str, Any], said: str) -> None:
    """A signature for other bytes, another candidate, run or model approves nothing."""
    with pytest.raises(ProofMismatch, match=said):
        approval_of(CONFIG, reviewed(sign_approval(dataclasses.replace(APPROVAL, **change), ANN)), [])


def line(state: str, digest: str = DIGEST, reason: str = "") -> Entry:
    return Entry("2026-11-27T01:00:00+00:00", 7, state, digest, "run", "ann", reason)


def test_an_approval_counts_once() -> None:
    """It may be carried out again after a failure, but not after its bytes were rejected, rolled back or replaced."""
    signed = sign_approval(APPROVAL, ANN)
    use = line("approved", reason=noted(approval_of(CONFIG, reviewed(signed), [])))
    assert use.reason.endswith(f"approval {approval_digest(signed)}")
    before_it_went_live = [line("superseded"), line("live")]  # another version with the same bytes was replaced
    for since in ([], [line("live")], [line("rolled back", OTHER)], before_it_went_live, [line("superseded", OTHER)]):
        assert approval_of(CONFIG, reviewed(signed), [use, *since]).by == "ann"
    assert approval_of(CONFIG, reviewed(signed), [line("rolled back"), use]).by == "ann"
    for state in ("rejected", "rolled back", "superseded"):
        with pytest.raises(ProofMismatch, match=f"used before, and the version was {state} since"):
            approval_of(CONFIG, reviewed(signed), [use, line("live"), line(state), use])
    later = sign_approval(dataclasses.replace(APPROVAL, time="2026-11-27T02:00:00+00:00"), ANN)
    assert approval_of(CONFIG, reviewed(later), [use, line("live"), line("rolled back")]).by == "ann"


def test_no_byte_of_an_approval_is_free() -> None:
    """Each of 1,000 changes of a byte is refused, and so are other encodings of the same words."""
    rng, signed = random.Random(14), sign_approval(APPROVAL, ANN)
    publics = approvers_of(CONFIG)
    assert read_approval(signed, publics)[0] == APPROVAL
    for _ in range(1000):
        data = bytearray(signed.encode())
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        with pytest.raises(ProofMismatch):
            read_approval(data.decode("utf-8", "surrogateescape"), publics)
    outer = json.loads(signed)
    inner = json.loads(base64.b64decode(outer["payload"]))
    for other in (
        signed + "\n",
        json.dumps(outer),
        signed.replace("=", ""),
        json.dumps({**outer, "more": 1}),
        "",
        "{}",
    ):
        with pytest.raises(ProofMismatch):
            read_approval(other, publics)
    assert inner["predicate"]["verdict"] == "approved"


def write_config(root: Path, approvers: str) -> Path:
    path = root / "cfg.yaml"
    path.write_text(f"name: m\npromote: {{mode: review, approvers: {approvers}}}\n")
    return path


def test_listed_keys_are_files_beside_the_configuration_or_texts(tmp_path: Path) -> None:
    """A path is relative to the YAML file, and a PEM text needs no file."""
    public = keys.new(tmp_path / "ann.pem")
    text = json.dumps(pem(BOB))
    config = load_config(write_config(tmp_path, f"[ann.pem.pub, {text}]"))
    assert [*map(key_id, approvers_of(config))] == [key_id(public), key_id(BOB.public_key())]


@pytest.mark.parametrize(
    ("approvers", "said"),
    [
        ("[absent.pub]", "promote.approvers' must name an existing file"),
        ("[ann.pem]", "promote.approvers.0: the public key"),
        ("[cfg.yaml]", "promote.approvers.0: the public key"),
        ("['-----BEGIN PUBLIC KEY-----']", "promote.approvers.0: a public key must"),
    ],
)
def test_a_listed_key_that_cannot_be_read(
    tmp_path: Path, approvers: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one line with exit code 2 before Prefect and MLflow are imported, and a private key is never repeated."""
    keys.new(tmp_path / "ann.pem")
    assert promote_cli.main(["--config", str(write_config(tmp_path, approvers))]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "PRIVATE" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--approve"], "--approve needs --key FILE"),
        (["--approve", "--key", "eve.pem"], "--key must be the private key of one of promote.approvers"),
        (["--approve", "--key", "ann.pem.pub"], "--key ('"),
        (["--approve", "--key", "absent"], "--key must be a readable file"),
        (["--reject", "--key", "ann.pem"], "a rejection and other decisions need no signature"),
    ],
)
def test_a_wrong_key_of_a_reviewer(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing, unknown or needless key is a usage error before anything starts."""
    for name in ("ann", "eve"):
        keys.new(tmp_path / f"{name}.pem")
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, "[ann.pem.pub]")
    assert promote_cli.main(["--config", str(config), "--version", "7", "--by", "ann", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_key_without_a_list() -> None:
    """A signature that nobody could check is refused, so that nobody believes in it."""
    with pytest.raises(ConfigError, match=r"promote\.approvers lists no public key"):
        reviewer_key(config_with(), "approved", "ann.pem")
    assert reviewer_key(config_with(), "approved", "") is None
    assert reviewer_key(CONFIG, "rejected", "") is None
