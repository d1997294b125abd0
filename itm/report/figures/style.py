"""The style of all figures: colours, sizes, words for columns, and how a figure becomes a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter

from itm.report.pictures import data_uri

# Okabe and Ito's palette: distinct for every colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv"
STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "figure.dpi": 110,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may hold dollar signs
}
WORDS = {
    "batch_size": "batch size (images)",
    "eta": "inner learning rate η",
    "eta_lambda_max": "η·λ_max (above 2 η is lowered)",
    "n": "inner steps n",
    "n_b": "added steps n_b",
    "regret (points)": "regret (accuracy points)",
    "score": "score",
    "seconds": "scoring time (s)",
    "steps": "inner steps n",
    "tau_w (scipy)": "weighted Kendall's tau (scipy's)",
}
"""Label of a column on an axis or over a legend; other columns keep their own name."""


def axis_label(column: str) -> str:
    """Return the name of a column as a reader sees it."""
    return WORDS.get(column, column)


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a colour and a marker by name: the same in every figure of the same names, and distinct for 35 names."""
    return {name: point_style(place) for place, name in enumerate(sorted(names))}


def point_style(number: int) -> dict[str, Any]:
    """Return the colour and the marker of a number: no palette of ten colours is distinct for every colour vision."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}


def panels(count: int, width: float, height: float, title: str | None = None) -> tuple[Figure, list[Axes]]:
    """Return a figure with some axes side by side, all in the style."""
    figure = blank(width, height, title)
    with mpl.rc_context(STYLE):
        return figure, [figure.add_subplot(1, count, place) for place in range(1, count + 1)]


def blank(width: float, height: float, title: str | None = None) -> Figure:
    """Return an empty figure of the given size in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        if title:
            figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        return figure


def legend_beside(axes: Axes, **settings: Any) -> None:
    """Put the legend to the right of the axes, where it hides nothing."""
    axes.legend(**{"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False, "fontsize": 8, **settings})


def logarithmic(axes: Axes, direction: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with numbers at the powers of ten; where it spans few, also at 2 and 5 times these."""
    axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    low, high = axes.get_xlim() if direction == "x" else axes.get_ylim()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as ``<path>.png`` and ``<path>.svg``; returns both paths."""
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        _write(figure, file)
    return files


def as_data_uri(figure: Figure) -> str:
    """Return a figure as a PNG inside a ``data:`` address, for a page that needs no other file."""
    buffer = io.BytesIO()
    _write(figure, buffer, format="png", dpi=150)
    return data_uri(buffer.getvalue())


def _write(figure: Figure, target: Path | io.BytesIO, **settings: Any) -> None:
    """Write a figure without reading any text as a formula, also tick labels that are made only now."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        # one line per character of a script that matplotlib's font lacks; the tables beside the figure have the names
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(target, bbox_inches="tight", **settings)
