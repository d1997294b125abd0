"""How far samples lie from the mean of their class, by model: what eq. 9 makes its number of steps of (Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from itm.core.features import Features
from itm.dva.adaptive import Standardize, adaptive_steps, class_distances
from itm.report.figures import Figure, distance_violins
from itm.scorers import ITM
from itm.scorers.base import check


def distance_statistics(
    pool: Mapping[str, Features], itm: ITM, data: str, folder: Path | None = None
) -> tuple[pd.DataFrame, Figure]:
    """Measure the distances of all samples to the mean of their class, standardised in either way.

    Args:
        pool: Features by model.
        itm: Gives eq. 9 its ``eta_0`` and ``n_b``.
        data: Name of the dataset.
        folder: Not used.

    Returns:
        A row per model and standardisation with ``mean`` (dis_φ), ``std``, quantiles and the ``n`` of eq. 9, and the
        distributions as violins. It uses all rows; ITM itself uses its training part.
    """
    rows: list[dict[str, Any]] = []
    clouds = {}
    for standardize in get_args(Standardize):
        for model, features in pool.items():
            samples = check(model, features)
            distances = class_distances(samples.x.double(), samples.y, standardize)
            summary = pd.Series(distances.numpy()).describe(percentiles=[0.05, 0.5, 0.95])
            facts = summary.drop(["count", "min", "max"])
            n = adaptive_steps(float(facts["mean"]), eta=itm.eta_0, n_b=itm.n_b)
            rows.append(
                {"data": data, "standardize": standardize, "model": model, **facts, "dim": features.dim, "n": n}
            )
            clouds[standardize, model] = distances.numpy()
    return pd.DataFrame(rows), distance_violins(clouds, data)
