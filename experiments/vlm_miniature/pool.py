"""Check that the pool is informative: the range of the true accuracies against their noise, and how rankings differ.

``python -m experiments.vlm_miniature.pool`` prints the tables and writes ``results/pool.md``.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from itm.cli.folders import groundtruth_folder
from itm.core.console import markdown
from itm.metrics.single import kendall_tau

CELLS = groundtruth_folder() / "vlm_miniature_cells.csv"
PAGE = Path(__file__).resolve().parent / "results" / "pool.md"
LEAST_RATIO = 5.0
"""Least range of the accuracies on a target, in units of their noise."""


def ranges(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the range of the accuracies on each target, and its ratio to the noise of resampled test images.

    Args:
        cells: Trials with ``dataset``, ``model``, ``accuracy`` (per cent) and ``test_images``.

    Returns:
        Index: targets. Columns: ``images``; ``lowest``, ``median`` and ``highest`` accuracy; ``noise``, the largest
        standard deviation of one model's accuracy over resampled test images (binomial), points; ``ratio`` of the range
        to it; ``informative``, whether that is :data:`LEAST_RATIO` or more.
    """
    rows = {}
    for target, group in cells.groupby("dataset", sort=False):
        share = group["accuracy"] / 100
        noise = 100 * float(np.sqrt(share * (1 - share) / group["test_images"]).max())
        low, high = group["accuracy"].min(), group["accuracy"].max()
        rows[target] = {
            "images": int(group["test_images"].iloc[0]),
            "lowest": low,
            "median": group["accuracy"].median(),
            "highest": high,
            "noise": noise,
            "ratio": (high - low) / noise,
            "informative": (high - low) / noise >= LEAST_RATIO,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")


def agreement(cells: pd.DataFrame, targets: list[str]) -> dict[tuple[str, str], float]:
    """Return Kendall's tau between the rankings of every two targets."""
    table = cells.pivot(index="model", columns="dataset", values="accuracy")
    return {(a, b): kendall_tau(table[a], table[b]) for a, b in combinations(targets, 2)}


def _page(cells: pd.DataFrame) -> str:
    facts = ranges(cells)
    chosen = list(facts.index[facts["informative"]])
    taus = agreement(cells, chosen)
    best = cells.loc[cells.groupby("dataset")["accuracy"].idxmax()].set_index("dataset")["model"]
    facts["best model"] = best
    table = cells.pivot(index="model", columns="dataset", values="accuracy")[list(facts.index)]
    low, furthest = min((tau, " and ".join(pair)) for pair, tau in taus.items())
    said = (
        f"{len(chosen)} of {len(facts)} targets are informative (range at least {LEAST_RATIO:g} times the noise): "
        f"{', '.join(chosen)}. Kendall's tau between the rankings of two of them is {fmean(taus.values()):.2f} on "
        f"average, {low:.2f} ({furthest}) to {max(taus.values()):.2f}; {best[chosen].nunique()} different "
        "models are the best on one."
    )
    return (
        "\n\n".join(["# Zero-shot accuracy of the pool, per cent", said, markdown(facts, 1), markdown(table, 1)]) + "\n"
    )


def _main() -> None:
    text = _page(pd.read_csv(CELLS))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    _main()
