"""What declared features cost, over the same work done by hand.

    python -m benchmarks.declared [--rows 100000] [--json FILE]

A CSV file with numbers, categories, an id, booleans and dates is

- read and converted as declared, beside `pandas.read_csv` of the same file with its own guesses;
- trained on for an epoch with the preprocessing in the graph, beside the same network on arrays that NumPy encoded
  before;
- predicted, in batches of 1024 rows, by the same two models.

Each pair is measured in turns in one process, and the median of the ratios is shown.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.ratios import add_json_option, write_ratios

TURNS = 3
FEATURES: dict[str, Any] = {
    "amount": "number", "weight": {"kind": "number", "missing": -1}, "city": "category", "street": "category",
    "customer": "integer_id", "member": "boolean", "day": "date",
}  # fmt: skip


def write_rows(file: Path, rows: int) -> None:
    """Write a table of every kind; the target follows from some of its columns."""
    draw = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + draw.integers(0, 700, rows)
    columns = [
        draw.gamma(2, 60, rows).round(2),
        np.where(draw.random(rows) < 0.05, "", draw.integers(1, 90, rows).astype(str)),
        draw.choice([f"city {n}" for n in range(20)], rows), draw.choice([f"street {n}" for n in range(2000)], rows),
        draw.integers(10**9, 10**9 + 500, rows), draw.choice(["true", "false"], rows), days,
    ]  # fmt: skip
    target = (columns[0] + draw.normal(0, 40, rows) > 110).astype(int)
    lines = (",".join(map(str, row)) for row in zip(*columns, target, strict=True))
    file.write_text("\n".join([",".join([*FEATURES, "late"]), *lines]) + "\n")


WORDS = {
    "read": "time to read declared columns beside pandas.read_csv",
    "train": "time of an epoch with the preprocessing in the graph beside encoded arrays",
    "predict": "time of predictions with the preprocessing in the graph beside encoded arrays",
}


def measured(first: Callable[[], object], second: Callable[[], object]) -> list[tuple[float, float]]:
    """Return the seconds of two functions in each turn."""
    pairs = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        first()
        between = time.perf_counter()
        second()
        pairs.append((between - begun, time.perf_counter() - between))
    return pairs


def main() -> None:
    """Print a table of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    add_json_option(parser)
    args = parser.parse_args()
    ratios = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_rows(directory / "rows.csv", args.rows)
        section = {"file": "rows.csv", "features": FEATURES, "target": {"name": "late", "kind": "category"}}
        (directory / "cfg.yaml").write_text(yaml.safe_dump({"name": "declared", "data": section}))
        for name, pairs in compared(directory).items():
            seconds, by_hand = (statistics.median(column) for column in zip(*pairs, strict=True))
            rounds = ratios[WORDS[name]] = [ours / plain for ours, plain in pairs]
            print(
                f"{name:<8} {args.rows:,} rows: {seconds:.2f} s declared, {by_hand:.2f} s by hand, "
                f"ratio {statistics.median(rounds):.2f}"
            )
    write_ratios(args.json, ratios)


def compared(directory: Path) -> dict[str, list[tuple[float, float]]]:
    """Return seconds declared and seconds by hand of each turn, for each part."""
    import keras
    import pandas as pd
    import tensorflow as tf

    from configs.loading import load_config
    from tasks.datasets.declared_rows import read_declared
    from tasks.datasets.rows import check_rows
    from tasks.savedmodel.structure import pack_features
    from tasks.training.fit import build_model

    config = load_config(directory / "cfg.yaml")
    found = {"read": measured(lambda: read_declared(config.data), lambda: pd.read_csv(directory / "rows.csv"))}
    loaded, classes = read_declared(config.data)
    rows = check_rows(loaded, "rows.csv")
    keras.utils.set_random_seed(0)
    declared = build_model(config, rows, classes)
    target = rows.targets["target"]
    # the layers up to the first hidden one encode; by hand, they run once before the training
    hidden = next(layer for layer in declared.layers if isinstance(layer, keras.layers.Dense))
    packed = pack_features(declared, rows.features)
    encode = keras.Model(declared.inputs, hidden.input)
    batches = tf.data.Dataset.from_tensor_slices(packed).batch(1024)
    encoded = np.concatenate([encode(batch).numpy() for batch in batches])
    plain = keras.Sequential([keras.Input((encoded.shape[1],))])
    for layer in declared.layers[declared.layers.index(hidden) :]:
        plain.add(type(layer).from_config(layer.get_config()))
    plain.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    sources = {"declared": (declared, packed), "by hand": (plain, encoded)}

    def fit(name: str) -> None:
        model, fed = sources[name]
        model.fit(
            tf.data.Dataset.from_tensor_slices((fed, target)).batch(256).prefetch(2), epochs=1, shuffle=False, verbose=0
        )

    def predict(name: str) -> None:
        model, fed = sources[name]
        model.predict(tf.data.Dataset.from_tensor_slices((fed,)).batch(1024), verbose=0)

    for part, work in (("train", fit), ("predict", predict)):
        work("declared")
        work("by hand")  # both are traced by now
        found[part] = measured(lambda work=work: work("declared"), lambda work=work: work("by hand"))  # type: ignore[misc]
    return found


if __name__ == "__main__":
    main()
