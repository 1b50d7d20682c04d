"""A model with a signed proof, made by the product's own promotion, without TensorFlow and MLflow.

`python tests/proven.py ROOT N STEP` kills the promotion of candidate N before each STEPth change of a file.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.hazmat.primitives.asymmetric import ec

from configs.schema import Config
from tasks.production.changes import examine
from tasks.production.turn import changing
from tasks.proof import keys
from tasks.proof.approval import APPROVAL_FILE, Approval, sign_approval
from tasks.proof.chain import Signer
from tasks.proof.directory import STATEMENT, proof_dir
from tasks.proof.signing import signer_of
from tasks.records import Change
from tasks.savedmodel.manifest import hash_files
from tasks.store.champion import champion_version
from tasks.store.history import HEAD, HISTORY, read, served_digest, snapshot
from tasks.store.layout import versions
from tasks.store.proven import check_version
from tasks.store.rehearsals import Provenance, recall, save_rehearsal
from tasks.store.transaction import OUTBOX, Result, carry_out
from tests.store_driver import Store

REVIEWER = ec.derive_private_key(3, ec.SECP256R1())
PROVENANCE = Provenance({"name": "m", "seed": 0}, ("keras==3.15.0", "tensorflow==2.21.0"), "0123abc")


def make_key(directory: Path, name: str = "signer") -> tuple[Path, keys.PublicKey]:
    """Return the file of a new private key, and its public key."""
    return directory / f"{name}.pem", keys.new(directory / f"{name}.pem")


def config_of(root: Path, models_root: str = "", **promote: Any) -> Config:
    """Return a configuration whose directories are below a root, and whose MLflow is not there.

    Args:
        models_root: the address of an object store; by default it is a directory.
    """
    root.mkdir(exist_ok=True)
    (root / "a_file").touch()  # in which no database can be
    return Config(
        name="m", work_dir=root / "work", models_root=models_root or root / "models",
        promote=promote, tracking={"uri": f"sqlite:///{root}/a_file/absent.db"},
    )  # fmt: skip


def judged(config: Config) -> int:
    """Export and judge a candidate; return its number."""
    store = Store(config.live_dir, config.candidates_dir, config.work_dir / "aliases.json")
    numbers = max([0, *versions(config.candidates_dir)]) + 1
    number = Plain(**vars(store), signing=signer_of(config)).judge("validated")
    assert number == numbers
    known = recall(config.candidates_dir, store.digest(number))
    assert known is not None
    save_rehearsal(config.candidates_dir, dataclasses.replace(known, provenance=PROVENANCE))
    return number


def publish(config: Config, number: int, **changes: Any) -> Result:
    """Make a candidate live, as a promotion does that a reviewer has approved with a key."""
    entries = read(config.live_dir)
    digest = next(entry.digest for entry in reversed(entries) if entry.version == number)
    champion = champion_version(config.live_dir, "latest")
    approval = sign_approval(Approval("m", digest, number, "r", "ann", "2026-11-27T00:00:00+00:00"), REVIEWER)
    change = Change(
        "publish", number, str(number), digest, str(config.candidates_dir / str(number)), previous=champion,
        previous_digest=served_digest(entries, champion) if champion else "", actor="ann", approval=approval,
    )  # fmt: skip
    with changing(config) as found:
        return carry_out(found, dataclasses.replace(change, **changes))


def promoted(config: Config) -> Path:
    """Return the live directory of a new version."""
    live_dir = publish(config, judged(config)).live_dir
    assert live_dir is not None
    return live_dir


def signed_files(version_dir: Path) -> dict[str, list[Path]]:
    """Return every file that a proof covers, by its kind: add a kind here, and the fuzz test covers it."""
    model_dir = version_dir.parent
    digest = served_digest(read(model_dir), int(version_dir.name))
    proof = sorted(path for path in proof_dir(model_dir, digest).iterdir() if path.is_file())
    kinds = {"statement.dsse.json": "statement", "model.sig": "signature"}
    found: dict[str, list[Path]] = {"model": sorted(path for path in version_dir.rglob("*") if path.is_file())}
    found["history"] = [model_dir / HISTORY, model_dir / HEAD]
    for path in proof:
        kind = "approval" if path.name.endswith(APPROVAL_FILE) else "evidence"
        found.setdefault(kinds.get(path.name, kind), []).append(path)
    return found


def model_signing(version: Path, signature: Path, public: Path) -> subprocess.CompletedProcess[str]:
    """Verify a directory with the command of OpenSSF's model-signing."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(version), "--signature", str(signature)]
    return subprocess.run(
        [*command, "--public_key", str(public)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@dataclasses.dataclass(frozen=True)
class Plain(Store):
    """A store whose servers watch the directory, so that a number needs no claim elsewhere."""

    signing: Signer | None = None

    @property
    def signer(self) -> Signer | None:
        """Return who signs by the configuration."""
        return self.signing

    @property
    def mirror(self) -> Any:
        """Return what claims each number at once."""
        return _Claims()


class _Claims:
    def claim(self, _number: int) -> bool:
        return True


def die_before_change(number: int) -> None:
    """End this process before its next-but-so-many change of a file."""
    left = [number]

    def count(event: str, args: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"):
            left[0] -= 1
            if not left[0]:
                os._exit(9)

    sys.addaudithook(count)


def main(root: Path, number: int, step: int) -> int:
    """Kill a promotion, look at what is live, repair, begin again; return how often it was killed."""
    config = config_of(root, signing_key=root / "signer.pem")
    public = keys.load_public(keys.public_path(root / "signer.pem"))
    stops = 0
    while True:
        before = snapshot(config.live_dir)
        child = os.fork()
        if child == 0:
            die_before_change(stops * step + 1)
            publish(config, number)
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        for version in versions(config.live_dir).values():
            # the line of a new head may be missing until the doctor adds it
            proof = proof_dir(config.live_dir, hash_files(version).digest)
            check_version(version, [public], statement=proof / STATEMENT)
        examine(config, only_look=False)
        for version in versions(config.live_dir).values():
            check_version(version, [public])
        if not died:
            return stops
        stops += 1
        if number in versions(config.live_dir):  # the doctor has finished it; take it back to begin again
            take_back(config, number, before)


def take_back(config: Config, number: int, before: tuple[bytes, bytes]) -> None:
    """Forget that a version was live, so that its promotion can be killed once more."""
    digest = served_digest(read(config.live_dir), number)
    for name, data in zip((HISTORY, HEAD), before, strict=True):
        (config.live_dir / name).write_bytes(data)
    shutil.rmtree(config.live_dir / str(number))
    shutil.rmtree(proof_dir(config.live_dir, digest))
    shutil.rmtree(config.live_dir / OUTBOX)


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))}\n")
