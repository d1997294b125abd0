"""Figures of one run: scores, their curves, and scores against the true accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from scipy.optimize import isotonic_regression

from itm.core.console import printable
from itm.evaluation.difficulty import Difficulty
from itm.ranking.ranking import Ranking
from itm.report.figures.style import STYLE, blank, legend_beside, line_styles, logarithmic, panels


def score_bars(ranking: Ranking) -> Figure:
    """Draw the scores of one ranking, best on top, with the standard deviation over seeds as whiskers.

    Bars from zero, or dots where a score is below zero: the longest bar would be the worst.
    """
    entries = ranking.entries[::-1]
    figure, (axes,) = panels(1, 6.4, 0.9 + 0.34 * len(entries))
    spread = [entry.std or 0.0 for entry in entries] if any(entry.std for entry in entries) else None
    names, scores = [printable(entry.model) for entry in entries], [entry.score for entry in entries]
    if min(scores) < 0:
        axes.errorbar(scores, names, xerr=spread, fmt="o", capsize=3)
    else:
        axes.barh(names, scores, xerr=spread, capsize=3)
        axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    seeds = max(len(entry.runs) for entry in entries)
    axes.set_xlabel(f"{ranking.name} score" + (f" (mean ± std of {seeds} seeds)" if seeds > 1 else ""))
    return figure


def score_curves(ranking: Ranking) -> Figure | None:
    """Draw the held-out score over iterations, a line per model with the range over seeds; None without curves."""
    curves = {}
    for entry in ranking.entries:
        if "curve" in entry.details:
            curves[entry.model] = [run.details["curve"] for run in entry.runs]
    if not curves:
        return None
    figure, (axes,) = panels(1, 6.4, 3.4)
    styles, seeds = line_styles(curves), max(map(len, curves.values()))
    for model, runs in curves.items():
        frame, style = pd.DataFrame(runs), styles[model]
        axes.plot(frame.columns, frame.mean(), markersize=4, label=printable(model), **style)
        axes.fill_between(frame.columns, frame.min(), frame.max(), color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel(f"{ranking.name} score" + (f"\n(mean and range of {seeds} seeds)" if seeds > 1 else ""))
    legend_beside(axes)
    return figure


def truth_scatter(rankings: Sequence[Ranking], truth: Mapping[str, float], measure: str = "accuracy") -> Figure:
    """Draw scores against true accuracy, a panel per scorer; models are named at the right-hand end of each row.

    Args:
        rankings: The first six are drawn, with the standard deviation over seeds as whiskers.
        truth: Accuracy after fine-tuning by model, percent; models without one are left out.
        measure: What ``truth`` has, in words.
    """
    drawn = rankings[:6]
    scored = {model for ranking in drawn for model in ranking.order}
    models = sorted(scored & set(truth), key=lambda model: (truth[model], model))
    styles = line_styles(models)
    columns = {4: 2}.get(len(drawn), min(3, len(drawn)))
    rows, inside = math.ceil(len(drawn) / columns), max(2.2, 0.16 * len(models))  # a line of small print per model
    margin = 0.08 * (truth[models[-1]] - truth[models[0]]) or 1.0
    with mpl.rc_context(STYLE):
        figure = blank(1.9 + 2.5 * columns, rows * (inside + 0.7))
        grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.0] * columns + [0.1])
        for place, ranking in enumerate(drawn):
            row, column = divmod(place, columns)
            axes = figure.add_subplot(grid[row, column])
            for entry in (entry for entry in ranking.entries if entry.model in styles):
                style = styles[entry.model]
                axes.errorbar(entry.score, truth[entry.model], xerr=entry.std, capsize=2, markersize=5, **style)
            seeds = max(len(entry.runs) for entry in ranking.entries)
            axes.set_xlabel(f"{ranking.name} score" + (f"\nmean ± std of {seeds} seeds" if seeds > 1 else ""))
            axes.set_ylim(truth[models[0]] - margin, truth[models[-1]] + margin)
            axes.margins(x=0.1)
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", labelleft=column == 0)
            if column == 0:
                axes.set_ylabel(f"{measure} after\nfine-tuning (%)")
            if column == columns - 1 or place == len(drawn) - 1:
                beside = figure.add_subplot(grid[row, column + 1])
                _name_rows(axes, beside, {m: truth[m] for m in models}, styles, inside)
    return figure


def score_against_size(ranking: Ranking, sizes: Mapping[str, float], most: int = 40) -> Figure | None:
    """Draw scores against the number of parameters, each model named at the right-hand end; None without a score.

    A line joins the Pareto front: the models that no smaller model beats.

    Args:
        ranking: Scores with their standard deviation over seeds as whiskers.
        sizes: Number of parameters by model.
        most: Models to draw, best first.
    """
    entries = [entry for entry in ranking.entries[:most] if sizes.get(entry.model, 0) > 0][::-1]
    if not entries:
        return None
    styles = line_styles(entry.model for entry in entries)
    inside = max(2.4, 0.18 * len(entries))
    with mpl.rc_context(STYLE):
        figure = blank(6.4, inside + 0.7)
        grid = figure.add_gridspec(1, 2, width_ratios=[1.0, 0.45])
        axes, beside = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    for entry in entries:
        style = styles[entry.model]
        axes.errorbar(sizes[entry.model] / 1e6, entry.score, yerr=entry.std, capsize=2, markersize=5, **style)
    front = pareto_front({entry.model: (sizes[entry.model], entry.score) for entry in entries})
    widths = [sizes[name] / 1e6 for name in front]
    heights = [ranking.scores[name] for name in front]
    largest = max(sizes[entry.model] for entry in entries) / 1e6
    axes.step(
        [*widths, largest], [*heights, heights[-1]], where="post", color="0.6", linewidth=1, linestyle="--", zorder=0
    )
    logarithmic(axes, "x")
    axes.margins(x=0.1, y=0.08)
    axes.set_xlabel("parameters (millions); dashed: best score up to each size")
    axes.set_ylabel(f"{ranking.name} score")
    axes.set_ylim(axes.get_ylim())
    _name_rows(axes, beside, {entry.model: entry.score for entry in entries}, styles, inside)
    return figure


def pareto_front(models: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the models that no other one equals or beats in both size and score, smallest first.

    Args:
        models: Size and score by model; a smaller size and a higher score are better.
    """
    front: list[str] = []
    highest = -math.inf
    for name, (_, score) in sorted(models.items(), key=lambda item: (item[1][0], -item[1][1])):
        if score > highest:
            front.append(name)
            highest = score
    return front


