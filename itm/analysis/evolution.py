"""Embeddings before, within and after their evolution, in the plane (Fig. 9)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from itm.features import Features
from itm.figures import STYLE
from itm.scorers import ITM
from itm.scorers.base import check

_PCA_WIDTH = 50  # t-SNE's authors reduce to it first


def embedding_evolution(
    pool: Mapping[str, Features], itm: ITM, data: str, folder: Path | None = None
) -> tuple[pd.DataFrame, Figure]:
    """Held-out embeddings of each model after 0, n/2 and n inner steps of its trained map.

    That the three states are these steps, drawn from the held-out part, is our reading of the figure. PCA and t-SNE see
    a model's three states together, so its panels share one plane.

    Args:
        pool: Features by model.
        itm: Trains map and head.
        data: Name of the dataset.
        folder: Not used.

    Returns:
        A row per model and state with ``step`` and the head's held-out ``accuracy``, and the scatter plots.
    """
    rows: list[dict[str, Any]] = []
    panels = []
    for model, features in pool.items():
        states, y, accuracies = _states(features, itm, model)
        rows += [
            {"data": data, "model": model, "step": step, "accuracy": accuracy} for step, accuracy in accuracies.items()
        ]
        panels.append((model, _plane(states, itm.seed), y, accuracies))
    return pd.DataFrame(rows), _scatter(panels)


def _states(features: Features, itm: ITM, model: str) -> tuple[np.ndarray, np.ndarray, dict[int, float]]:
    """States ``[3, N, p]``, classes and the accuracy by step."""
    trained = itm.train(check(model, features))
    module, y = trained.module.eval(), trained.heldout.y
    n = module.steps
    states, accuracies = [], {}
    with torch.no_grad():
        for step in (0, n // 2, n):
            module.steps = step
            parts = [module.evolve(module.conditioning(xs), ys) for xs, ys in trained.heldout]
            states.append(torch.cat(parts))
            accuracies[step] = float((module.head(states[-1]).argmax(dim=1) == y).double().mean())
    return torch.stack(states).cpu().numpy(), y.cpu().numpy(), accuracies


def _plane(states: np.ndarray, seed: int) -> np.ndarray:
    """Coordinates ``[3, N, 2]``: PCA, then t-SNE of the three states together."""
    cloud = states.reshape(-1, states.shape[-1])
    narrow = PCA(min(_PCA_WIDTH, *cloud.shape), random_state=seed).fit_transform(cloud)
    perplexity = min(30.0, (len(cloud) - 1) / 3)
    flat = TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(narrow)
    return flat.reshape(len(states), -1, 2)  # type: ignore[no-any-return]


def _scatter(panels: list[tuple[str, np.ndarray, np.ndarray, dict[int, float]]]) -> Figure:
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 2.3 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 3, squeeze=False)
        for row, (model, planes, y, accuracies) in zip(grid, panels, strict=True):
            low, high = planes.min(axis=(0, 1)), planes.max(axis=(0, 1))
            margin = 0.05 * (high - low)
            for axes, plane, (step, accuracy) in zip(row, planes, accuracies.items(), strict=True):
                axes.scatter(*plane.T, c=y, cmap="tab20" if y.max() >= 10 else "tab10", vmin=0, s=9, linewidths=0)
                axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
                axes.set(xticks=[], yticks=[], xlabel=f"step {step}")
                axes.text(0.03, 0.97, f"{accuracy:.1%}", transform=axes.transAxes, va="top", fontsize=9,
                          bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0})  # fmt: skip
            row[0].set_ylabel(model, fontsize=8)
    return figure
