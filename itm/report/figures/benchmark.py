"""Figures of scorers over several datasets, in the form of the paper's."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itm.metrics.uncertainty import win_rate
from itm.report.figures.style import COLOURS, MARKERS, STYLE, axis_label, blank, legend_beside, panels


def benchmark_dots(table: pd.DataFrame, title: str | None = None, chance: float | None = None) -> Figure:
    """Draw a row per scorer, a dot per column (dataset or statistic), the mean as a bar; best on top.

    Args:
        table: Result of :func:`itm.evaluation.benchmark.by_dataset`; of :func:`itm.evaluation.benchmark.benchmark`,
            whose 95 % intervals of the mean are drawn; or of :func:`itm.evaluation.benchmark.by_metric`.
        title: Stands above the panel.
        chance: Standard deviation of a random order's weighted tau on one dataset, drawn as a band around 0.
    """
    columns = _datasets(table)
    figure, (axes,) = panels(1, 6.8, 1.1 + 0.32 * len(table), title)
    places = np.arange(len(table))
    if chance is not None:
        axes.axvspan(-chance, chance, color="0.93", zorder=0, label=f"random order,\none dataset: 0 ± {chance:.2f}")
    for i, column in enumerate(columns):
        apart = 0.5 * ((i + 0.5) / len(columns) - 0.5)  # equal values stay visible
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.plot(table[column], places + apart, linestyle="", markersize=5, label=column, **style)
    if "low" in table and table["low"].notna().any():
        axes.hlines(places, table["low"], table["high"], color="0.75", linewidth=5, zorder=1, label="95 % of the mean")
    if "mean" in table:
        axes.plot(table["mean"], places, "|", color="0.2", markersize=14, markeredgewidth=2, label="mean")
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(places, _names(table))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel(axis_label("tau_w (scipy)") if "mean" in table else "rank statistic, mean over the datasets")
    legend_beside(axes)
    return figure


def _names(table: pd.DataFrame) -> list[str]:
    """Return the scorers, with the number of models where it is smaller: their values are not comparable."""
    if "models" not in table:
        return [str(name) for name in table.index]
    most = table["models"].max()
    return [f"{name} ({count:.0f} models)" if count < most else str(name) for name, count in table["models"].items()]


def _datasets(table: pd.DataFrame) -> list[str]:
    """Return the columns before the mean; where there is none, all but the number of models."""
    names = list(table.columns)
    return names[: names.index("mean")] if "mean" in names else [name for name in names if name != "models"]


def radar(table: pd.DataFrame, scorers: int = 5, title: str | None = None) -> Figure:
    """Draw the weighted tau of the best scorers on every dataset, a spoke per dataset (the paper's Fig. 5).

    Args:
        table: Of :func:`itm.evaluation.benchmark.by_dataset`.
        scorers: How many are drawn; priors come as grey dashes.
        title: Stands above the panel.
    """
    datasets = _datasets(table)
    priors = table.index.str.endswith("(prior)")
    figure = blank(6.8, 4.6, title)
    with mpl.rc_context(STYLE):
        axes: Any = figure.add_subplot(projection="polar")
    for i, (name, row) in enumerate(table[~priors].head(scorers).iterrows()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        _polygon(axes, row[datasets], label=name, **style)
    for dash, (name, row) in zip(("--", ":", "-."), table[priors].iterrows(), strict=False):
        _polygon(axes, row[datasets], label=name, color="0.4", linestyle=dash)
    axes.set_xticks(_angles(len(datasets))[:-1], datasets)
    axes.tick_params(axis="x", pad=14)
    drawn = pd.concat([table[~priors].head(scorers), table[priors]])[datasets]
    axes.set_ylim(min(0.0, float(np.nanmin(drawn.to_numpy(float))) - 0.1), 1)
    axes.set_rgrids([level for level in (-0.5, 0, 0.5, 1) if level > axes.get_ylim()[0]], angle=80, fontsize=8)
    legend_beside(axes, bbox_to_anchor=(1.15, 0.5))
    return figure


def _angles(count: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, count + 1)


def _polygon(axes: Any, row: pd.Series[Any], **style: Any) -> None:
    values = row.to_numpy(float)
    axes.plot(_angles(len(values)), [*values, values[0]], **style)


def subset_scatter(values: pd.DataFrame, against: str, title: str | None = None) -> Figure:
    """Draw the weighted tau of one scorer against every other on the same sub-pools, a panel each (the paper's Fig. 3).

    Args:
        values: Of :func:`itm.evaluation.benchmark.subset_taus`.
        against: The scorer on the vertical axis; points above the diagonal are its wins.
        title: Stands above the panels.
    """
    others = [name for name in values.columns if name != against] if against in values else []
    if not others:
        figure = blank(6.4, 1.2, title)
        figure.text(0.01, 0.2, f"Nothing to compare {against} with: too few models have every accuracy and score.")
        return figure
    columns = min(4, len(others))
    rows = math.ceil(len(others) / columns)
    figure = blank(max(4.2, 2.0 * columns), 2.2 * rows + 0.5, title)
    low = min(0.0, float(values.min().min())) - 0.05
    with mpl.rc_context(STYLE):
        grid = [figure.add_subplot(rows, columns, place) for place in range(1, len(others) + 1)]
    for place, (name, axes) in enumerate(zip(others, grid, strict=True)):
        _duel(axes, values[name], values[against], low)
        axes.set_xlabel(f"tau_w of {name}", fontsize=9)
        if place % columns == 0:
            axes.set_ylabel(f"tau_w of {against}", fontsize=9)
    return figure


def _duel(axes: Axes, other: pd.Series[Any], own: pd.Series[Any], low: float) -> None:
    """Draw subsets as points, the line of equal values, and the share of the points above it; draws count half."""
    dots: dict[str, Any] = {"markersize": 3, "alpha": 0.3} if len(own) > 100 else {"markersize": 8, "alpha": 0.6}
    axes.plot([low, 1.05], [low, 1.05], color="0.6", linewidth=0.8)
    axes.plot(other, own, ".", **dots)
    axes.set(xlim=(low, 1.05), ylim=(low, 1.05), aspect="equal")
    axes.set_title(f"{own.name} wins {win_rate(own, other):.0%}", fontsize=9)
