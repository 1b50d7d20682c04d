"""Whether versions can be made again byte for byte: a run of each example, and rebuilds of its version.

    python -m benchmarks.rebuild [--rebuilds 20] [NAME...] [--json FILE]

Each example of configs/ is trained and judged once by `run`. Then its version is trained and exported again, each time
in a process of its own, as `rebuild` does, and the digests are compared. The ratio is the share of rebuilds with other
bytes, which is 0.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ratios import add_json_option, write_ratios
from configs.loading import load_config
from tasks.rebuild import find_made, rebuild

EXAMPLES = ("digits", "penguins")


def overrides(directory: Path) -> list[str]:
    """Return the settings that keep everything of an example in one directory."""
    places = {"work_dir": "work", "models_root": "models"}
    found = [f"{field}={directory / place}" for field, place in places.items()]
    return [*found, f"tracking.uri=sqlite:///{directory}/mlflow.db", "serving.backend=embedded"]


def main() -> None:
    """Run each example once, rebuild it several times, and print how many rebuilds had the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=EXAMPLES, metavar="NAME", help="examples in configs/")
    parser.add_argument("--rebuilds", type=int, default=20, help="of each example")
    add_json_option(parser)
    args = parser.parse_args()
    ratios = {}
    for name in args.names:
        file = Path("configs") / f"{name}.yaml"
        with tempfile.TemporaryDirectory(prefix="rebuild-") as directory:
            items = overrides(Path(directory))
            options = [word for item in items for word in ("--set", item)]
            command = [sys.executable, "-m", "flows.train_and_serve", "--config", str(file), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            config = load_config(file, items)
            made = find_made(config, 1, Path(directory) / "found")
            same, seconds = [], []
            for number in range(args.rebuilds):
                scratch = Path(directory) / f"rebuilt-{number}"
                scratch.mkdir()
                begun = time.monotonic()
                found = rebuild(config, made, scratch)
                seconds.append(time.monotonic() - begun)
                same.append(found.same)
                print(f"{name} {number + 1}: {found.digest[:12]} {seconds[-1]:.1f} s", flush=True)
        print(f"{name}: {sum(same)} of {len(same)} rebuilds have the digest {made.recorded.digest[:12]} of the run")
        ratios[f"rebuilds of {name} with other bytes"] = [1 - sum(same) / len(same)]
    write_ratios(args.json, ratios)


if __name__ == "__main__":
    main()
