"""The proof of a promotion: what is written, and that every change of it is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loading import load_config
from configs.schema import Config
from flows import cli, promote_cli, rehearse_cli, sweep_cli
from flows import history as history_command
from flows import keys as keys_command
from flows import verify as verify_command
from tasks.errors import ProofMismatch, StoreError
from tasks.production.changes import examine, go_back
from tasks.production.proofs import prove, unproven
from tasks.proof import keys
from tasks.proof.directory import PARTIAL, PROOFS, SIGNATURE, STATEMENT, kept_statement, proof_dir
from tasks.proof.envelope import canonical, open_envelope, read_envelope
from tasks.proof.signing import signer_of
from tasks.proof.statement import PAYLOAD_TYPE, read_statement
from tasks.proof.verify import Proof
from tasks.records import Change
from tasks.savedmodel.manifest import hash_files
from tasks.store.history import HEAD, HISTORY, append
from tasks.store.layout import versions
from tasks.store.proven import check_version
from tasks.store.rehearsals import rehearsal_file
from tasks.store.retention import prune
from tests.proven import config_of, judged, make_key, promoted, publish, signed_files

CHANGES, FILES, UNTOUCHED = 1000, 200, 100


@dataclasses.dataclass(frozen=True)
class Signed:
    """Two versions with signed proofs."""

    config: Config
    version: Path
    other: Path
    public: keys.PublicKey
    public_file: Path

    def check(self, version: Path | None = None) -> Proof:
        return check_version(version or self.version, [self.public])


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return make_signed(tmp_path_factory.mktemp("signed"))


@pytest.fixture
def own(tmp_path: Path) -> Signed:
    """Return versions that a test may change."""
    return make_signed(tmp_path)


def make_signed(root: Path) -> Signed:
    path, public = make_key(root)
    config = config_of(root, signing_key=path)
    other, version = promoted(config), promoted(config)
    return Signed(config, version, other, public, keys.public_path(path))


def statement_of(version: Path) -> Path:
    return proof_dir(version.parent, hash_files(version).digest) / STATEMENT


# --- what is written ----------------------------------------------------------------------------------------------


def test_a_statement_names_every_file_and_what_decided(signed: Signed) -> None:
    payload, signer = open_envelope(statement_of(signed.version).read_bytes(), [signed.public], PAYLOAD_TYPE)
    assert signer == keys.key_id(signed.public)
    plain, said = json.loads(payload), read_statement(payload)
    assert plain["_type"] == "https://in-toto.io/Statement/v1"
    assert {one["name"] for one in plain["subject"]} == {
        ".", *(path.relative_to(signed.version).as_posix() for path in signed.version.rglob("*") if path.is_file()),
    }  # fmt: skip
    assert said.digest == hash_files(signed.version).digest
    assert said.predicate["approvedBy"] == "ann"
    assert said.predicate["run"]["id"] == "r"
    assert [gate["name"] for gate in said.predicate["gates"]] == ["size"]
    assert {"data", "configuration", "lock", "gitCommit", "server", "promotedAt"} <= said.predicate.keys()
    evidence = ["answers.npz", "approval.dsse.json", "packages.txt", "rehearsal.json", "requests.npz"]
    assert [*said.evidence] == evidence


def test_the_lock_digest_is_that_of_the_packages_beside_it(signed: Signed) -> None:
    said = signed.check().statement
    assert said.predicate["lock"] == {"sha256": said.evidence["packages.txt"]}


def test_a_server_sees_versions_only(signed: Signed) -> None:
    """The proofs are beside the versions, under a name that is not a number, and nothing is inside of a version."""
    assert [*versions(signed.version.parent)] == [1, 2]
    assert (signed.version.parent / PROOFS).is_dir()
    assert hash_files(signed.version).digest == hash_files(signed.config.candidates_dir / "2").digest


def test_without_a_key_the_statement_says_that_it_is_unsigned(tmp_path: Path) -> None:
    version = promoted(config_of(tmp_path))
    kept = kept_statement(version.parent, hash_files(version).digest)
    assert kept is not None
    assert str(kept).endswith(", unsigned")
    assert not statement_of(version).with_name(SIGNATURE).exists()
    _, public = make_key(tmp_path)
    with pytest.raises(ProofMismatch, match="statement.dsse.json' is refused: it is not signed"):
        check_version(version, [public])
    assert check_version(version, [], allow_unsigned=True).key_id == ""


def test_a_promotion_without_a_key_keeps_a_signed_statement(own: Signed) -> None:
    before = statement_of(own.other).read_bytes()
    publish(config_of(own.version.parents[2]), 1, version=3, directory="3")
    assert statement_of(own.other).read_bytes() == before
    assert check_version(own.version.with_name("3"), [own.public], statement=statement_of(own.other)).key_id
    with pytest.raises(ProofMismatch, match="were added without the key"):  # the lines about this promotion
        own.check(own.version.with_name("3"))


def test_a_second_promotion_of_the_same_bytes_replaces_the_statement_and_its_evidence(own: Signed) -> None:
    proof = statement_of(own.other).parent
    record = rehearsal_file(own.config.candidates_dir, proof.name, 1)
    known = json.loads(record.read_text())
    known["report"]["gates"][0]["summary"] = "judged again"
    record.write_text(json.dumps(known))
    assert publish(own.config, 1, version=3, directory="3").state == "live"
    said = own.check(own.version.with_name("3"))
    assert said.statement.predicate["gates"][0]["summary"] == "judged again"
    assert len([*proof.glob("*-rehearsal.json")]) == 1
    assert own.check(own.other).statement_digest == said.statement_digest


def test_a_new_proof_replaces_evidence_that_was_damaged(own: Signed) -> None:
    """Evidence with the right name and other bytes would leave a live version whose proof does not verify."""
    evidence = next(statement_of(own.other).parent.glob("*-answers.npz"))
    replace(evidence, b"other answers")
    again = publish(own.config, 1, version=3, directory="3").live_dir
    assert again is not None and own.check(again).directory == evidence.parent
    assert not [*evidence.parent.glob(f"{PARTIAL}*")]


def test_a_secret_is_in_no_file_of_a_proof(tmp_path: Path) -> None:
    """The private key and the secrets of a configuration are not in what everybody may read."""
    path, _ = make_key(tmp_path)
    version = promoted(config_of(tmp_path, signing_key=path, live_headers={}))
    body = path.read_text().splitlines()[1]
    for file in statement_of(version).parent.iterdir():
        assert body.encode() not in file.read_bytes()


def test_a_number_that_json_lacks_is_signed_as_text(tmp_path: Path) -> None:
    path, public = make_key(tmp_path)
    config = config_of(tmp_path, signing_key=path)
    number = judged(config)
    record = next((config.candidates_dir / ".rehearsals").glob("*.json"))
    known = json.loads(record.read_text())
    known["report"]["gates"][0]["figures"] = {"p50": float("nan")}
    record.write_text(json.dumps(known))
    version = publish(config, number).live_dir
    assert version is not None
    assert check_version(version, [public]).statement.predicate["gates"][0]["figures"] == {"p50": "nan"}


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_thousand_changed_bytes_are_all_refused_and_named(own: Signed) -> None:
    """One random byte is changed in 1,000 ways, in each kind of file equally often, and each error names the file."""
    chance, kinds = random.Random(14), signed_files(own.version)
    refused: Counter[str] = Counter()
    for number in range(CHANGES):
        kind = [*kinds][number % len(kinds)]
        path = chance.choice(kinds[kind])
        before = path.read_bytes()
        place = chance.randrange(len(before))
        changed = bytes([before[place] ^ chance.randrange(1, 256)])
        replace(path, before[:place] + changed + before[place + 1 :])
        with pytest.raises(ProofMismatch) as caught:
            own.check()
        assert str(path) in str(caught.value), f"byte {place} of {path.name}: {caught.value}"
        refused[kind] += 1
        replace(path, before)
    assert sum(refused.values()) == CHANGES
    assert {"model", "statement", "signature", "evidence", "approval", "history"} <= refused.keys()
    own.check()


def test_two_hundred_changes_of_whole_files_are_all_refused_and_named(own: Signed) -> None:
    """Files are deleted, exchanged with each other, and replaced by those of another version or by other contents."""
    chance, kinds, others = random.Random(15), signed_files(own.version), signed_files(own.other)
    done: Counter[str] = Counter()
    for number in range(FILES):
        kind = [*kinds][number % len(kinds)]
        path = chance.choice(kinds[kind])
        before = {one: one.read_bytes() for files in kinds.values() for one in files}
        how = ("delete", "substitute", "reorder", "empty")[number // len(kinds) % 4]
        named = [path]
        if how == "delete":
            path.unlink()
        elif how == "substitute":
            theirs = [one.read_bytes() for one in others[kind]]
            unlike = [content for content in theirs if content != before[path]]
            replace(path, chance.choice(unlike))
        elif how == "reorder":
            other = chance.choice([one for one, content in before.items() if content != before[path]])
            replace(path, before[other])
            replace(other, before[path])
            named.append(other)
        else:
            replace(path, b"")
            if not before[path]:
                replace(path, b"x")
        with pytest.raises(ProofMismatch) as caught:
            own.check()
        assert any(str(one) in str(caught.value) for one in named), f"{how} {named}: {caught.value}"
        done[how] += 1
        for one, content in before.items():
            if not one.exists() or one.read_bytes() != content:
                replace(one, content)
    assert sum(done.values()) == FILES and min(done.values()) >= FILES // 5
    own.check()


def replace(path: Path, content: bytes) -> None:
    """Write another file in the place of one, so that its hard links keep what they have."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("untouched", [10, pytest.param(UNTOUCHED, marks=pytest.mark.long)])
