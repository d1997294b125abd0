"""Evolved embeddings early in, half-way through and at the end of ITM's training, in the plane (Fig. 9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from itm.core.features import Features
from itm.report.figures import Figure, evolution_planes
from itm.scorers import ITM
from itm.scorers.base import check

_PCA_WIDTH = 50  # t-SNE's authors reduce to it first


@dataclasses.dataclass(frozen=True)
class State:
    """The held-out part at one moment of the training.

    Args:
        plane: Evolved embeddings, reduced to ``[N, 2]``.
        y: Classes, ``[N]``.
        accuracy: Of the head on the evolved embeddings.
        plain: Of the head on the same before their evolution.
    """

    plane: np.ndarray
    y: np.ndarray
    accuracy: float
    plain: float


def embedding_evolution(
    pool: Mapping[str, Features], itm: ITM, data: str, folder: Path | None = None
) -> tuple[pd.DataFrame, Figure]:
    """Compute held-out embeddings, evolved by the ``n`` inner steps, after one, half and all of the training batches.

    That the figure's three states are these moments is our reading; the planes are independent of each other.

    Args:
        pool: Features by model.
        itm: Trains map and head.
        data: Name of the dataset.
        folder: Not used.

    Returns:
        A row per model and state: ``iteration``, the held-out ``accuracy`` of evolved and the ``plain`` one of
        unevolved embeddings; and the scatter plots.
    """
    rows: list[dict[str, Any]] = []
    planes = {}
    for model, features in pool.items():
        for iteration in (1, max(1, itm.iterations // 2), itm.iterations):
            state = _state(features, itm, model, iteration)
            facts = {"iteration": iteration, "accuracy": state.accuracy, "plain": state.plain}
            rows.append({"data": data, "model": model, **facts})
            planes[model, iteration] = state.plane, state.y
    table = pd.DataFrame(rows)
    return table, evolution_planes(table, planes)


def _state(features: Features, itm: ITM, model: str, iteration: int) -> State:
    """Train up to an iteration: with one seed, a shorter training is the beginning of a longer one."""
    trained = dataclasses.replace(itm, iterations=iteration).train(check(model, features))
    module = trained.module.eval()
    (batches,) = trained.data.val_dataloader()
    with torch.no_grad():
        parts = [(module.embed(x), y) for x, y in batches]
        theta = torch.cat([theta for theta, _ in parts], dim=1)
        evolved = torch.cat([module.evolve(theta, y) for theta, y in parts], dim=1)
        y = torch.cat([y for _, y in parts], dim=1)
        accuracy, plain = ((module.classify(e).argmax(dim=2) == y).double().mean() for e in (evolved, theta))
    return State(_plane(evolved[0].cpu().numpy(), itm.seed), y[0].cpu().numpy(), float(accuracy), float(plain))


def _plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    narrow = PCA(min(_PCA_WIDTH, *embeddings.shape), random_state=seed).fit_transform(embeddings)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    flat: np.ndarray = TSNE(perplexity=perplexity, random_state=seed).fit_transform(narrow)
    return flat
