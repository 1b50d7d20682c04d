"""Proofs in a real object store, and verified by the command of another project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.objects.bucket import Bucket
from tasks.objects.live import LIVE, Live, read_live
from tasks.objects.store import mirror_of
from tasks.objects.upkeep import damaged, sweep
from tasks.production.changes import go_back
from tasks.production.turn import changing
from tasks.proof.directory import PROOFS, SIGNATURE, STATEMENT, proof_dir
from tasks.proof.keys import load_private, public_path
from tasks.proof.model_signing import signature_file
from tasks.proof.verify import all_files
from tasks.savedmodel.manifest import hash_files
from tasks.store.layout import versions
from tasks.store.proven import check_version
from tasks.store.retention import prune
from tests.proven import config_of, make_key, model_signing, promoted
from tests.store_driver import bucket_at

# botocore calls datetime.utcnow() on the way
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


def test_the_command_of_model_signing_verifies_the_live_directory(tmp_path: Path) -> None:
    """It accepts the live directory with the signature beside it, and refuses a changed file and another key."""
    key, _ = make_key(tmp_path)
    make_key(tmp_path, "stranger")
    version = promoted(config_of(tmp_path, signing_key=key))
    signature = proof_dir(version.parent, hash_files(version).digest) / SIGNATURE
    accepted = model_signing(version, signature, public_path(key))
    assert (accepted.returncode, accepted.stdout.strip()) == (0, "Verification succeeded"), accepted.stderr
    assert model_signing(version, signature, tmp_path / "stranger.pem.pub").returncode == 1
    changed = version / "saved_model.pb"
    changed.unlink()
    changed.write_bytes(b"other")
    refused = model_signing(version, signature, public_path(key))
    assert refused.returncode == 1
    assert "saved_model.pb" in refused.stdout + refused.stderr


def test_the_proof_of_a_version_with_directories_and_odd_names(tmp_path: Path) -> None:
    """Paths that sort otherwise as texts than as paths have one order, which model-signing's command accepts."""
    key, _ = make_key(tmp_path)
    config = config_of(tmp_path, signing_key=key)
    for name in ("a/b", "a-c", "a.d/e", "ä ö/ü", "Z"):
        path = config.candidates_dir / "names" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    directory, private = config.candidates_dir / "names", load_private(key)
    assert private is not None
    signature = tmp_path / "names.sig"
    signature.write_bytes(signature_file("m", all_files(directory, hash_files(directory)), private))
    accepted = model_signing(directory, signature, public_path(key))
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr


def test_a_second_machine_has_the_proof_of_what_the_first_one_promoted(address: str, tmp_path: Path) -> None:
    """The proof goes through the object store: the other machine verifies and rolls back, and gone versions take it."""
    key, public = make_key(tmp_path)
    demand = {"trusted_keys": (public_path(key),), "require_proof": True}
    ours = config_of(tmp_path / "a", address, signing_key=key, **demand)
    theirs = config_of(tmp_path / "b", address, **demand)
    first, second = promoted(ours), promoted(ours)
    with changing(theirs) as found:
        here = versions(found.model_dir)
        for number, version in ((1, first), (2, second)):
            assert here[number] != version
            assert check_version(here[number], [public]).statement == check_version(version, [public]).statement
    promotion = go_back(theirs, None, "ann")
    assert promotion.live_dir is not None
    # the other machine has no key, so that its lines of the history are unsigned
    proof = check_version(promotion.live_dir, [public], allow_unsigned=True)
    assert proof.key_id
    assert proof.statement.digest == hash_files(first).digest
    live = live_of(address)
    assert live.proofs.keys() == {hash_files(first).digest, hash_files(second).digest}


def test_a_proof_that_was_lost_beside_the_versions_is_fetched_again(address: str, tmp_path: Path) -> None:
    key, public = make_key(tmp_path)
    config = config_of(tmp_path, address, signing_key=key)
    version = promoted(config)
    statement = proof_dir(version.parent, hash_files(version).digest) / STATEMENT
    statement.unlink()
    with changing(config):
        assert check_version(version, [public]).key_id


def test_a_proof_that_was_damaged_in_the_store_holds_up_no_rollback(address: str, tmp_path: Path) -> None:
    """Another machine goes on without it; the doctor of a machine that has it uploads it again."""
    key, public = make_key(tmp_path)
    ours, theirs = config_of(tmp_path / "a", address, signing_key=key), config_of(tmp_path / "b", address)
    first, _ = promoted(ours), promoted(ours)
    digest = hash_files(first).digest
    proved = live_of(address).proofs[digest]
    objects = {found.key for found in bucket_at(address).objects(f"m/{proved.path}/")}
    (statement,) = [name for name in objects if name.endswith(STATEMENT)]
    bucket_at(address).remove([statement])
    with changing(theirs) as found:
        assert not proof_dir(found.model_dir, digest).exists()
    mirror = mirror_of(ours)
    assert mirror is not None
    with changing(ours):
        (told,) = damaged(mirror)
    assert (told.done, "uploaded again" in told.text) == ("finished", True)
    promotion = go_back(theirs, None, "ann")
    assert promotion.live_dir is not None
    assert check_version(promotion.live_dir, [public], allow_unsigned=True).key_id


def test_the_doctor_removes_proofs_that_nothing_names(address: str, tmp_path: Path) -> None:
    """Old versions are named no more, and neither are their proofs; the doctor removes both from the store."""
    key, _ = make_key(tmp_path)
    config = config_of(tmp_path, address, signing_key=key)
    live = [promoted(config) for _ in range(3)]
    with changing(config) as found:
        prune(found.model_dir, config.candidates_dir, "latest", 1)
        found.show()
        mirror = mirror_of(config)
        assert mirror is not None
        sweep(mirror, older_s=0)
    kept = {hash_files(path).digest for path in versions(config.live_dir).values()}
    assert len(kept) == 2 < len(live)
    assert live_of(address).proofs.keys() == kept
    uploads = {found.key.split("/")[3] for found in bucket_at(address).objects("m/proofs/")}
    assert len(uploads) == 2
    assert {path.name for path in (config.live_dir / PROOFS).iterdir()} == kept


def live_of(address: str) -> Live:
    """Return what the store says is live."""
    bucket: Bucket = bucket_at(address)
    found = bucket.read(f"m/{LIVE}")
    assert found is not None
    assert found.content is not None
    return read_live(found.content, "m", "here")