def test_untouched_versions_raise_no_alarm(tmp_path: Path, untouched: int) -> None:
    path, public = make_key(tmp_path)
    config = config_of(tmp_path, signing_key=path)
    live = [promoted(config) for _ in range(untouched)]
    assert len({check_version(version, [public]).statement.digest for version in live}) == untouched


def test_files_that_were_added_are_refused_and_named(own: Signed) -> None:
    for name in ("extra", "variables/extra", "assets.extra/extra"):
        added = own.version / name
        added.parent.mkdir(exist_ok=True)
        added.write_text("")
        with pytest.raises(ProofMismatch, match=f"{name}' was added"):
            own.check()
        added.unlink()


@pytest.mark.parametrize("name", ["extra", "0123456789ab-answers.npz", "\x1b[32m"])
def test_a_file_that_was_added_to_a_proof_is_refused(own: Signed, name: str) -> None:
    """The statement does not name it; what a killed process was writing is never read, and raises no alarm."""
    proof = statement_of(own.version).parent
    (proof / f"{PARTIAL}0").write_text("a part")
    assert own.check()
    (proof / name).write_text("")
    with pytest.raises(ProofMismatch) as caught:
        own.check()
    assert f"{str(proof / name)!r} was added" in str(caught.value)
    assert own.check(own.other)


