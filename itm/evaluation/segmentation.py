"""How well scores and priors rank models for segmentation, beside the paper's table 3."""

from __future__ import annotations

import pandas as pd

from itm.evaluation.benchmark import METRICS, statistics, with_priors
from itm.evaluation.paper import segmentation_taus

SCIPY, PAPER = list(METRICS)[:2]


def segmentation_table(rankings: pd.DataFrame) -> pd.DataFrame:
    """Tabulate every scorer and prior on datasets with masks, then the paper's two datasets.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset``, ``true_accuracy`` (mIoU, percent),
            ``parameters`` and ``stride``.

    Returns:
        Index ``scorer`` and ``dataset``. Columns: weighted tau by both definitions, ``regret`` (points of mIoU),
        ``models`` and, for the paper's rows, ``reported``, the weighted tau that it prints. Best weighted tau first;
        the paper's rows last.
    """
    strides = rankings.drop_duplicates(["dataset", "model"])
    priors = [with_priors(rankings)]
    if "stride" in rankings:  # a finer map first
        priors.append(strides.assign(scorer="output stride (prior)", score=-strides["stride"]))
    own = statistics(pd.concat(priors, ignore_index=True))[["scorer", "dataset", SCIPY, PAPER, "regret", "models"]]
    own = own.sort_values(SCIPY, ascending=False, kind="stable").set_index(["scorer", "dataset"])
    return pd.concat([own, published()])


def published() -> pd.DataFrame:
    """Return the rows of the paper's table 3: ITM on five transformers, computed from its printed numbers."""
    taus = segmentation_taus().rename(columns={"scipy": SCIPY, "paper": PAPER})
    index = pd.MultiIndex.from_product([["itm, published"], taus.index], names=["scorer", "dataset"])
    return taus.set_axis(index).assign(models=5)
