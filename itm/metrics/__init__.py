"""Rank statistics of scores against true accuracies.

:mod:`itm.metrics.single` has them for one set of models, :mod:`itm.metrics.functional` for many sets at once,
:mod:`itm.metrics.modules` as torchmetrics classes (imported on demand), :mod:`itm.metrics.uncertainty` their intervals.
"""

from itm.metrics.single import (
    kendall_tau,
    ndcg_at_k,
    partial_kendall_tau,
    pearson_r,
    recall_at_k,
    regret,
    spearman_rho,
    weighted_kendall_tau,
)

__all__ = [
    "kendall_tau",
    "ndcg_at_k",
    "partial_kendall_tau",
    "pearson_r",
    "recall_at_k",
    "regret",
    "spearman_rho",
    "weighted_kendall_tau",
]