def test_the_doctor_removes_what_a_killed_promotion_left_in_a_proof(own: Signed) -> None:
    """Files with other names stay for a person, and so does everything while evidence is missing or exchanged."""
    proof = statement_of(own.version).parent
    left, strange = [proof / f"{PARTIAL}0", proof / "0123456789ab-answers.npz"], proof / "notes.txt"
    for path in (*left, strange):
        path.write_text("x")
    evidence = next(proof.glob("*-requests.npz"))
    evidence.rename(proof.parent / "aside")
    before = sorted(proof.iterdir())
    examine(own.config, only_look=False)
    assert sorted(proof.iterdir()) == before
    (proof.parent / "aside").rename(evidence)
    removed = [finding.text for finding in examine(own.config, only_look=False) if finding.done == "removed"]
    assert [text.partition(", which")[0] for text in removed] == [repr(str(path)) for path in reversed(left)]
    with pytest.raises(ProofMismatch, match=f"'{strange}' was added"):
        own.check()
    strange.unlink()
    assert own.check()


def test_a_file_that_would_fill_the_memory_is_refused_and_named(own: Signed) -> None:
    """A hole takes no space on the disk, and all space of who reads it at once."""
    proof, model_dir = statement_of(own.version).parent, own.version.parent
    for path in (proof / STATEMENT, proof / SIGNATURE, model_dir / HEAD, model_dir / HISTORY):
        content = path.read_bytes()
        os.truncate(path, 2**31)
        with pytest.raises(ProofMismatch) as caught:
            own.check()
        assert str(path) in str(caught.value) and "it is larger than" in str(caught.value)
        path.write_bytes(content)
    assert own.check()


