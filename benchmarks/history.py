"""Measure what the chain and its signed head cost a line of the history, and what checking a long history takes.

    python -m benchmarks.history [--lines 10000] [--rounds 3]

A plain line is what earlier releases wrote: it is added and forced to the disk. The check and `history --at` read the
whole history; the latter is the whole command, from the start of Python to its end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.publish import seconds
from benchmarks.ratios import add_json_option, write_ratios
from tasks.proof.chain import HISTORY, Signer, chain_problems, encoded
from tasks.store.history import append

LINES, ADDED = 10_000, 50
DIGEST = "a" * 64
SIGNER = Signer(ec.generate_private_key(ec.SECP256R1()))


def plain(file: Path) -> None:
    """Add a line as earlier releases did."""
    line = json.dumps({"time": "2026-11-27T00:00:00.000+00:00", "version": 1, "state": "exported", "digest": DIGEST})
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{line}\n".encode())
    os.fsync(descriptor)
    os.close(descriptor)


def long_history(directory: Path, lines: int) -> None:
    """Write a history of many lines, the last of which is signed."""
    data, last = b"", b""
    for number in range(1, lines):
        time = f"2026-11-{1 + number * 25 // lines:02}T00:00:00.000+00:00"
        fields = {"time": time, "version": number, "state": "exported" if number % 10 else "live", "digest": DIGEST}
        last = encoded({**fields, "run": "", "actor": "ann", "reason": ""}, last)
        data += last
    directory.mkdir()
    (directory / HISTORY).write_bytes(data)
    append(directory, lines, "live", DIGEST, SIGNER)


def measure(root: Path, lines: int) -> dict[str, float]:
    """Return the seconds of each step."""
    short, long = root / "short", root / "m"
    long_history(long, lines)
    assert chain_problems(long, SIGNER.publics) == []
    at = [sys.executable, "-m", "flows.history", "--dir", str(long), "--at", "2026-11-25T03:30Z"]
    return {
        "a plain line": seconds(lambda: [plain(root / "plain") for _ in range(ADDED)]) / ADDED,
        "a line of the chain": seconds(lambda: [append(short, 1, "exported", DIGEST) for _ in range(ADDED)]) / ADDED,
        "a line with a signed head": seconds(lambda: [append(short, 1, "live", DIGEST, SIGNER) for _ in range(ADDED)])
        / ADDED,
        f"the same after {lines:,} lines": seconds(lambda: [append(long, 1, "live", DIGEST, SIGNER) for _ in range(5)])
        / 5,
        f"checking {lines:,} lines": seconds(lambda: chain_problems(long, SIGNER.publics)),
        f"history --at, {lines:,} lines": seconds(lambda: subprocess.run(at, check=True, capture_output=True)),
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=LINES, help="lines of the long history")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    add_json_option(parser)
    options = parser.parse_args()
    times = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as directory:
            times.append(measure(Path(directory), options.lines))
    for what in times[0]:
        print(f"{what:32}{statistics.median(one[what] for one in times) * 1000:>12.2f} ms")
    write_ratios(
        options.json,
        {
            "time of a signed line beside a plain one": [
                one["a line with a signed head"] / one["a plain line"] for one in times
            ]
        },
    )


if __name__ == "__main__":
    main()
