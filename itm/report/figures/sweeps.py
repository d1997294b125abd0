"""Figures of a sweep: what a swept setting does to each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from itm.report.figures.style import COLOURS, axis_label, legend_beside, line_styles, logarithmic, panels

_LOGARITHMIC = ("seconds", "eta_lambda_max")
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
_STABLE = 2.0  # the evolution converges while η·λ_max stays below


def sweep_lines(
    frame: pd.DataFrame, x: str, line: str | None, values: Sequence[str], title: str | None = None
) -> Figure:
    """Draw a sweep: a panel for each value over the swept setting, a colour for each model.

    Args:
        frame: One row per job and model with the columns ``x``, ``line``, ``model`` and the values; scores with a
            ``std`` get a band.
        x: Column on the horizontal axis.
        line: Column that distinguishes the lines of one model (by their dash), or None.
        values: Columns to draw, one panel each.
        title: Stands above the panels.
    """
    figure, axes = panels(len(values), 0.8 + 4.0 * len(values), 3.6, title)
    groups = [("", frame)] if line is None else [(str(level), rows) for level, rows in frame.groupby(line)]
    styles = line_styles(frame["model"].unique())
    for value, panel in zip(values, axes, strict=True):
        for (_, group), dash in zip(groups, _DASHES * len(groups), strict=False):
            for model, rows in group.groupby("model"):
                _line(panel, rows.sort_values(x), x, value, {**styles[str(model)], "linestyle": dash})
        _ticks(panel, frame[x])
        _mark_stability(panel, value, "y")
        if value in _LOGARITHMIC:
            logarithmic(panel, "y")
        panel.set_xlabel(axis_label(x))
        panel.set_ylabel(_name_of(frame, value))
    handles = [Line2D([], [], label=name, markersize=4, **style) for name, style in styles.items()]
    for (level, _), dash in zip(groups, _DASHES * len(groups), strict=False):
        if line is not None:
            handles.append(Line2D([], [], color="0.3", linestyle=dash, label=f"{axis_label(line)}: {level}"))
    legend_beside(axes[-1], handles=handles, handlelength=3)
    return figure


def _line(panel: Axes, rows: pd.DataFrame, x: str, value: str, style: dict[str, Any]) -> None:
    places = rows[x] if pd.api.types.is_numeric_dtype(rows[x]) else rows[x].astype(str)
    panel.plot(places, rows[value], markersize=4, **style)
    if _spread_known(rows, value):
        spread = rows["std"].fillna(0)
        low, high = rows[value] - spread, rows[value] + spread
        panel.fill_between(places, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _ticks(panel: Axes, x: pd.Series[Any]) -> None:
    """Put a tick at each swept number on a logarithmic axis, where they span a factor of 50."""
    if pd.api.types.is_numeric_dtype(x) and x.min() > 0 and x.max() / x.min() >= 50:
        panel.set_xscale("log")
        panel.set_xticks(sorted(x.unique()), [f"{tick:g}" for tick in sorted(x.unique())])
        panel.tick_params(axis="x", labelsize=8)  # powers of four up to 4096 stand side by side
        panel.minorticks_off()


def sweep_dots(
    frame: pd.DataFrame, x: str, line: str | None, values: Sequence[str], title: str | None = None
) -> Figure:
    """Draw a sweep over words: a panel for each value, a row for each model, a colour for each word.

    Args:
        frame: As in :func:`sweep_lines`; scores with a ``std`` get whiskers.
        x: Column that the colour shows.
        line: Column that the dot's filling shows, or None.
        values: Columns to draw, one panel each.
        title: Stands above the panels.
    """
    models, colours = list(frame["model"].drop_duplicates()), list(frame[x].drop_duplicates())
    levels = list(frame.groupby([x, *([line] if line else [])], sort=False, dropna=False))
    fillings = list(frame[line].drop_duplicates()) if line else [None]
    height = 1.1 + len(models) * max(0.34, 0.1 * len(levels))
    figure, axes = panels(len(values), 1.8 + 3.6 * len(values), height, title)
    for value, panel in zip(values, axes, strict=True):
        for place, ((word, *filling), rows) in enumerate(levels):
            colour = COLOURS[colours.index(word) % len(COLOURS)]
            open_dot = filling and fillings.index(filling[0]) % 2
            panel.errorbar(
                rows[value],
                [models.index(model) + 0.8 * ((place + 0.5) / len(levels) - 0.5) for model in rows["model"]],
                xerr=rows["std"] if _spread_known(frame, value) else None,
                fmt="o",
                markersize=5,
                elinewidth=1,
                color=colour,
                markerfacecolor="white" if open_dot else colour,
                label=str(word) + (f", {line}={filling[0]}" if filling else ""),
            )
        _rows_of_models(panel, models, named=panel is axes[0])
        _mark_stability(panel, value, "x")
        if value in _LOGARITHMIC:
            logarithmic(panel, "x")
        panel.set_xlabel(_name_of(frame, value))
    legend_beside(axes[-1], title=axis_label(x))
    return figure


def sweep_spread(
    frame: pd.DataFrame, x: str, line: str | None, values: Sequence[str], title: str | None = None
) -> Figure:
    """Draw how far a setting that should not matter moves each model: values, mean and standard deviation.

    Args:
        frame: As in :func:`sweep_lines`.
        x: Column that the spread is over.
        line: Not used.
        values: Columns to draw, one panel each.
        title: Stands above the panels.
    """
    models = list(frame["model"].drop_duplicates())
    figure, axes = panels(len(values), 1.8 + 3.6 * len(values), 1.1 + 0.5 * len(models), title)
    for value, panel in zip(values, axes, strict=True):
        groups = [frame.loc[frame["model"] == model, value] for model in models]
        for place, group in enumerate(groups):
            steps = place + 0.6 * ((pd.RangeIndex(len(group)) + 0.5) / len(group) - 0.5)
            label = f"a {x}" if place == 0 else None  # one entry of the legend for all models
            panel.plot(group, steps, "o", color=COLOURS[0], alpha=0.6, markersize=5, label=label)
        means, spreads = [group.mean() for group in groups], [group.std() for group in groups]
        style: dict[str, Any] = {"color": "black", "elinewidth": 1.5, "label": "mean ± std"}
        panel.errorbar(means, range(len(models)), xerr=spreads, fmt="|", markersize=12, **style)
        _rows_of_models(panel, models, named=panel is axes[0])
        panel.set_xlabel(_name_of(frame, value))
    legend_beside(axes[-1])
    return figure


def _rows_of_models(panel: Axes, models: Sequence[str], named: bool) -> None:
    panel.set_yticks(range(len(models)), models if named else [""] * len(models))
    panel.set_ylim(len(models) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")
    for edge in range(1, len(models)):
        panel.axhline(edge - 0.5, color="0.85", linewidth=0.8)


def _mark_stability(panel: Axes, value: str, direction: Literal["x", "y"]) -> None:
    if value == "eta_lambda_max":
        mark = panel.axhline if direction == "y" else panel.axvline
        mark(_STABLE, color="0.3", linestyle="--", linewidth=1)


def _spread_known(frame: pd.DataFrame, value: str) -> bool:
    return value == "score" and "std" in frame and bool(frame["std"].notna().any())


def _name_of(frame: pd.DataFrame, value: str) -> str:
    """Return a value with its unit, and with what its whiskers or bands are."""
    scorers: list[str] = list(frame["scorer"].unique()) if "scorer" in frame else []
    name = axis_label(value)
    if value == "score" and len(scorers) == 1:
        name = "itm score, held-out accuracy" if scorers[0] == "itm" else f"{scorers[0]} score"
    return f"{name}\n(mean ± std over seeds)" if _spread_known(frame, value) else name