def test_a_link_in_the_place_of_a_version_is_refused(own: Signed) -> None:
    """A server follows it and serves other bytes as this version; a name that is no number may be a link."""
    own.version.rename(own.version.with_name("aside"))
    own.version.symlink_to(own.other)
    with pytest.raises(ProofMismatch, match=f"'{own.version}' must be the directory of a version, got a link"):
        own.check()
    own.version.unlink()
    own.version.write_text("")
    with pytest.raises(ProofMismatch, match="must be a version directory, but it is none"):
        own.check()
    own.version.with_name("latest").symlink_to(own.other)
    assert own.check(own.version.with_name("latest")).statement.predicate["version"] == 1


def test_a_link_in_the_place_of_a_file_is_refused(own: Signed) -> None:
    path = own.version / "saved_model.pb"
    path.rename(own.version.parent / "elsewhere")
    path.symlink_to(own.version.parent / "elsewhere")
    with pytest.raises(ProofMismatch, match=r"regular files only.*saved_model.pb"):
        own.check()


def test_a_version_in_the_place_of_another_one_is_refused(own: Signed) -> None:
    """Both have valid proofs, but the history says which bytes are which version."""
    for old, new in ((own.other, "x"), (own.version, own.other.name), (own.other.with_name("x"), own.version.name)):
        old.rename(old.with_name(new))
    for version in (own.version, own.other):
        with pytest.raises(ProofMismatch, match=f"'{version}.*' was changed"):
            own.check(version)


@pytest.mark.parametrize("name", ["9", "00009", "latest"])
def test_a_copy_beside_the_versions_is_not_a_version(own: Signed, name: str) -> None:
    """A server would serve a copy with a higher number, although its bytes never went live as this version."""
    copy = shutil.copytree(own.other, own.version.with_name(name))
    if name == "latest":  # a name that is no number needs only bytes that went live
        assert own.check(copy).statement.digest == hash_files(own.other).digest
        return
    with pytest.raises(ProofMismatch, match=r"history.jsonl' does not say that version 9 went live"):
        own.check(copy)
    statement = statement_of(own.other)
    assert check_version(copy, [own.public], statement=statement).statement.predicate["version"] == 1


def test_a_proof_of_bytes_that_never_went_live_is_refused(own: Signed) -> None:
    """A promotion that fails in production leaves a statement, and the history has no line that they are live."""
    candidate = own.config.candidates_dir / str(judged(own.config))
    found = hash_files(candidate)
    prove(own.config, Change("publish", 3, "3", found.digest, str(candidate)), candidate, found)
    shutil.copytree(candidate, own.version.with_name("3"))
    with pytest.raises(ProofMismatch, match="does not say that version 3 went live"):
        own.check(own.version.with_name("3"))


