"""How every picture looks, as a PNG file and as SVG inside the page.

matplotlib's own SVG is a file of its own: in a page the ids of several pictures clash (`figure_1`, `axes_1` in each),
the ink is black on a dark page too, its fonts are not the page's, and nothing names the picture to a screen reader.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1b1f24"  # text and axes; inside the page it becomes the page's own text colour
CANDIDATE = "#3b7fc4"  # at least 3:1 against the white and against the dark page, so that dots can be a bitmap
CHAMPION = "#c4661f"  # likewise

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and takes the page's font
    "text.parse_math": False,  # a metric may be called `$x`
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this project's style; matplotlib reads it when the parts of a picture are made."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # a name may be in a script that DejaVu lacks; the browser has a font for it
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of width x height inches; without pyplot there is no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(n_panels: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """Return a figure with `n_panels` axes side by side, each of width x height inches."""
    figure = new_figure(width * max(1, n_panels), height)
    return figure, list(figure.subplots(1, max(1, n_panels), squeeze=False)[0])


@styled()
def save_png(figure: Figure, path: Path) -> None:
    """Write a picture as PNG on white, for MLflow."""
    figure.savefig(path, dpi=110, format="png", facecolor="white")


@styled()
def inline_svg(figure: Figure, key: str, sentence: str) -> Markup:
    """Return a picture as an `<svg>` element for a page with several of them.

    Args:
        key: a word of letters and digits, of its own for each picture of the page; it begins every id.
        sentence: what the picture shows, for screen readers.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": key}):
        figure.savefig(buffer, dpi=150, format="svg", facecolor="none")
    written = buffer.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", written[written.index("<svg") :], count=1, flags=re.DOTALL)
    body = _own_ids(body.replace("xlink:href=", "href="), key).replace(INK, "currentColor")
    # the page sets the font; only sizes are the picture's
    body = re.sub(r"font-family: [^;\"]*;? ?", "", re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body))
    width, height = (72 * inches for inches in figure.get_size_inches())
    opening = (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{key}-title">'
        f'<title id="{key}-title">{escape(sentence)}</title>'
    )
    # everything that matplotlib writes from outside is text, which it has escaped
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1))  # noqa: S704


def _own_ids(svg: str, key: str) -> str:
    """Begin every id that is referred to with the picture's key, and drop the others."""
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r"(url\(|href=\")#", rf"\1#{key}-", svg)
