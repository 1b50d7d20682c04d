"""Honest challengers pass while the data grow: the simulation of benchmarks/growing_data.py, small."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.growing_data import GATES, Way, by_place, features, is_rejected, nearest

ROWS = 600


@pytest.mark.parametrize("model", [nearest, features])
@pytest.mark.parametrize("way", [Way(), Way(seed=1)], ids=["by row", "seen rows left out"])
def test_honest_challengers_pass(model: Any, way: Way) -> None:
    """Of 200 honest challengers no more are rejected than the confidence of the intervals allows."""
    rejected = sum(is_rejected(number, ROWS, model, way) for number in range(200))
    assert rejected <= round(200 * (1 - GATES.confidence))


@pytest.mark.parametrize(
    "way",
    [Way(by_place, leave_out=False), Way(seed=1, leave_out=False)],
    ids=["split by place", "nothing left out"],
)
def test_the_simulation_finds_what_is_unfair(way: Way) -> None:
    """Split by row numbers, or beside a champion that knows test rows, nearly all of them are rejected."""
    assert sum(is_rejected(number, ROWS, nearest, way) for number in range(20)) >= 18