def test_another_model_with_a_proof_of_its_own_is_no_version(own: Signed) -> None:
    """One key may sign several models: bytes of another one are neither accepted by the doctor nor by a rollback."""
    assert not unproven(required(own), own.version, own.check().statement.digest)
    root = own.config.models_root / "n"
    shutil.copytree(own.version.parent, root)
    other = required(own).model_copy(update={"name": "n"})
    said = unproven(other, root / own.version.name, own.check().statement.digest)
    assert "must be a version of 'n', got one of 'm'" in said


@pytest.mark.parametrize("odd", [os.mkfifo, os.mkdir])
def test_a_history_that_is_no_file_is_refused_at_once(own: Signed, odd: Callable[[Path], None]) -> None:
    """Who may write there can put a pipe in its place, which must not be waited for."""
    path = own.version.parent / HISTORY
    path.unlink()
    odd(path)
    with pytest.raises(ProofMismatch, match=f"'{path}': it is not a regular file"):
        own.check()


def test_another_key_is_refused(signed: Signed, tmp_path: Path) -> None:
    _, stranger = make_key(tmp_path)
    with pytest.raises(ProofMismatch, match="must be signed by a trusted key"):
        check_version(signed.version, [stranger])
    assert check_version(signed.version, [stranger, signed.public]).key_id == keys.key_id(signed.public)


def test_a_statement_is_not_accepted_as_unsigned_by_removing_its_signature(own: Signed) -> None:
    """--allow-unsigned is the reader's own decision; without it a statement that lost its signature is refused."""
    path = statement_of(own.version)
    replace(path, canonical({**json.loads(path.read_bytes()), "signatures": []}))
    with pytest.raises(ProofMismatch, match="it is not signed"):
        own.check()


def test_evidence_cannot_be_outside_of_the_proof(tmp_path: Path) -> None:
    payload = {
        "_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": "0" * 64}, "name": "."}],
        "predicateType": "https://keras-rehearsal/promotion/v1",
    }  # fmt: skip
    for name in ("../x", "", "..", "a/b", "a\nb", 7):
        evidence = [{"digest": {"sha256": "0" * 64}, "name": name}]
        with pytest.raises(ProofMismatch, match="not an in-toto statement"):
            read_statement(canonical({**payload, "predicate": {"evidence": evidence}}))
    for sha in ("../../../../", 7, None, "A" * 64, "0" * 63, ""):  # its first digits begin the name of the file
        evidence = [{"digest": {"sha256": sha}, "name": "x"}]
        with pytest.raises(ProofMismatch, match="not an in-toto statement"):
            read_statement(canonical({**payload, "predicate": {"evidence": evidence}}))
    assert read_statement(canonical({**payload, "predicate": {"evidence": []}})).digest == "0" * 64


# --- copies -------------------------------------------------------------------------------------------------------


