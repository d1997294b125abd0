"""Every figure of the project, in one style."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from scipy.optimize import isotonic_regression

from itm.ranking import Ranking

# Okabe and Ito's palette: told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LOGARITHMIC = ("seconds", "eta_lambda_max")
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
    axes.set_xlabel(f"{ranking.name} score" + (f" (mean ± std of {seeds} seeds)" if seeds > 1 else ""))
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
        if value in _LOGARITHMIC:
            _logarithmic(axes, "y")
        axes.set_xlabel(x)
        axes.set_ylabel(value)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, handlelength=4)
    return figure


def sweep_dots(frame: pd.DataFrame, x: str, line: str | None, values: Sequence[str]) -> Figure:
    """What a sweep over words found: a panel for each value, a row for each model, a colour for each word.

    Args:
        frame: As in :func:`sweep_lines`; scores with a ``std`` get whiskers.
        x: Column told apart by colour.
        line: Column told apart by the dot's filling, or None.
        values: Columns to draw, one panel each.
    """
    models, colours = list(frame["model"].drop_duplicates()), list(frame[x].drop_duplicates())
    levels = list(frame.groupby([x, *([line] if line else [])], sort=False, dropna=False))
    fillings = list(frame[line].drop_duplicates()) if line else [None]
    height = 0.9 + len(models) * max(0.34, 0.1 * len(levels))
    figure, panels = _panels(len(values), 1.8 + 3.6 * len(values), height)
    for value, axes in zip(values, panels, strict=True):
        spread = value == "score" and bool(frame["std"].notna().any())
        for place, ((word, *filling), rows) in enumerate(levels):
            colour = COLOURS[colours.index(word) % len(COLOURS)]
            open_dot = filling and fillings.index(filling[0]) % 2
            axes.errorbar(
                rows[value],
                [models.index(model) + 0.8 * ((place + 0.5) / len(levels) - 0.5) for model in rows["model"]],
                xerr=rows["std"] if spread else None,
                fmt="o",
                markersize=5,
                elinewidth=1,
                color=colour,
                markerfacecolor="white" if open_dot else colour,
                label=str(word) + (f", {line}={filling[0]}" if filling else ""),
            )
        axes.set_yticks(range(len(models)), models if axes is panels[0] else [""] * len(models))
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        for edge in range(1, len(models)):
            axes.axhline(edge - 0.5, color="0.85", linewidth=0.8)
        if value in _LOGARITHMIC:
            _logarithmic(axes, "x")
        axes.set_xlabel(f"{value} (mean ± std over seeds)" if spread else value)
    panels[-1].legend(title=x, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def truth_scatter(rankings: Sequence[Ranking], truth: Mapping[str, float]) -> Figure:
    """Score against true accuracy, a panel per scorer; models are named at the right-hand end of each row.

    Args:
        rankings: The first six are drawn, with the standard deviation over seeds as whiskers.
        truth: Accuracy after fine-tuning by model, percent; models without one are left out.
    """
    drawn = rankings[:6]
    models = sorted((m for m in truth if any(m in r.scores for r in drawn)), key=lambda m: truth[m])
    styles = [{"color": COLOURS[i % 7], "marker": "os^Dv"[i // 7 % 5]} for i in range(len(models))]
    looks: dict[str, dict[str, Any]] = dict(zip(reversed(models), styles, strict=True))
    columns = {4: 2}.get(len(drawn), min(3, len(drawn)))
    rows, inside = math.ceil(len(drawn) / columns), max(2.2, 0.16 * len(models))  # a line of small print per model
    margin = 0.08 * (truth[models[-1]] - truth[models[0]]) or 1.0
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(1.9 + 2.5 * columns, rows * (inside + 0.7)), layout="constrained")
        grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.0] * columns + [0.1])
        for place, ranking in enumerate(drawn):
            row, column = divmod(place, columns)
            axes = figure.add_subplot(grid[row, column])
            for entry in (entry for entry in ranking.entries if entry.model in looks):
                look = looks[entry.model]
                axes.errorbar(entry.score, truth[entry.model], xerr=entry.std, capsize=2, markersize=5, **look)
            seeds = max(len(entry.runs) for entry in ranking.entries)
            axes.set_xlabel(f"{ranking.name} score" + (f"\nmean ± std of {seeds} seeds" if seeds > 1 else ""))
            axes.set_ylim(truth[models[0]] - margin, truth[models[-1]] + margin)
            axes.margins(x=0.1)
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", labelleft=column == 0)
            if column == 0:
                axes.set_ylabel("accuracy after\nfine-tuning (%)")
            if column == columns - 1 or place == len(drawn) - 1:
                beside = figure.add_subplot(grid[row, column + 1])
                _name_rows(axes, beside, {m: truth[m] for m in models}, looks, inside)
    return figure


def _name_rows(
    panel: Axes, axes: Axes, places: Mapping[str, float], looks: Mapping[str, dict[str, Any]], inside: float
) -> None:
    """Marker and name of each model beside a panel, ascending, moved apart as little as need be; ``inside``: inches."""
    low, high = panel.get_ylim()
    axes.set_ylim(low, high)
    axes.set_axis_off()
    steps = np.arange(len(places)) * min(0.15 / inside, 1 / len(places)) * (high - low)
    free = isotonic_regression(np.fromiter(places.values(), float) - steps).x
    apart = np.clip(free, low, max(low, high - steps[-1])) + steps
    from_edge = panel.figure.dpi_scale_trans + ScaledTranslation(0, 0, axes.transAxes)  # type: ignore[arg-type]
    inches = blended_transform_factory(from_edge, axes.transData)
    for (name, place), at in zip(places.items(), apart, strict=True):
        axes.plot([0, 0.15], [place, at], color="0.6", linewidth=0.7, transform=inches, clip_on=False)
        axes.plot(0.22, at, markersize=5, transform=inches, clip_on=False, **looks[name])
        axes.text(0.32, at, name, fontsize=8, va="center", transform=inches)


def standing_dots(table: pd.DataFrame) -> Figure:
    """A row per scorer, a dot per column (dataset or statistic), the mean as a bar; best on top.

    Args:
        table: Of :func:`itm.standings.by_dataset`, :func:`itm.standings.benchmark`, whose 95 % intervals of the mean
            are drawn, or the statistics of :func:`itm.standings.by_metric`.
    """
    columns = _datasets(table)
    figure, (axes,) = _panels(1, 6.4, 0.9 + 0.26 * len(table))
    places = np.arange(len(table))
    for i, column in enumerate(columns):
        marker = "osD^v"[i // len(COLOURS) % 5]
        axes.plot(table[column], places, marker, color=COLOURS[i % len(COLOURS)], markersize=5, label=column)
    if "low" in table:
        axes.hlines(places, table["low"], table["high"], color="0.75", linewidth=5, zorder=0, label="95 % of the mean")
    if "mean" in table:
        axes.plot(table["mean"], places, "|", color="0.2", markersize=14, markeredgewidth=2, label="mean")
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(places, table.index)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("weighted Kendall's tau (scipy's)" if "mean" in table else "mean over the datasets")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def _datasets(table: pd.DataFrame) -> list[str]:
    """The columns before the mean, all where there is none."""
    names = list(table.columns)
    return names[: names.index("mean")] if "mean" in names else names


def radar(table: pd.DataFrame, scorers: int = 5) -> Figure:
    """Weighted tau of the best scorers on every dataset, a spoke per dataset (the paper's Fig. 5).

    Args:
        table: Of :func:`itm.standings.by_dataset`.
        scorers: How many are drawn; priors come as grey dashes.
    """
    datasets = _datasets(table)
    angles = np.linspace(0, 2 * np.pi, len(datasets) + 1)
    priors = table.index.str.endswith("(prior)")
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes: Any = figure.add_subplot(projection="polar")
        for i, (name, row) in enumerate(table[~priors].head(scorers).iterrows()):
            values = row[datasets].to_numpy(float)
            axes.plot(
                angles, [*values, values[0]], color=COLOURS[i % len(COLOURS)], marker="o", markersize=4, label=name
            )
        for dash, (name, row) in zip(("--", ":", "-."), table[priors].iterrows(), strict=False):
            values = row[datasets].to_numpy(float)
            axes.plot(angles, [*values, values[0]], dash, color="0.4", label=name)
        axes.set_xticks(angles[:-1], datasets)
        axes.tick_params(axis="x", pad=14)
        drawn = pd.concat([table[~priors].head(scorers), table[priors]])[datasets]
        axes.set_ylim(min(0.0, float(np.nanmin(drawn.to_numpy(float))) - 0.1), 1)
        axes.set_rgrids([level for level in (-0.5, 0, 0.5, 1) if level > axes.get_ylim()[0]], angle=80, fontsize=8)
        axes.legend(loc="center left", bbox_to_anchor=(1.15, 0.5), frameon=False, fontsize=8)
    return figure


def subpool_scatter(values: pd.DataFrame, against: str) -> Figure:
    """Weighted tau of one scorer against every other on the same sub-pools, a panel each (the paper's Fig. 3).

    Args:
        values: Of :func:`itm.standings.over_subpools`.
        against: The scorer on the vertical axis; points above the diagonal are its wins.
    """
    others = [name for name in values.columns if name != against]
    columns = min(4, len(others))
    rows = math.ceil(len(others) / columns)
    low = min(0.0, float(values.min().min())) - 0.05
    dots: dict[str, Any] = {"markersize": 3, "alpha": 0.3} if len(values) > 100 else {"markersize": 7}
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(1.9 * columns, 1.9 * rows), layout="constrained")
        for place, name in enumerate(others, 1):
            axes = figure.add_subplot(rows, columns, place)
            axes.plot([low, 1.05], [low, 1.05], color="0.6", linewidth=0.8)
            axes.plot(values[name], values[against], ".", **dots)
            axes.set(xlim=(low, 1.05), ylim=(low, 1.05), xlabel=name, aspect="equal")
            if place % columns == 1 or columns == 1:
                axes.set_ylabel(against)
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


def _logarithmic(axes: Axes, direction: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 times the powers of ten, fewer where there is no room."""
    axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
