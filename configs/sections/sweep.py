"""The section `sweep`: which variants of a model are trained side by side, where, and how they are compared."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator, model_validator

from configs.sections.base import REFERENCE, Section
from configs.sections.gates import METRICS

MOST_VARIANTS = 256
RUNNERS = ("processes", "dask")
RANGE = ("low", "high", "log", "integer")
KEY = re.compile(r"(model\.params\.\w+|training)(\.\w+)+|model\.params\.\w+|seed")
NUMBER_AS_TEXT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)e[-+]?[0-9]+", re.IGNORECASE)
"""What YAML 1.1 reads as text: its floats have a point, and their exponents a sign."""


class Sweep(Section):
    """Variants of one model, trained side by side (`keras-rehearsal sweep`); the best one is then judged."""

    params: dict[str, Any] = Field(
        {},
        description="maps a key (`model.params.NAME`, `training.FIELD` or `seed`) to the list of its values; every "
        "combination is a variant. With draws, a key may have a range instead: `{low: 1.0e-4, high: 0.1, log: true}`, "
        "or with `integer: true`",
    )
    variants: tuple[dict[str, Any], ...] = Field(
        (), description="variants by themselves, each a mapping of such keys to one value; they come before the others"
    )
    draws: int = Field(
        0, ge=0, le=MOST_VARIANTS, description="number of random variants that are drawn from params; 0 takes them all"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the draws")
    metric: str = Field(
        "",
        description="the metric of the validation rows that chooses the winner: one of those of gates.metrics, or your "
        "own `module:function`, of which the highest value wins, unless gates.metrics bounds it by a maximum alone. "
        "Empty means the first of gates.metrics, or else the first that suits the task",
    )
    tries: int = Field(
        2, ge=1, le=10, description="how often a variant is begun when its process is killed or has too little memory"
    )
    worker_timeout_s: float = Field(
        300,
        ge=1,
        description="seconds for which a sweep waits while no worker trains any of its variants, such as until a "
        "cluster has started workers; then it ends with an error",
    )
    threads: int = Field(
        1, ge=0, description="threads of TensorFlow in the process of each variant; 0 leaves the number to TensorFlow"
    )
    runner: str = Field(
        "processes",
        description="where the variants are trained: `processes` of this machine, `dask`, or the `module:Class` "
        "or `./FILE.py:Class` of any task runner of Prefect",
    )
    runner_params: dict[str, Any] = Field(
        {},
        description="arguments of the task runner: `{max_workers: 4}` for processes, `{address: 'tcp://HOST:8786'}` "
        "for a Dask cluster that is running, `{n_workers: 2}` for a local one that Dask starts",
    )

    @field_validator("params")
    @classmethod
    def _has_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, values in value.items():
            _check_key(key)
            (_check_range if isinstance(values, dict) else _check_values)(key, values)
        return value

    @field_validator("variants")
    @classmethod
    def _can_vary(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for variant in value:
            for key, only in variant.items():
                _check_key(key)
                _check_values(key, [only])
        return value

    @field_validator("metric")
    @classmethod
    def _is_a_metric(cls, value: str) -> str:
        if value and value not in METRICS and not REFERENCE.fullmatch(value):
            raise ValueError(f"must be one of {', '.join(METRICS)}, or module:function, or FILE.py:function")
        return value

    @field_validator("runner")
    @classmethod
    def _is_a_runner(cls, value: str) -> str:
        if value not in RUNNERS and not REFERENCE.fullmatch(value):
            raise ValueError(f"must be one of {', '.join(RUNNERS)}, or module:Class, or FILE.py:Class")
        return value

    @model_validator(mode="after")
    def _is_bounded(self) -> Sweep:
        ranges = [key for key, values in self.params.items() if isinstance(values, dict)]
        if ranges and not self.draws:
            raise ValueError(f"must set draws, because params has a range for '{ranges[0]}'")
        if self.draws and not self.params:
            raise ValueError("must say in params what is drawn, because draws is set")
        drawn = self.draws or (math.prod(len(values) for values in self.params.values()) if self.params else 0)
        if drawn + len(self.variants) > MOST_VARIANTS:
            raise ValueError(
                f"must give at most {MOST_VARIANTS} variants, and these are {drawn + len(self.variants):,}: give fewer "
                "values, or set draws"
            )
        return self


def _check_key(key: str) -> None:
    """Raise `ValueError` for a key that must not vary: all else is the same for all variants, above all their rows."""
    if not KEY.fullmatch(key):
        raise ValueError(f"must vary model.params.NAME, training.FIELD or seed only, and '{key}' is none of them")


def _check_values(key: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise ValueError(f"must map '{key}' to a list of values, such as [32, 64], or to a range")
    for text in _texts(values):
        if NUMBER_AS_TEXT.fullmatch(text):
            raise ValueError(
                f"must have numbers with a point and a signed exponent for '{key}', such as 1.0e+5, because YAML reads "
                f"'{text}' as text"
            )


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value."""
    if isinstance(value, str):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _texts(part)


def _check_range(key: str, found: dict[str, Any]) -> None:
    if not {"low", "high"} <= found.keys() <= set(RANGE):
        raise ValueError(f"must have low and high in the range of '{key}', and may have log and integer")
    low, high, integer = found["low"], found["high"], found.get("integer", False)
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in (low, high)):
        raise ValueError(f"must have numbers as low and high of '{key}'; YAML reads 1e-4 as text, write 1.0e-4")
    if any(not isinstance(found.get(name, False), bool) for name in ("log", "integer")):
        raise ValueError(f"must have true or false as log and integer of '{key}'")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"must have a low below high for '{key}', both finite")
    if found.get("log") and low <= 0:
        raise ValueError(f"must have a low above 0 for '{key}', because log is true")
    if integer and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"must have whole numbers as low and high of '{key}', because integer is true")
