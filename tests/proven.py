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

from configs.schema import Config
from tasks.production.changes import changing, examine
from tasks.proof import keys
from tasks.proof.directory import proof_dir
from tasks.records import Change
from tasks.store.champion import champion_version
from tasks.store.history import HISTORY, read, served_digest
from tasks.store.layout import versions
from tasks.store.proven import check_version
from tasks.store.rehearsals import Provenance, recall, save_rehearsal
from tasks.store.transaction import OUTBOX, Result, carry_out
from tests.store_driver import Store

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
    number = Plain(**vars(store)).judge("validated")
    assert number == numbers
    known = recall(config.candidates_dir, store.digest(number))
    assert known is not None
    save_rehearsal(config.candidates_dir, dataclasses.replace(known, provenance=PROVENANCE))
    return number


def publish(config: Config, number: int, **changes: Any) -> Result:
    """Make a candidate live, as a promotion does."""
    entries = read(config.live_dir)
    digest = next(entry.digest for entry in reversed(entries) if entry.version == number)
    champion = champion_version(config.live_dir, "latest")
    change = Change(
        "publish", number, str(number), digest, str(config.candidates_dir / str(number)), previous=champion,
        previous_digest=served_digest(entries, champion) if champion else "", actor="ann",
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
    for path in proof:
        found.setdefault(kinds.get(path.name, "evidence"), []).append(path)
    return found


def model_signing(version: Path, signature: Path, public: Path) -> subprocess.CompletedProcess[str]:
    """Verify a directory with the command of OpenSSF's model-signing."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(version), "--signature", str(signature)]
    return subprocess.run(
        [*command, "--public_key", str(public)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


class Plain(Store):
    """A store whose servers watch the directory, so that a number needs no claim elsewhere."""

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
        child = os.fork()
        if child == 0:
            die_before_change(stops * step + 1)
            publish(config, number)
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        for version in versions(config.live_dir).values():
            check_version(version, [public])
        examine(config, only_look=False)
        for version in versions(config.live_dir).values():
            check_version(version, [public])
        if not died:
            return stops
        stops += 1
        if number in versions(config.live_dir):  # the doctor has finished it; take it back to begin again
            take_back(config, number)


def take_back(config: Config, number: int) -> None:
    """Forget that a version was live, so that its promotion can be killed once more."""
    digest = served_digest(read(config.live_dir), number)
    history = config.live_dir / HISTORY
    lines = history.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if f'"version": {number}, "state": "live"' in line)
    history.write_text("".join(lines[:first]))
    shutil.rmtree(config.live_dir / str(number))
    shutil.rmtree(proof_dir(config.live_dir, digest))
    shutil.rmtree(config.live_dir / OUTBOX)


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))}\n")
