"""Rank statistics of one set of models: pure functions of true accuracies and scores.

Every function takes ``truth`` (the fine-tuned accuracy) and ``scores``, one finite number per model in the same order,
higher is better, as sequences, arrays or tensors. All raise :class:`~itm.core.errors.SettingError`, naming the
argument and the index, if a number is missing, NaN or infinite, if lengths differ, or if there are fewer than two
models: a model without a score has no rank. Values do not depend on the order in which models are listed. A
correlation is 0 where ``truth`` or ``scores`` is constant: nothing is ordered, so nothing agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from itm.metrics import functional
from itm.metrics.functional import Definition, Values


def weighted_kendall_tau(truth: Values, scores: Values, definition: Definition = "scipy") -> float:
    r"""Return Kendall's tau in which pairs of good models weigh more; the literature means one of two things by it.

    ``"scipy"``, used by the published code of SFDA, PED, ETran and SA, is :func:`scipy.stats.weightedtau` (Vigna 2015):
    weights :math:`1/r_i + 1/r_j`, the mean of ranking by truth and ranking by score, ties as in tau-b.

    ``"paper"`` is the formula printed in the ITM paper, with ranks :math:`G` by truth and :math:`P` by score, 1 = best:

    .. math:: \tau_w = \sum_{i<j} w_{ij} \operatorname{sgn}(G_i - G_j) \operatorname{sgn}(P_i - P_j) \Big/
        \sum_{i<j} w_{ij}, \qquad w_{ij} = 1 / (G_i + G_j).

    Models of equal truth share their mean rank; a pair tied in both truth and score counts in neither sum (ours: the
    formula is silent on ties). The two differ by a tenth or more on ten models, so say which one a number is. The ITM
    paper's segmentation table reports 0.61 (CamVid) and 0.72 (Cityscapes); from the accuracies and scores printed in
    it ``"scipy"`` gives 0.566 and 0.657, ``"paper"`` 0.446 and 0.588.

    Returns:
        A number in -1..1; 1 for the true order, near 0 for a random one (with ten models its standard deviation is
        about 0.3).

    Example:
        >>> camvid = [58.11, 60.05, 63.99, 64.52, 68.25]
        >>> scores = [85.87, 86.41, 88.58, 83.85, 89.03]
        >>> round(weighted_kendall_tau(camvid, scores), 3)
        0.566
        >>> round(weighted_kendall_tau(camvid, scores, definition="paper"), 3)
        0.446
    """
    return _one(partial(functional.weighted_kendall_tau, definition=definition), truth=truth, scores=scores)


def kendall_tau(truth: Values, scores: Values) -> float:
    """Return Kendall's tau-b: concordant minus discordant pairs over the geometric mean of the pairs untied in each.

    Returns:
        A number in -1..1.

    Example:
        >>> round(kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]), 4)
        0.6667
    """
    return _one(functional.kendall_tau, truth=truth, scores=scores)


def partial_kendall_tau(truth: Values, scores: Values, prior: Values) -> float:
    r"""Measure what a score adds to a prior: agreement of truth and score without the part that the prior explains.

    .. math:: \tau_{ts \cdot p} = (\tau_{ts} - \tau_{tp} \tau_{sp}) / \sqrt{(1 - \tau_{tp}^2)(1 - \tau_{sp}^2)}

    of three tau-b (Kendall 1942); with ``p`` for example the number of parameters. It is 0 where score or truth orders
    the models exactly as the prior does or exactly opposite: then nothing is left to add.

    Returns:
        A number in -1..1.

    Example:
        >>> truth, scores, size = [70, 72, 75, 79], [0.1, 0.4, 0.3, 0.9], [5, 9, 7, 20]
        >>> kendall_tau(truth, scores) > 0.6, partial_kendall_tau(truth, scores, size)
        (True, 0.0)
    """
    return _one(functional.partial_kendall_tau, truth=truth, scores=scores, prior=prior)


def spearman_rho(truth: Values, scores: Values) -> float:
    """Return Spearman's rank correlation; ties share their mean rank.

    Returns:
        A number in -1..1.

    Example:
        >>> round(spearman_rho([1, 2, 3, 4], [1, 2, 4, 3]), 4)
        0.8
    """
    return _one(functional.spearman_rho, truth=truth, scores=scores)


def pearson_r(truth: Values, scores: Values) -> float:
    """Return Pearson's linear correlation, which reads the size of differences too.

    Returns:
        A number in -1..1.

    Example:
        >>> round(pearson_r([1, 2, 3], [2, 4, 7]), 4)
        0.9934
    """
    return _one(functional.pearson_r, truth=truth, scores=scores)


def recall_at_k(truth: Values, scores: Values, k: int = 3) -> float:
    """Share of the ``k`` best-scored models that are among the ``k`` truly best.

    A model as good as the ``k``-th best counts as one of the best. Models of equal score share the places they compete
    for, which gives the mean over all ways of breaking the tie.

    Args:
        truth: Accuracy of each model.
        scores: Score of each model.
        k: Length of the shortlist, 1 to the number of models.

    Returns:
        A number in 0..1.

    Raises:
        SettingError: If ``k`` is out of range.

    Example:
        >>> recall_at_k([90, 80, 70, 60], [0.9, 0.2, 0.5, 0.1], k=2)
        0.5
    """
    return _one(partial(functional.recall_at_k, k=k), truth=truth, scores=scores)


def ndcg_at_k(truth: Values, scores: Values, k: int | None = None) -> float:
    """Return the discounted cumulative gain of the score's order over that of the true order.

    The gain of a model is its truth minus that of the worst model, so that accuracies from 85 to 95 do not all look
    alike; position ``p`` (1 = best score) is discounted by ``1/log2(1 + p)``. Models of equal score share the discounts
    of the places they compete for. 1 where truth is constant: every order is the best.

    Args:
        truth: Accuracy of each model.
        scores: Score of each model.
        k: Positions that count, 1 to the number of models; None: all.

    Returns:
        A number in 0..1; 1 for the true order.

    Raises:
        SettingError: If ``k`` is out of range.

    Example:
        >>> round(ndcg_at_k([90, 80, 60], [0.9, 0.2, 0.5], k=2), 4)  # 30 / (30 + 20 / log2(3))
        0.7039
    """
    return _one(partial(functional.ndcg_at_k, k=k), truth=truth, scores=scores)


def regret(truth: Values, scores: Values) -> float:
    """Return the cost of following the score: truth of the best model minus truth of the best-scored one.

    Where several models share the best score, the mean over them.

    Returns:
        A non-negative number in the unit of ``truth``; lower is better.

    Example:
        >>> regret([90.0, 88.5, 91.0], [0.3, 0.9, 0.5])
        2.5
    """
    return _one(functional.regret, truth=truth, scores=scores)


def _one(statistic: Callable[..., functional.Array], **columns: Any) -> float:
    return float(statistic(*(column[np.newaxis] for column in functional.finite_columns(**columns)))[0])
