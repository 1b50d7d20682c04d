"""Variants of one small model for sweeps, some of which end badly; named as `tests.data.sweep_models:NAME`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 120


def line() -> tuple[Any, Any]:
    """Return x as float64 (120,) and 2 x + 1."""
    x = np.linspace(-1, 1, ROWS)
    return {"x": x}, 2 * x + 1


def build(_features: Any, rate: float = 0.1, wide: bool = False, ends: str = "", marks: str = "") -> Any:
    """Return a regression on one number.

    Args:
        rate: of learning; 1e30 makes the loss infinite.
        ends: `raises`; `dies` or `kills the worker` once, which a file in `marks` remembers; `dies always`; `waits`
            until there is a file `go` in `marks`.
        marks: a directory.
    """
    import keras

    if ends == "raises":
        raise ValueError("this variant cannot be built")
    first = False
    if marks:
        mark = Path(marks, f"{ends.replace(' ', '-')}-{os.getpid()}")
        first = not list(mark.parent.glob(f"{ends.replace(' ', '-')}-*"))
        mark.touch()
    if ends == "dies always" or (ends == "dies" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if ends == "kills the worker" and first:
        os.kill(os.getppid(), signal.SIGKILL)  # this process ends with it
        time.sleep(600)
    while ends == "waits" and not Path(marks, "go").exists():
        time.sleep(0.05)
    x = keras.Input((1,), name="x")
    hidden = keras.layers.Dense(4)(x) if wide else x
    model = keras.Model(x, keras.layers.Dense(1, name="y")(hidden))
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model
