"""Measure the publish of a large SavedModel beside `cp -r` and `sync` of the same files.

    python -m benchmarks.publish [--size-mb 1024] [--rounds 5] [--dir DIR]

Both take turns on one file system, in a directory that is removed at the end. A publish is what a promotion does to
production: the journal, hard links into staging, one pass that hashes every byte, one rename, history and outbox, each
forced to the disk. The hash pass is timed where it happens, inside the publish.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ratios import add_json_option, write_ratios
from tasks.records import Change
from tasks.savedmodel.manifest import write_manifest
from tasks.store import publish as publishing_store
from tasks.store.lock import model_lock
from tasks.store.transaction import Production, carry_out

SHARDS = 4
CHUNK = 1 << 20


def make_candidate(directory: Path, size_mb: int) -> str:
    """Fill a version directory as a large export does: a small graph and a few shards of weights; return its digest."""
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(os.urandom(200_000))
    for shard in range(SHARDS):
        with (directory / "variables" / f"variables.data-{shard:05d}-of-{SHARDS:05d}").open("wb") as stream:
            for _ in range(size_mb // SHARDS):
                stream.write(os.urandom(CHUNK))
    return write_manifest(directory).digest


def seconds(action: Callable[[], Any]) -> float:
    """Return how long something takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def copy(source: Path, target: Path) -> None:
    """Do what people do by hand."""
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync"], check=True)


@contextmanager
def hashing_timed() -> Iterator[list[float]]:
    """Collect the seconds of each hash pass of the store in a block."""
    passes: list[float] = []
    verify = publishing_store.verify_manifest

    def timed(directory: Path, digest: str) -> Any:
        begin = time.perf_counter()
        try:
            return verify(directory, digest)
        finally:
            passes.append(time.perf_counter() - begin)

    publishing_store.verify_manifest = timed
    try:
        yield passes
    finally:
        publishing_store.verify_manifest = verify


def publish(model_dir: Path, candidate: Path, digest: str, version: int) -> None:
    """Make a candidate live as a promotion does, with nobody to be asked or told."""
    production = Production(model_dir, "latest", lambda change: "", lambda change: None)
    with model_lock(model_dir, 60):
        result = carry_out(production, Change("publish", version, str(version), digest, str(candidate)))
    assert result.state == "live"


def measure(root: Path, size_mb: int, rounds: int) -> list[tuple[float, float, float]]:
    """Return seconds of copy and sync, of publish, and of its hash pass alone, a round each."""
    candidate, model_dir, copied = root / "candidate", root / "live" / "m", root / "copied"
    digest = make_candidate(candidate, size_mb)
    os.sync()
    times = []
    for version in range(1, rounds + 1):
        copying = seconds(lambda: copy(candidate, copied))
        shutil.rmtree(copied)
        os.sync()
        with hashing_timed() as passes:
            publishing = seconds(lambda number=version: publish(model_dir, candidate, digest, number))
        [hashing] = passes
        times.append((copying, publishing, hashing))
    return times


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1024, help="size of the SavedModel")
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn")
    parser.add_argument("--dir", type=Path, help="where; its file system is what is measured (default: temporary)")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        times = measure(Path(directory), options.size_mb, options.rounds)
    copying, publishing, hashing = (statistics.median(column) for column in zip(*times, strict=True))
    rest = statistics.median(whole - hashed for _, whole, hashed in times)
    print(f"{options.size_mb} MB, median of {options.rounds} rounds{'seconds':>21}{'of cp -r + sync':>18}")
    for what, took in (
        ("cp -r + sync", copying),
        ("publish in all", publishing),
        ("its one hash pass (SHA-256)", hashing),
        ("the rest: links, renames, fsyncs, notes", rest),
    ):
        print(f"{what:42}{took:>10.3f}{took / copying:>18.3f}")
    write_ratios(
        options.json,
        {
            "time of a publish beside cp -r and sync": [whole / copied for copied, whole, _ in times],
            "time of a publish without its hash pass beside cp -r and sync": [
                (whole - hashed) / copied for copied, whole, hashed in times
            ],
        },
    )


if __name__ == "__main__":
    main()
