"""Pictures: one function makes each, for a PNG file and for the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.datasets.rows import Array
from tasks.gates.scores import Scored
from tasks.report.canvas import CANDIDATE, CHAMPION, INK, panels, save_png, styled
from tasks.report.judged import Calibration, Confusion, calibrate, confuse, residuals
from tasks.report.tables import clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.records import Leaderboard, ServedChange

MOST_POINTS = 5000  # more dots than this show nothing more
MOST_PANELS = 8  # of one file
MOST_VARIANTS = 60  # lines of a leaderboard; all are in the table
COLOURS = {"candidate": CANDIDATE, "champion": CHAMPION}


def draw_curves(history: Mapping[str, tuple[float, ...]], best_epoch: int, path: Path) -> None:
    """Draw training and validation figures by epoch, one panel a metric, the kept epoch marked."""
    save_png(curves_figure(history, best_epoch), path)


def draw_parity(served: Mapping[str, Array], in_process: Mapping[str, Array], path: Path) -> None:
    """Draw served against in-process values, one panel an output of numbers; a perfect match is the diagonal."""
    save_png(parity_figure(served, in_process), path)


def draw_latency(samples: Mapping[str, Array], path: Path) -> bool:
    """Draw which share of requests was answered in how many milliseconds, one line for each version.

    The return value of this and the following functions says whether there was something to draw.
    """
    return _save(latency_figure(samples) if any(len(times) for times in samples.values()) else None, path)


def draw_change(change: ServedChange, requests: Mapping[str, Array], path: Path) -> bool:
    """Draw the latency of each request over time, with the change and the rollback marked."""
    return _save(change_figure(change, requests) if len(requests.get("due_s", ())) else None, path)


def draw_confusion(scored: Scored, path: Path) -> bool:
    """Draw how often each class was taken for which."""
    found = confuse(scored)
    return _save(confusion_figure(found) if found else None, path)


def draw_residuals(target: Array, served: Array, path: Path) -> bool:
    """Draw target minus served against served."""
    x, residual = residuals(target, served)
    return _save(residuals_figure(x, residual) if len(x) else None, path)


def draw_calibration(scored: Scored, path: Path) -> bool:
    """Draw how often answers of about each probability were right."""
    found = calibrate(scored)
    return _save(calibration_figure(found) if found else None, path)


def draw_leaderboard(board: Leaderboard, path: Path) -> None:
    """Draw the score of each variant of a sweep, the best on top, and name those that failed."""
    save_png(leaderboard_figure(board), path)


def _save(figure: Figure | None, path: Path) -> bool:
    if figure is not None:
        save_png(figure, path)
    return figure is not None


def curve_names(history: Mapping[str, tuple[float, ...]]) -> list[str]:
    """Return the metrics that get a panel: each stands for itself and its validation figure."""
    names = [name for name in history if not (name.startswith("val_") and name.removeprefix("val_") in history)]
    return [name for name in names if len(history[name])][:MOST_PANELS]


@styled()
def curves_figure(history: Mapping[str, tuple[float, ...]], best_epoch: int) -> Figure:
    """Return the training curves."""
    names = curve_names(history)
    figure, all_axes = panels(len(names), 4.2, 2.9)
    for axes, name in zip(all_axes, names, strict=False):
        for key, label, colour in ((name, "training", CHAMPION), (f"val_{name}", "validation", CANDIDATE)):
            values = np.asarray(history.get(key, ()), np.float64)
            if len(values):
                epochs = np.arange(1, len(values) + 1)
                axes.plot(epochs, values, label=label, color=colour, marker="." if len(values) < 15 else "")
        axes.axvline(best_epoch, color=INK, alpha=0.5, linestyle=":", linewidth=1, label=f"kept, epoch {best_epoch}")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _quiet(axes, legend=True)
    return figure


def numeric_outputs(served: Mapping[str, Array], in_process: Mapping[str, Array]) -> list[str]:
    """Return the outputs whose numbers can be drawn against each other."""
    return [
        name
        for name, array in in_process.items()
        if array.dtype.kind in "biuf" and name in served and served[name].shape == array.shape and array.size
        and served[name].dtype.kind in "biuf"
    ][:MOST_PANELS]  # fmt: skip


@styled()
def parity_figure(served: Mapping[str, Array], in_process: Mapping[str, Array]) -> Figure:
    """Return served against in-process values."""
    names = numeric_outputs(served, in_process)
    figure, all_axes = panels(len(names), 4.2, 3.6)
    for axes, name in zip(all_axes, names, strict=False):
        x, y = (arrays[name].ravel().astype(np.float64) for arrays in (in_process, served))
        x, y = _finite(x, y)
        if len(x):
            _line(axes, [float(min(x.min(), y.min())), float(max(x.max(), y.max()))])
        _dots(axes, x, y)
        axes.set(title=name, xlabel="in process", ylabel="served")
        _quiet(axes)
    return figure


@styled()
def latency_figure(samples: Mapping[str, Array]) -> Figure:
    """Return the cumulative distribution of latencies, one line for each version."""
    figure, (axes,) = panels(1, 4.2, 2.9)
    slowest, typical = 0.0, np.inf
    for name, times in samples.items():
        ordered = np.sort(np.asarray(times, np.float64))
        if not len(ordered):
            continue
        slowest, typical = max(slowest, ordered[-1]), min(typical, float(np.median(ordered)))
        share = np.arange(1, len(ordered) + 1) / len(ordered) * 100
        style = "--" if name == "champion" else "-"
        axes.step(ordered, share, where="post", label=name, color=COLOURS.get(name, INK), linestyle=style)
    if typical > 0 and slowest > 20 * typical:  # one slow request would press all others against the axis
        axes.set_xscale("log")
    axes.set(xlabel="milliseconds", ylabel="requests answered, %", ylim=(0, 101), yticks=(0, 25, 50, 75, 95))
    axes.axhline(95, color=INK, alpha=0.5, linestyle=":", linewidth=1)
    _quiet(axes, legend=True, loc="lower right")
    return figure


@styled()
def change_figure(change: ServedChange, requests: Mapping[str, Array]) -> Figure:
    """Return the latency of each request over the time at which it was to be sent, with the change and the rollback."""
    figure, (axes,) = panels(1, 8.4, 2.9)
    due, latency = requests["due_s"], (requests["done_s"] - requests["due_s"]) * 1e3
    by_new = np.where(requests["named"] > 0, requests["named"] == change.new, requests["like_new"])
    answered = requests["status"] == 200
    for name, which, colour in (
        ("champion", answered & ~by_new, CHAMPION),
        ("candidate", answered & by_new, CANDIDATE),
        ("no answer", ~answered, INK),
    ):
        step = -(-int(which.sum()) // MOST_POINTS) or 1
        if which.any():
            axes.plot(
                due[which][::step], latency[which][::step], "o", color=colour, label=name, markersize=3,
                markeredgewidth=0, alpha=0.7, rasterized=True,
            )  # fmt: skip
    marks = {"rename": change.changed_s, "label": change.labelled_s, "rollback": change.rolled_back_s}
    for name, when in marks.items():
        if when is not None:
            axes.axvline(when, color=INK, alpha=0.5, linestyle=":", linewidth=1)
            axes.annotate(
                name, (when, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points"
            )
    if len(latency) and latency.max() > 20 * np.median(latency) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="seconds since the clients began", ylabel="milliseconds to the answer")
    _quiet(axes, legend=True, loc="upper left")
    return figure


@styled()
def confusion_figure(confusion: Confusion) -> Figure:
    """Return the confusion matrix: a cell's tint is its share of the target's rows."""
    from matplotlib.patches import Rectangle

    n_classes = len(confusion.classes)
    side = max(3.6, 1.2 + 0.26 * n_classes)
    figure, (axes,) = panels(1, side + 0.5, side)
    totals = np.maximum(confusion.counts.sum(axis=1), 1)
    small = 8 if n_classes <= 12 else 6
    for row, column in np.argwhere(confusion.counts):
        count, right = int(confusion.counts[row, column]), row == column
        # at most half opaque: the page's text colour stays readable on it, on a light and on a dark page
        tint = 0.15 + 0.35 * count / totals[row]
        colour = CANDIDATE if right else CHAMPION
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=tint, linewidth=0))
        axes.text(column, row, str(count), ha="center", va="center", fontsize=small)
    ticks = range(n_classes)
    labels = [str(name) for name in confusion.classes]
    axes.set(xlim=(-0.5, n_classes - 0.5), ylim=(n_classes - 0.5, -0.5), xlabel="served", ylabel="target")
    axes.set_xticks(ticks, labels, fontsize=small)
    axes.set_yticks(ticks, labels, fontsize=small)
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    return figure


@styled()
def residuals_figure(served: Array, residual: Array) -> Figure:
    """Return residuals against what was served, both float64 of shape (n,)."""
    figure, (axes,) = panels(1, 4.2, 2.9)
    axes.axhline(0, color=INK, alpha=0.5, linewidth=0.8)
    _dots(axes, served, residual)
    axes.set(xlabel="served", ylabel="target - served")
    _quiet(axes)
    return figure


@styled()
def leaderboard_figure(board: Leaderboard) -> Figure:
    """Return the scores of the variants of a sweep, a line each."""
    shown = board.variants[:MOST_VARIANTS]
    figure, (axes,) = panels(1, 6.4, 1.1 + 0.24 * len(shown))
    for line, variant in enumerate(shown):
        if variant.score is None:
            axes.annotate("failed", (0.02, line), xycoords=("axes fraction", "data"), va="center", color=CHAMPION)
            continue
        axes.plot(variant.score, line, "o", color=CANDIDATE if variant is board.winner else INK)
    axes.set_yticks(range(len(shown)), [f"{one.number}: {clip(one.words, 48)}" for one in shown])
    label = f"{board.metric or 'score'} on {board.rows:,} validation rows"
    if len(shown) < len(board.variants):
        label += f"\nthe first {len(shown)} of {len(board.variants)} variants"
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel=label)
    _quiet(axes)
    return figure


@styled()
def calibration_figure(calibration: Calibration) -> Figure:
    """Return the reliability diagram: a dot a bin of rows, as large as the bin is full."""
    figure, (axes,) = panels(1, 4.2, 3.6)
    _line(axes, [0, 1])
    axes.plot(calibration.probability, calibration.observed, color=CANDIDATE, linewidth=0.8)
    area = 14 + 120 * calibration.rows / calibration.rows.max()
    axes.scatter(calibration.probability, calibration.observed, s=area, color=CANDIDATE, linewidth=0)
    axes.set(xlabel="probability served", ylabel=calibration.meaning, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _quiet(axes)
    return figure


def _finite(x: Array, y: Array) -> tuple[Array, Array]:
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def _dots(axes: Any, x: Array, y: Array) -> None:
    """Draw at most MOST_POINTS dots, evenly chosen, as one bitmap: as shapes they would be most of the page."""
    step = -(-len(x) // MOST_POINTS) or 1
    axes.plot(x[::step], y[::step], "o", color=CANDIDATE, markersize=3, markeredgewidth=0, alpha=0.7, rasterized=True)


def _line(axes: Any, ends: list[float]) -> None:
    axes.plot(ends, ends, color=INK, alpha=0.5, linewidth=0.8)


def _quiet(axes: Any, legend: bool = False, loc: str = "best") -> None:
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, width=0.6)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc=loc)
