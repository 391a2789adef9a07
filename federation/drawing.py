"""How our plots look: SVG elements to be put inside an HTML page.

Every plot is deterministic (no dates, no random ids), keeps its text as text, refers to nothing outside itself, and
brings no style sheet.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.special import ndtr, ndtri

INK: Final = "#22292c"
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "intaglio",
    "path.simplify_threshold": 0.3,
    "text.parse_math": False,  # a dollar in the name of a group is a dollar
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": "#8a9194",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e5e4",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.4,
    "xtick.color": "#565f63",
    "ytick.color": "#565f63",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


@contextmanager
def our_style() -> Iterator[None]:
    """Our style alone, whatever the reader's own configuration of matplotlib says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def set_deviates(axis: Axis, rates: Sequence[float]) -> None:
    """Marks error rates, in percent, on an axis of normal deviates."""
    axis.set_major_locator(FixedLocator([float(ndtri(rate)) for rate in rates]))
    axis.set_major_formatter(lambda deviate, _position: f"{100 * ndtr(deviate):.3g}")
    axis.set_minor_locator(NullLocator())


def svg_element(figure: Figure, name: str, description: str) -> str:
    """Renders a figure.

    Args:
        figure: to be drawn.
        name: makes the ids unique in a page.
        description: for those who cannot see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height)="[\d.]+pt"', "", opening)
    return opening.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"') + ">" + rest
