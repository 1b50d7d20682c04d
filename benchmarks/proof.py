"""Measure `verify` of a large version, and what writing its proof adds to a publish, beside one SHA-256 pass over it.

    python -m benchmarks.proof [--size-mb 256] [--rounds 5]

The pass is Python's own over the same files, which are in the page cache. `verify` is the whole command, from the start
of Python to its end. The proof is written as a promotion does it: statement, signatures and evidence, each forced to
the disk.
"""

import argparse
import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.publish import make_candidate, seconds
from benchmarks.ratios import add_json_option, write_ratios
from tasks.proof import keys
from tasks.proof.chain import Signer
from tasks.proof.directory import STATEMENT, evidence_file, proof_dir, write_proof
from tasks.proof.envelope import sign
from tasks.proof.model_signing import signature_file
from tasks.proof.statement import PAYLOAD_TYPE, Statement
from tasks.proof.verify import all_files
from tasks.savedmodel.manifest import Manifest, hash_files
from tasks.store.history import append

SIZE_MB = 256
PACKAGES = "".join(f"package-{number}==1.0\n" for number in range(300)).encode()


def prove(directory: Path, manifest: Manifest, key: keys.PrivateKey, target: Path) -> None:
    """Write the proof of files that were hashed already, with a list of packages as its evidence."""
    digest = hashlib.sha256(PACKAGES).hexdigest()
    files = all_files(directory, manifest)
    said = Statement(manifest.digest, files, {"packages.txt": digest}, {"model": "m"})
    evidence: dict[str, Path | bytes] = {evidence_file("packages.txt", digest): PACKAGES}
    write_proof(target, sign(said.payload(), PAYLOAD_TYPE, key), evidence, signature_file("m", files, key), mode=0o644)


def measure(root: Path, size_mb: int, rounds: int) -> list[tuple[float, float, float]]:
    """Return seconds of the pass, of verify, and of writing the proof, a round each."""
    version = root / "m" / "1"
    make_candidate(version, size_mb)
    manifest = hash_files(version)
    keys.new(root / "key.pem")
    key = keys.load_private(root / "key.pem")
    assert key is not None
    append(version.parent, 1, "live", manifest.digest, Signer(key))
    target = proof_dir(version.parent, manifest.digest)
    command = [sys.executable, "-m", "flows.verify", "--dir", str(version), "--key", str(root / "key.pem.pub")]
    times = []
    for _ in range(rounds):
        shutil.rmtree(target, ignore_errors=True)
        writing = seconds(lambda: prove(version, manifest, key, target))
        assert (target / STATEMENT).exists()
        hashing = seconds(lambda: hash_files(version))
        verifying = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        times.append((hashing, verifying, writing))
    return times


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=SIZE_MB, help="size of the version")
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        times = measure(Path(directory), options.size_mb, options.rounds)
    hashing, verifying, writing = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{options.size_mb} MB, median of {options.rounds} rounds{'seconds':>12}{'of the pass':>14}")
    for what, took in (
        ("one SHA-256 pass", hashing),
        ("verify, the whole command", verifying),
        ("writing a proof", writing),
    ):
        print(f"{what:30}{took:>12.3f}{took / hashing:>14.3f}")
    write_ratios(
        options.json,
        {
            "time of verify beside one SHA-256 pass": [whole / one for one, whole, _ in times],
            "time of writing a proof beside one SHA-256 pass": [more / one for one, _, more in times],
        },
    )


if __name__ == "__main__":
    main()
