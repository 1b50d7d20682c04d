"""Variants of one small model for sweeps, some of which end badly; named as `tests.data.sweep_models:NAME`."""

from __future__ import annotations

import os
import resource
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


def build(
    _features: Any, rate: float = 0.1, wide: bool = False, ends: str = "", marks: str = "", outputs: int = 1
) -> Any:
    """Return a regression on one number.

    Args:
        rate: of learning; 1e30 makes the loss infinite.
        ends: `raises`; `dies` or `kills the worker` once, which a file in `marks` remembers; `dies always`; `waits`
            until there is a file `go` in `marks`; `has no space` allows its process no file.
        marks: a directory.
        outputs: `y`, and with 2 the hidden layer `z`, too.
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
    if ends == "has no space":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    while ends == "waits" and not Path(marks, "go").exists():
        time.sleep(0.05)
    x = keras.Input((1,), name="x")
    hidden = keras.layers.Dense(4, name="z")(x) if wide or outputs > 1 else x
    y = keras.layers.Dense(1, name="y")(hidden)
    model = keras.Model(x, {"y": y, "z": hidden} if outputs > 1 else y)
    if outputs > 1:
        model.compile(keras.optimizers.SGD(rate), {"y": "mse"})
    else:  # its curve has the name of the metric that the sweep compares
        model.compile(keras.optimizers.SGD(rate), "mse", metrics=[keras.metrics.RootMeanSquaredError(name="rmse")])
    return model
