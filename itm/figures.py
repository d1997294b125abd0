"""Every figure of the project, in one style."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itm.ranking import Ranking

# Okabe and Ito's palette: told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "figure.dpi": 110,
    "svg.fonttype": "none",
}


def score_bars(ranking: Ranking) -> Figure:
    """Scores of one ranking as bars, best on top, with the standard deviation over seeds as whiskers."""
    entries = ranking.entries[::-1]
    figure, (axes,) = _panels(1, 6.4, 0.9 + 0.34 * len(entries))
    spread = [entry.std or 0.0 for entry in entries] if any(entry.std for entry in entries) else None
    axes.barh([entry.model for entry in entries], [entry.score for entry in entries], xerr=spread, capsize=3)
    axes.grid(visible=False, axis="y")
    seeds = max(len(entry.runs) for entry in entries)
    axes.set_xlabel(f"{ranking.scorer.name} score" + (f" (mean ± std of {seeds} seeds)" if seeds > 1 else ""))
    low = min(entry.score - (entry.std or 0) for entry in entries)
    axes.set_xlim(left=min(0.0, low))
    return figure


def score_curves(ranking: Ranking) -> Figure | None:
    """Held-out score over training iterations, a line per model with the range over seeds; None without curves."""
    curves = {e.model: [run.details["curve"] for run in e.runs] for e in ranking.entries if "curve" in e.details}
    if not curves:
        return None
    figure, (axes,) = _panels(1, 6.4, 3.4)
    for i, (model, runs) in enumerate(curves.items()):
        frame = pd.DataFrame(runs)
        colour, dash = COLOURS[i % len(COLOURS)], ("-", "--", ":")[i // len(COLOURS) % 3]
        axes.plot(frame.columns, frame.mean(), dash, color=colour, marker="o", markersize=4, label=model)
        axes.fill_between(frame.columns, frame.min(), frame.max(), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("held-out score")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def sweep_lines(frame: pd.DataFrame, x: str, line: str | None, values: Sequence[str]) -> Figure:
    """What a sweep found: a panel for each value over the swept setting, models side by side.

    Args:
        frame: One row per job and model with the columns ``x``, ``line``, ``model`` and the values.
        x: Column on the horizontal axis.
        line: Column that tells lines of one model apart (by their dash), or None.
        values: Columns to draw, one panel each.
    """
    figure, panels = _panels(len(values), 0.8 + 4.0 * len(values), 3.4)
    groups = [(None, frame)] if line is None else list(frame.groupby(line))
    numeric = pd.api.types.is_numeric_dtype(frame[x])
    for value, axes in zip(values, panels, strict=True):
        for i, model in enumerate(frame["model"].drop_duplicates()):
            for (level, rows), dash in zip(groups, ("-", "--", ":", "-.") * len(groups), strict=False):
                part = rows[rows["model"] == model].sort_values(x)
                label = str(model) if level is None else f"{model}, {line}={level!s}"
                places = part[x] if numeric else part[x].astype(str)
                look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": "os^D"[i // len(COLOURS) % 4]}
                axes.plot(places, part[value], dash, markersize=4, label=label, **look)
        if numeric and frame[x].min() > 0 and frame[x].max() / frame[x].min() >= 50:
            axes.set_xscale("log")
            axes.set_xticks(sorted(frame[x].unique()), [f"{tick:g}" for tick in sorted(frame[x].unique())])
            axes.tick_params(axis="x", labelsize=8)  # powers of four up to 4096 stand side by side
            axes.minorticks_off()
        if value == "seconds":
            axes.set_yscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(value)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, handlelength=4)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as ``<path>.png`` and ``<path>.svg``; returns both paths."""
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, bbox_inches="tight")
    return files


def as_data_uri(figure: Figure) -> str:
    """A figure as a PNG inside a ``data:`` address, for a page that needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=150)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, [figure.add_subplot(1, count, place) for place in range(1, count + 1)]