def class_bars(difficulty: Difficulty | None, most: int = 20) -> Figure | None:
    """Draw the held-out accuracy of the hardest classes, hardest on top; None where it is not known.

    Args:
        difficulty: Accuracy by class of a linear probe.
        most: Classes to draw.
    """
    if difficulty is None:
        return None
    hardest = list(difficulty.accuracy.items())[:most][::-1]
    figure, (axes,) = panels(1, 6.4, 0.9 + 0.26 * len(hardest))
    names = [f"{shortened(name)} ({difficulty.images[name]})" for name, _ in hardest]
    axes.barh(names, [value for _, value in hardest])
    axes.axvline(difficulty.overall, color="0.4", linewidth=1, linestyle="--")
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("held-out accuracy of a linear probe (%); dashed: all classes")
    return figure


def shortened(name: str, most: int = 36) -> str:
    """Return a printable name of at most that many characters."""
    text = printable(name)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _name_rows(
    panel: Axes, axes: Axes, places: Mapping[str, float], styles: Mapping[str, dict[str, Any]], inside: float
) -> None:
    """Put marker and name of each model beside a panel of ``inside`` inches, moved apart as little as need be."""
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
        axes.plot(0.22, at, markersize=5, transform=inches, clip_on=False, **styles[name])
        axes.text(0.32, at, printable(name), fontsize=8, va="center", transform=inches)
