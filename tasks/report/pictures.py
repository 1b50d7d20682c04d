"""Which pictures a rehearsal has, each with the sentence that carries its key number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from configs.schema import Config
from tasks.datasets.rows import load_arrays
from tasks.records import TrainedModel, ValidationReport
from tasks.report import plots
from tasks.report.canvas import inline_svg
from tasks.report.judged import Judged, calibrate, confuse, judged_answers, residuals
from tasks.report.tables import clip, number
from tasks.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        heading: what it is. sentence: what it shows. svg: itself. wide: whether it needs more than a phone's width.
    """

    heading: str
    sentence: str
    svg: Markup
    wide: bool = False


def draw_pictures(config: Config, trained: TrainedModel, report: ValidationReport, directory: Path) -> None:
    """Write every picture that the rehearsal has into a directory, as `<name>.png`."""
    if plots.curve_names(trained.history):
        plots.draw_curves(trained.history, trained.best_epoch, directory / "curves.png")
    if report.served is None:
        return
    plots.draw_parity(
        load_arrays(report.served.answers), load_arrays(report.candidate.reference), directory / "parity.png"
    )
    if report.served.latency is not None:
        plots.draw_latency(load_arrays(report.served.latency.samples), directory / "latency.png")
    change = report.served.change
    if change is not None and change.requests is not None:
        plots.draw_change(change, load_arrays(change.requests), directory / "change.png")
    judged = judged_answers(config, report)
    if judged and judged.scored.reading.task == "regression":
        plots.draw_residuals(judged.scored.target, judged.scored.served, directory / "residuals.png")
    elif judged:
        plots.draw_confusion(judged.scored, directory / "confusion.png")
        plots.draw_calibration(judged.scored, directory / "calibration.png")


def training_pictures(trained: TrainedModel) -> Iterator[Picture]:
    """Yield the curve of each metric."""
    for index, name in enumerate(plots.curve_names(trained.history)):
        key = f"val_{name}" if trained.history.get(f"val_{name}") else name
        values, best = trained.history[key], trained.best_epoch
        kept = values[min(max(best, 1), len(values)) - 1]
        sentence = f"{key} is {number(kept)} at epoch {best} of {len(values)}, whose weights were kept."
        both = {part: trained.history[part] for part in (name, f"val_{name}") if part in trained.history}
        yield _picture(f"curve{index}", name, sentence, plots.curves_figure(both, best))


def answer_pictures(config: Config, report: ValidationReport) -> Iterator[Picture]:
    """Yield what the answers look like: confusion or residuals, calibration, parity."""
    if report.served is None:
        return
    judged = judged_answers(config, report)
    if judged and judged.scored.reading.task == "regression":
        yield from _regression(judged)
    elif judged:
        yield from _classification(judged)
    served, in_process = load_arrays(report.served.answers), load_arrays(report.candidate.reference)
    for index, name in enumerate(plots.numeric_outputs(served, in_process)):
        with np.errstate(invalid="ignore"):
            difference = np.abs(served[name].astype(np.float64) - in_process[name].astype(np.float64))
        finite = difference[np.isfinite(difference)]
        sentence = (
            f"Served against in-process {clip(name, 60)}: the largest difference of {difference.size:,} numbers is "
            f"{number(float(finite.max()) if len(finite) else np.nan)}"
            + (f", and {difference.size - len(finite):,} cannot be compared." if len(finite) < difference.size else ".")
        )
        figure = plots.parity_figure({name: served[name]}, {name: in_process[name]})
        yield _picture(f"parity{index}", f"Parity of {clip(name, 60)}", sentence, figure)


def latency_pictures(report: ValidationReport) -> Iterator[Picture]:
    """Yield the distribution of latencies."""
    if report.served is None or report.served.latency is None:
        return
    samples = {name: times for name, times in load_arrays(report.served.latency.samples).items() if len(times)}
    if samples:
        parts = [f"{number(float(np.percentile(times, 95)), 'ms')} for the {name}" for name, times in samples.items()]
        sentence = f"95 of 100 requests were answered within {' and '.join(parts)}."
        yield _picture("latency", "Requests answered within a time", sentence, plots.latency_figure(samples))


def change_pictures(report: ValidationReport) -> Iterator[Picture]:
    """Yield the latency of the requests while the candidate replaced the champion and was taken back."""
    change = report.served.change if report.served else None
    requests = load_arrays(change.requests) if change and change.requests else {}
    if change is not None and len(requests.get("due_s", ())):
        gate = next((gate for gate in report.gates if gate.name == "change"), None)
        sentence = f"{gate.summary[:1].upper()}{gate.summary[1:]}." if gate else "Latency during the change."
        yield _picture(
            "change", "The change, rehearsed", clip(sentence, 400), plots.change_figure(change, requests), True
        )


def _classification(judged: Judged) -> Iterator[Picture]:
    confusion = confuse(judged.scored)
    if confusion is not None:
        right, rows = int(np.trace(confusion.counts)), int(confusion.counts.sum())
        sentence = f"{right:,} of {rows:,} rows ({right / rows:.1%}) were served as the class that they are"
        wrong = confusion.counts - np.diag(np.diag(confusion.counts))
        if wrong.any():
            target, got = np.unravel_index(int(wrong.argmax()), wrong.shape)
            sentence += (
                f"; the most frequent mistake is {confusion.classes[got]} for {confusion.classes[target]} "
                f"({counted(int(wrong.max()), 'row')})"
            )
        figure = plots.confusion_figure(confusion)
        wide = len(confusion.classes) > 12
        yield _picture("confusion", f"Confusion matrix of {clip(judged.output, 60)}", f"{sentence}.", figure, wide)
    calibration = calibrate(judged.scored)
    if calibration is not None:
        sentence = (
            f"Probabilities served and what came true lie {calibration.error:.3f} apart on average "
            f"(expected calibration error of {len(calibration.rows)} bins)."
        )
        yield _picture("calibration", "Calibration", sentence, plots.calibration_figure(calibration))


def _regression(judged: Judged) -> Iterator[Picture]:
    served, residual = residuals(judged.scored.target, judged.scored.served)
    if len(residual):
        left_out = judged.scored.target.size - len(residual)
        sentence = (
            f"Target minus served over {len(residual):,} numbers: root mean square "
            f"{number(float(np.sqrt(np.mean(residual**2))))}, mean {number(float(residual.mean()))}"
            + (f"; {left_out:,} that are not finite are left out." if left_out else ".")
        )
        figure = plots.residuals_figure(served, residual)
        yield _picture("residuals", f"Residuals of {clip(judged.output, 60)}", sentence, figure)


def _picture(key: str, heading: str, sentence: str, figure: Figure, wide: bool = False) -> Picture:
    for axes in figure.axes:
        axes.set_title("")  # the heading says it
    return Picture(heading, sentence, inline_svg(figure, key, sentence), wide)