def test_a_copy_elsewhere_verifies_with_its_statement(signed: Signed, tmp_path: Path) -> None:
    """The copy may have any name; its statement has its evidence beside it, or the caller asks for the bytes only."""
    copy = tmp_path / "copy"
    shutil.copytree(signed.version, copy)
    with pytest.raises(ProofMismatch, match="name its file with --statement"):
        check_version(copy, [signed.public])
    shutil.copytree(statement_of(signed.version).parent, tmp_path / "proof")
    assert check_version(copy, [signed.public], statement=tmp_path / "proof" / STATEMENT).key_id
    alone = shutil.copy(statement_of(signed.version), tmp_path / "alone.json")
    with pytest.raises(ProofMismatch, match=r"answers.npz' must be evidence"):
        check_version(copy, [signed.public], statement=Path(alone))
    assert check_version(copy, [signed.public], statement=Path(alone), bytes_only=True).key_id
    (copy / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(ProofMismatch, match=r"saved_model.pb' was changed"):
        check_version(copy, [signed.public], statement=Path(alone), bytes_only=True)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_says_what_was_checked(signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--dir", str(signed.version), "--key", str(signed.public_file)]
    assert verify_command.main(argv) == 0
    out = capsys.readouterr().out
    assert keys.key_id(signed.public) in out and hash_files(signed.version).digest in out and "ann" in out


def test_the_command_refuses_with_exit_code_3_and_names_the_file(
    own: Signed, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(own.version / "saved_model.pb", b"other")
    assert verify_command.main(["--dir", str(own.version), "--key", str(own.public_file)]) == 3
    assert "saved_model.pb' was changed" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--key must name a public key that you trust"),
        (["--key", "absent.pub"], "a public key must be in a readable file"),
        (["--key", "KEY"], "must hold a public key, got a private one"),
    ],
)
def test_a_key_that_cannot_be_used_is_a_usage_error(
    signed: Signed, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    private = str(signed.public_file).removesuffix(".pub")
    words = [private if word == "KEY" else word for word in words]
    assert verify_command.main(["--dir", str(signed.version), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_command_needs_no_server_library(signed: Signed) -> None:
    """A verification loads neither TensorFlow, Prefect, MLflow nor any other heavy package."""
    heavy = ["tensorflow", "keras", "prefect", "mlflow", "numpy", "requests", "grpc", "pydantic", "docker", "yaml"]
    code = (
        "import sys; from flows.verify import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy} if name in sys.modules], code)"
    )
    argv = [sys.executable, "-c", code, "--dir", str(signed.version), "--key", str(signed.public_file)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_an_interrupted_command_says_so_in_one_line(own: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    """The signal comes while a large file is hashed."""
    path = own.version / "saved_model.pb"
    os.truncate(path, 2**40)

    def is_open() -> bool:
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # it is closed by now
                if link.readlink() == path:
                    return True
        return False

    def interrupt() -> None:
        while not is_open():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    assert verify_command.main(["--dir", str(own.version), "--key", str(own.public_file)]) == 130
    waiting.join()
    assert capsys.readouterr().err == "interrupted\n"


def test_the_directory_of_all_versions_is_not_one(signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_command.main(["--dir", str(signed.version.parent), "--key", str(signed.public_file)]) == 2
    assert "--dir must be one version" in capsys.readouterr().err


def test_keys_are_made_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ann.pem"
    assert keys_command.main(["new", "--out", str(file)]) == 0
    out = capsys.readouterr().out
    assert keys.key_id(keys.load_public(keys.public_path(file))) in out
    assert file.read_text().splitlines()[1] not in out
    assert keys_command.main(["new", "--out", str(file)]) == 2
    assert "never overwritten" in capsys.readouterr().err


# --- promote.require_proof ----------------------------------------------------------------------------------------


def required(own: Signed) -> Config:
    promote = {**own.config.promote.model_dump(), "trusted_keys": (own.public_file,), "require_proof": True}
    return own.config.model_copy(update={"promote": type(own.config.promote)(**promote)})


def reported(config: Config) -> list[str]:
    return [finding.text for finding in examine(config, only_look=True) if "proof" in finding.text]


def test_doctor_and_rollback_accept_versions_that_verify(own: Signed) -> None:
    config = required(own)
    assert reported(config) == []
    promotion = go_back(config, None, "ann")
    assert promotion.live_dir == own.version.with_name("3")
    assert own.check(promotion.live_dir).statement.digest == hash_files(own.other).digest
    assert reported(config) == []


def test_doctor_and_rollback_refuse_versions_without_a_proof(own: Signed) -> None:
    config = required(own)
    evidence = next(statement_of(own.other).parent.glob("*-answers.npz"))
    replace(evidence, b"other answers")
    (line,) = reported(config)
    assert "version 1 has no proof" in line and str(evidence) in line
    with pytest.raises(ProofMismatch, match=r"version 1 must have a proof .*answers.npz"):
        go_back(config, None, "ann")
    assert [*versions(own.version.parent)] == [1, 2]
    assert go_back(own.config, None, "ann").live_dir == own.version.with_name("3")  # where no proof is required


@pytest.mark.parametrize("has_key", [True, False])
def test_who_has_only_the_public_key_sees_a_forged_history(
    own: Signed, capsys: pytest.CaptureFixture[str], has_key: bool
) -> None:
    """Trusted keys are enough for the doctor and the table: for a last line that was replaced, and a removed head."""
    promote = required(own).promote.model_copy(update={} if has_key else {"signing_key": None})
    config = own.config.model_copy(update={"promote": promote})
    model_dir = own.version.parent
    path, head = model_dir / HISTORY, model_dir / HEAD
    kept = path.read_bytes(), head.read_bytes()

    def problems() -> list[str]:
        assert history_command._chain(model_dir, config) == 1
        told = [
            one.text for one in examine(config, only_look=True) if one.text.startswith(f"'{model_dir / '.history'}")
        ]
        return [*told, capsys.readouterr().err]

    *first, last = kept[0].splitlines(keepends=True)
    path.write_bytes(b"".join(first) + last.replace(b'"actor":"ann"', b'"actor":"bob"'))
    doctor, table = problems()
    assert "it is not the line that the signed head has" in doctor
    assert "it is not the line that the signed head has" in table
    path.write_bytes(kept[0])
    head.unlink()
    doctor, table = problems()
    assert "must be the signed head of the history, but it is gone" in doctor
    assert "must be the signed head of the history, but it is gone" in table
    append(model_dir, 3, "exported", "e" * 64)  # without a key, it does not return
    assert "it is gone" in problems()[0]


def test_a_signature_of_another_key_is_no_proof_for_the_doctor(own: Signed) -> None:
    _, stranger = make_key(own.version.parents[2], "stranger")
    config = required(own)
    update = {"trusted_keys": (own.public_file.with_name("stranger.pem.pub"),)}
    config = config.model_copy(update={"promote": config.promote.model_copy(update=update)})
    assert len(reported(config)) == 2
    assert keys.key_id(stranger)


def test_a_promotion_that_needs_a_proof_and_has_no_key_changes_nothing(
    own: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    config = required(own)
    config = config.model_copy(update={"promote": config.promote.model_copy(update={"signing_key": None})})
    number = judged(config)
    with pytest.raises(ConfigError, match="promote.require_proof needs a key"):
        publish(config, number)
    assert [*versions(own.version.parent)] == [1, 2]
    assert not (own.version.parent / ".journal.json").exists()
    assert keys.signing_key(config.promote, signs=False) is None


def test_a_signing_key_that_nobody_trusts_is_found_early(own: Signed) -> None:
    path, _ = make_key(own.version.parents[2], "stranger")
    config = required(own)
    promote = config.promote.model_copy(update={"signing_key": path})
    with pytest.raises(ConfigError, match="trusted_keys must contain the public key of the signing key"):
        keys.signing_key(promote)


@pytest.mark.parametrize("command", [cli, rehearse_cli, sweep_cli, promote_cli])
@pytest.mark.parametrize(
    ("promote", "variable", "said"),
    [
        ("{require_proof: true, trusted_keys: [signer.pem.pub]}", "", "promote.require_proof needs a key"),
        ("{signing_key: absent.pem}", "", "promote.signing_key must be a readable file"),
        ("{}", "absent.pem", "REHEARSAL_SIGNING_KEY must be a private key in PEM, or the path of a readable file"),
        ("{signing_key: signer.pem.pub}", "", "must hold a private key, got a public one"),
    ],
)
def test_a_key_that_is_wrong_or_missing_ends_a_command_before_it_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Any,
    promote: str,
    variable: str,
    said: str,
) -> None:
    """Nothing is started and nothing is written; the exit code is that of a configuration error."""
    make_key(tmp_path)
    monkeypatch.setenv(keys.VARIABLE, variable)
    text = "name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"
    text += f"sweep: {{params: {{training.batch_size: [32, 64]}}}}\npromote: {promote}\n"
    (tmp_path / "cfg.yaml").write_text(text)
    before = sorted(tmp_path.iterdir())
    more = ["--model", "models:/m/1"] if command is rehearse_cli else []
    assert command.main(["--config", str(tmp_path / "cfg.yaml"), *more]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.iterdir()) == before


def test_who_only_judges_needs_no_key(own: Signed) -> None:
    """A run with --no-promote, or before a review, signs nothing, and a person's promotion signs elsewhere."""
    promote = required(own).promote.model_copy(update={"signing_key": None})
    assert keys.signing_key(promote, signs=False) is None


def test_a_required_proof_without_trusted_keys_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text("name: m\npromote: {require_proof: true}\n")
    with pytest.raises(ConfigError, match="require_proof needs trusted_keys"):
        load_config(tmp_path / "cfg.yaml")


def test_keys_of_a_configuration_are_relative_to_it(tmp_path: Path) -> None:
    """The private key may be on another machine, such as for a doctor; a trusted public key must be there."""
    make_key(tmp_path)
    text = "name: m\npromote: {require_proof: true, trusted_keys: [signer.pem.pub], signing_key: elsewhere.pem}\n"
    (tmp_path / "cfg.yaml").write_text(text)
    promote = load_config(tmp_path / "cfg.yaml").promote
    assert promote.trusted_keys == (tmp_path / "signer.pem.pub",)
    with pytest.raises(ConfigError, match=r"promote.signing_key must be a readable file, got '.*elsewhere.pem'"):
        keys.signing_key(promote)
    (tmp_path / "signer.pem.pub").unlink()
    with pytest.raises(ConfigError, match=r"'promote.trusted_keys' must name an existing file"):
        load_config(tmp_path / "cfg.yaml")


# --- retention and crashes ----------------------------------------------------------------------------------------


def test_proofs_go_with_the_last_copy_of_their_bytes(tmp_path: Path) -> None:
    path, public = make_key(tmp_path)
    config = config_of(tmp_path, signing_key=path)
    live = [promoted(config) for _ in range(4)]
    digests = [hash_files(version).digest for version in live]
    prune(config.live_dir, config.candidates_dir, "latest", 2, signer=signer_of(config))
    assert {found.name for found in (config.live_dir / PROOFS).iterdir()} == {*digests[2:]}
    for version in live[2:]:
        assert check_version(version, [public]).key_id


def test_a_proof_stays_while_a_candidate_can_be_rolled_back_to(own: Signed) -> None:
    shutil.rmtree(own.other)  # its bytes are still there as a candidate
    prune(own.config.live_dir, own.config.candidates_dir, "latest", 5)
    assert go_back(required(own), 1, "ann").live_dir == own.version.with_name("3")


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_promotion_leaves_no_live_version_without_its_proof(own: Signed, step: int) -> None:
    """It is killed before changes of files; then what is live verifies, and the doctor ends or removes it."""
    number, root = judged(own.config), own.version.parents[2]
    driver = [sys.executable, "tests/proven.py", str(root), str(number), str(step)]
    done = subprocess.run(driver, check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 30 // step
    own.check(versions(own.version.parent)[3])
    assert reported(required(own)) == []
    assert not [*own.version.parent.glob(f"{PROOFS}/*/{PARTIAL}*")]


def test_a_proof_that_cannot_be_written_stops_the_promotion(own: Signed) -> None:
    number = judged(own.config)
    proofs = own.version.parent / PROOFS
    digest = hash_files(own.config.candidates_dir / str(number)).digest
    (proofs / digest).write_text("a file in its place")
    with pytest.raises(StoreError, match="must be"):
        publish(own.config, number)
    assert [*versions(own.version.parent)] == [1, 2]
    assert read_envelope(statement_of(own.version).read_bytes(), PAYLOAD_TYPE).key_id
