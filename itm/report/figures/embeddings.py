"""Figures of features and trained maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from itm.report.figures.style import COLOURS, STYLE, blank, panels, point_style

_EXPLAINED = {
    "per_dim": "distance in standard deviations\nof each dimension (per_dim)",
    "rms": "the same divided by the root of\nthe number of dimensions (rms)",
}
_NAMED = 20  # classes that a legend names


def distance_violins(clouds: Mapping[tuple[str, str], Any], data: str) -> Figure:
    """Draw the distributions of distances to the class mean, a panel for each standardisation, a violin for each model.

    Args:
        clouds: Distances of all samples by standardisation and model.
        data: Name of the dataset.
    """
    ways, models = list(dict.fromkeys(way for way, _ in clouds)), list(dict.fromkeys(model for _, model in clouds))
    title = f"Samples of {data}: how far from the mean of their class (bar: the mean, dis_φ of eq. 9)"
    figure, axes = panels(len(ways), 1.8 + 3.6 * len(ways), 1.2 + 0.5 * len(models), title)
    for way, panel in zip(ways, axes, strict=True):
        drawn = panel.violinplot(
            [clouds[way, model] for model in models], range(len(models)), orientation="horizontal",
            showmeans=True, showextrema=False, widths=0.8,
        )  # fmt: skip
        for body in drawn["bodies"]:  # type: ignore[attr-defined]
            body.set_facecolor(COLOURS[0])
        panel.set_yticks(range(len(models)), models if panel is axes[0] else [""] * len(models))
        panel.set_ylim(len(models) - 0.5, -0.5)
        panel.set_xlim(left=0)
        panel.grid(visible=False, axis="y")
        panel.set_xlabel(_EXPLAINED.get(way, way))
    return figure


def evolution_planes(table: pd.DataFrame, planes: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw held-out embeddings in the plane: a row for each model, a column for each moment, accuracy in the corner.

    Args:
        table: A row per model and moment: ``data``, ``model``, ``iteration``, ``accuracy``.
        planes: Points ``[N, 2]`` and classes ``[N]`` by model and iteration.
    """
    models = list(table["model"].drop_duplicates())
    title = f"Evolved held-out embeddings of {table['data'].iloc[0]} (PCA, then t-SNE); corner: held-out accuracy"
    moments = [list(rows["iteration"]) for _, rows in table.groupby("model", sort=False)]
    figure = blank(7.6, 0.8 + 2.3 * len(models), title)
    with mpl.rc_context(STYLE):
        grid = figure.subplots(len(models), max(map(len, moments)), squeeze=False)
    for axes, row in zip(grid.flat, table.itertuples(), strict=True):
        _plane(axes, *planes[str(row.model), int(row.iteration)])  # type: ignore[arg-type]
        axes.set_title(f"{row.accuracy:.1%}", loc="left", fontsize=9)
        axes.set_xlabel(f"iteration {row.iteration}", fontsize=9)
    for axes, model in zip(grid[:, 0], models, strict=True):
        axes.set_ylabel(model, fontsize=9)
    classes = np.unique(np.concatenate([y for _, y in planes.values()]))
    if len(classes) <= _NAMED:
        handles = [
            Line2D([], [], linestyle="", markersize=5, label=f"class {k}", **point_style(int(k))) for k in classes
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _plane(axes: Axes, points: np.ndarray, y: np.ndarray) -> None:
    for k in np.unique(y):
        axes.plot(*points[y == k].T, linestyle="", markersize=3.5, **point_style(int(k)))
    axes.set(xticks=[], yticks=[])


def similarity_image(table: pd.DataFrame) -> Figure:
    """Draw a square table of similarities between 0 and 1 as an image with its numbers.

    Args:
        table: Pairs as index and columns; NaN where two cannot be compared.
    """
    pairs = [str(pair) for pair in table.columns]
    title = (
        "Likeness of the maps W_z: mean squared cosine of the principal angles\n(1 on the diagonal; –: widths differ)"
    )
    figure = blank(2.8 + 0.42 * len(pairs), 3.2 + 0.42 * len(pairs), title)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        axes = figure.add_subplot()
    values = table.to_numpy(dtype=float)
    apart = values[~np.eye(len(values), dtype=bool)]
    top = float(np.nanmax(apart)) if np.isfinite(apart).any() else 1.0
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top)
    for (row, column), value in np.ndenumerate(values):
        shade = "white" if value > 0.6 * top else "black"
        number = "1" if row == column else f"{value:.3f}".removeprefix("0")
        text = "–" if np.isnan(value) else number
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=shade)
    axes.set_xticks(range(len(pairs)), pairs, rotation=90, fontsize=8)
    axes.set_yticks(range(len(pairs)), pairs, fontsize=8)
    return figure
