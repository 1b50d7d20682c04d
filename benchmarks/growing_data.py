"""How many honest challengers are rejected while the data grow.

    python -m benchmarks.growing_data [--runs 200] [--rows 800]

In each run a champion is trained on the data of yesterday, and a challenger, by the same procedure, on those of today:
some rows more, some gone, all in another order. The challenger is honest: what it lacks beside the champion is luck.
Both are judged by the quality gate on the challenger's test rows. Shown are rejections

- by the split of this project, and with another `data.seed` for the challenger, so that it is what the champion has
  seen that is left out;
- with another `data.seed` and nothing left out, and by a split that permutes row numbers, as it once was: what both
  guards are for.

The gate's intervals are two-sided with `gates.confidence`, 0.95: of 200 honest challengers at most 10 may be rejected.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.ratios import add_json_option, write_ratios
from configs.sections.data import Data
from configs.sections.gates import Gates
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.rows import Array
from tasks.datasets.seen import Record, known_to, request_fingerprints
from tasks.datasets.splitting import split_rows
from tasks.gates.quality import AnsweredRows, judge_quality

WIDTH = 8  # features of a row
NOISE = 0.2  # share of targets that are wrong, which a model can know only by heart
GATES = Gates()

Model = Callable[[Array, Array, Array], Array]
Split = Callable[[Array, int], dict[str, Array]]


@dataclass(frozen=True)
class Day:
    """The data of one day: float64 (n, WIDTH) and int64 (n,) of 0 and 1."""

    x: Array
    y: Array


def two_days(seed: int, rows: int) -> tuple[Day, Day]:
    """Return the data of yesterday, and of today: up to a tenth more rows, a twentieth fewer, mixed."""
    rng = np.random.default_rng(seed)
    more, fewer = int(rng.integers(1, rows // 10)), int(rng.integers(0, rows // 20))
    x = rng.normal(size=(rows + more, WIDTH))
    y = ((x[:, :3].sum(axis=1) > 0) ^ (rng.random(len(x)) < NOISE)).astype(np.int64)
    today = rng.permutation(len(x))[fewer:]
    return Day(x[:rows], y[:rows]), Day(x[today], y[today])


def by_row(x: Array, seed: int) -> dict[str, Array]:
    """Split as this project does."""
    return split_rows(Data(load="m:f", seed=seed), {}, fingerprints({"x": x}, "row"))


def by_place(x: Array, seed: int) -> dict[str, Array]:
    """Split by a permutation of row numbers."""
    order = np.random.default_rng(seed).permutation(len(x))
    fifth = len(x) // 5
    return {"test": order[:fifth], "validation": order[fifth : 2 * fifth], "train": order[2 * fifth :]}


def nearest(x: Array, y: Array, asked: Array) -> Array:
    """Answer as the nearest training row does: float64 (n, 1)."""
    distances = (x**2).sum(axis=1) - 2 * asked @ x.T
    return y[distances.argmin(axis=1)].astype(np.float64)[:, None]


def features(x: Array, y: Array, asked: Array) -> Array:
    """Answer by least squares on many random features, which learn much by heart: float64 (n, 1)."""
    weights = np.random.default_rng(0).normal(size=(WIDTH, len(x) // 6))
    known, new = np.tanh(x @ weights), np.tanh(asked @ weights)
    found = np.linalg.solve(known.T @ known + 1e-2 * np.eye(weights.shape[1]), known.T @ (y - 0.5))
    return np.clip(new @ found + 0.5, 0, 1)[:, None]


@dataclass(frozen=True)
class Way:
    """How rows are split, by which seed for the challenger, and whether seen rows are left out."""

    split: Split = by_row
    seed: int = 0
    leave_out: bool = True


def is_rejected(number: int, rows: int, model: Model, way: Way) -> bool:
    """Return whether the quality gate refuses the challenger of one run; one that is not compared is not refused."""
    before, today = two_days(number, rows)
    old, new = way.split(before.x, 0), way.split(today.x, way.seed)
    test_x, test_y = today.x[new["test"]], today.y[new["test"]]
    served = model(today.x[new["train"]], today.y[new["train"]], test_x)
    champion = model(before.x[old["train"]], before.y[old["train"]], test_x)
    record = Record({name: request_fingerprints({"x": before.x[index]}, "m") for name, index in old.items()})
    seen = known_to(record, request_fingerprints({"x": test_x}, "m"), None, ()) if way.leave_out else None
    found = judge_quality(GATES, AnsweredRows(test_y, served, champion, seen=seen))
    return not found.passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=800)
    add_json_option(parser)
    options = parser.parse_args()
    ways = {
        "by row": Way(),
        "by row, another seed, seen rows left out": Way(seed=1),
        "by row, another seed, nothing left out": Way(seed=1, leave_out=False),
        "by place, as it was": Way(by_place, leave_out=False),
        "by place, seen rows left out": Way(by_place),
    }
    allowed = options.runs * (1 - GATES.confidence)
    ratios = {}
    print(f"{options.runs} honest challengers, {options.rows} rows and more; rejected:")
    for title, way in ways.items():
        counts = {
            model.__name__: sum(is_rejected(number, options.rows, model, way) for number in range(options.runs))
            for model in (nearest, features)
        }
        print(f"  {title:<42} " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        if way == Way():
            for name, count in counts.items():
                ratios[f"rejected honest challengers ({name}) beside what the confidence allows"] = [count / allowed]
    write_ratios(options.json, ratios)


if __name__ == "__main__":
    main()
