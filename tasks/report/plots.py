"""Pictures for the MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.rows import Array

PARITY_POINTS = 5000  # more dots than this show nothing more


def _figure(width: float, height: float) -> Any:
    """Return an empty figure of width x height inches; without pyplot there is no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(history: Mapping[str, tuple[float, ...]], best_epoch: int, path: Path) -> None:
    """Draw training and validation figures by epoch, one panel a metric, the kept epoch marked."""
    names = [name for name in history if not name.startswith("val_")]
    figure = _figure(5 * len(names), 3.5)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history:
                axes.plot(range(1, len(history[key]) + 1), history[key], label=label, marker=".")
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(title=name, xlabel="epoch")
        axes.legend()
    figure.savefig(path, dpi=100)


def draw_parity(served: Mapping[str, Array], in_process: Mapping[str, Array], path: Path) -> None:
    """Draw served against in-process values, one panel an output of numbers; a perfect match is the diagonal."""
    names = [name for name, array in in_process.items() if array.dtype.kind in "biuf"]
    figure = _figure(4.5 * max(1, len(names)), 4.5)
    for axes, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names, strict=False):
        x, y = in_process[name].ravel(), served[name].ravel()
        if x.shape != y.shape:
            axes.set_title(f"{name}: shapes differ")
            continue
        step = max(1, len(x) // PARITY_POINTS)
        axes.plot(x[::step], y[::step], ".", markersize=3)
        low, high = float(np.nanmin(x)), float(np.nanmax(x))
        axes.plot([low, high], [low, high], color="grey", linewidth=0.8)
        axes.set(title=name, xlabel="in process", ylabel="served")
    figure.savefig(path, dpi=100)
