"""What two Dask workers save: the training of eight variants side by side and one after the other.

    python -m benchmarks.sweep [--variants 8] [--epochs 46] [--json FILE]

Both are whole sweeps by the command line; their stage `train_variants` is compared, which includes the start of the
cluster and of each TensorFlow process. Every variant trains with one thread, and at least 20 s.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import add_json_option, write_ratios

ROWS, FEATURES, CLASSES, WIDTH = 20_000, 64, 10, 512
LEAST_S = 20.0
ROOT = Path(__file__).parents[1]
SERIES = {"runner": "processes", "runner_params": {"max_workers": 1}}
DASK = {"runner": "dask", "runner_params": {"n_workers": 2}}


def load() -> tuple[Any, Any]:
    """Return float32 (20000, 64), and which of ten random directions each row has the most of."""
    random = np.random.default_rng(1)
    rows = random.standard_normal((ROWS, FEATURES), np.float32)
    return rows, (rows @ random.standard_normal((FEATURES, CLASSES))).argmax(axis=1)


def build(rows: Any, rate: float = 1e-3) -> Any:
    """Return a network of two wide layers, which keep one core busy for half a second an epoch."""
    import keras

    layers = [keras.Input((rows.shape[1],)), *(keras.layers.Dense(WIDTH, activation="relu") for _ in range(2))]
    model = keras.Sequential([*layers, keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def seconds(directory: Path, variants: int, epochs: int, runner: dict[str, Any]) -> tuple[float, list[float]]:
    """Run a sweep; return the seconds of all trainings together, and of each."""
    file = str(Path(__file__).resolve())
    config = {
        "name": "sweep",
        "data": {"load": f"{file}:load"},
        "model": {"build": f"{file}:build"},
        "training": {"epochs": epochs, "patience": 0, "batch_size": 256},
        "serving": {"backend": "embedded"},
        "gates": {"use": ["safety"]},
        "sweep": {"params": {"model.params.rate": [1e-4 * (number + 1) for number in range(variants)]}, **runner},
    }
    directory.mkdir()
    (directory / "cfg.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, "-m", "flows.sweep", "--config", str(directory / "cfg.yaml"), "--no-promote"]
    environment = {**os.environ, "PREFECT_HOME": str(directory / "prefect"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    board = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines() if re.match(r"\d+: rate ", line)]
    each = [float(columns[4]) for columns in board]
    found = re.search(r"(?m)^  train_variants +([\d.]+)$", done.stdout)
    if found is None or len(each) != variants:
        raise SystemExit(done.stdout[-2000:])
    return float(found[1]), each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=46)
    add_json_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        load_before = os.getloadavg()[0]
        series, alone = seconds(Path(scratch) / "series", args.variants, args.epochs, SERIES)
        print(f"in series: {series:.1f} s for {args.variants} variants of {min(alone):.1f} to {max(alone):.1f} s")
        dask, beside = seconds(Path(scratch) / "dask", args.variants, args.epochs, DASK)
        print(
            f"two Dask workers: {dask:.1f} s for {args.variants} variants of {min(beside):.1f} to {max(beside):.1f} s"
        )
    ratio = dask / series
    print(f"ratio: {ratio:.2f} (load before: {load_before:.1f}, cores: {os.cpu_count()})")
    write_ratios(args.json, {"time of variants on two Dask workers beside the same in series": [ratio]})
    if min(alone) < LEAST_S:
        raise SystemExit(f"each variant must train for at least {LEAST_S:g} s, got {min(alone):.1f} s; raise --epochs")


if __name__ == "__main__":
    main()
