"""One-vs-rest linear support vector machines by Newton's method, to the exact minimum."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

_STEPS = 1000  # about 60 where there are a dozen times as many rows as dimensions


def one_vs_rest_svm(x: Tensor, y: Tensor, num_classes: int, cost: float = 1.0) -> Tensor:
    """Minimise ``|w_c|^2 / 2 + cost * sum_i max(0, 1 - t_ic x_i w_c)^2`` for each class ``c``, ``t`` being +1 or -1.

    This is the objective of scikit-learn's ``LinearSVC``, whose solvers take minutes, or stop before the minimum, where
    there are many classes or more dimensions than rows. The objective is a quadratic for each set of rows inside the
    margin; Newton's method visits such sets until one confirms itself (Chapelle, Neural Computation 2007).

    Args:
        x: Rows, float64, ``[N, D]``; append a column of ones for a bias.
        y: Classes, ``[N]``.
        num_classes: ``C``; a class without rows gets a machine that rejects every row.
        cost: Weight of the loss.

    Returns:
        Weights, ``[D, C]``.
    """
    signs = 2.0 * torch.nn.functional.one_hot(y, num_classes).to(x.dtype) - 1.0
    # With every row inside the margin all classes share one factorisation.
    start = _ridge(x, signs, cost)
    machines = [_descend(x, t, w, cost) for t, w in zip(signs.T, start.T, strict=True)]
    return torch.stack(machines, dim=1)


def _descend(x: Tensor, signs: Tensor, weights: Tensor, cost: float) -> Tensor:
    """Take Newton steps from ``weights [D]``, halved where a full one would not descend."""
    slack = 1 - signs * (x @ weights)
    inside = slack > 0
    for _ in range(_STEPS):
        goal = _ridge(x[inside], signs[inside, None], cost).squeeze(1)
        goal_slack = 1 - signs * (x @ goal)
        if torch.equal(goal_slack > 0, inside):
            return goal
        step, value = 1.0, _objective(weights, slack, cost)
        while (
            step > 1e-9
            and _objective(torch.lerp(weights, goal, step), torch.lerp(slack, goal_slack, step), cost) > value
        ):
            step /= 2
        weights, slack = torch.lerp(weights, goal, step), torch.lerp(slack, goal_slack, step)
        inside = slack > 0
    warnings.warn(f"a support vector machine did not reach its minimum in {_STEPS} steps.", stacklevel=2)
    return weights


def _objective(weights: Tensor, slack: Tensor, cost: float) -> float:
    return float(weights.square().sum() / 2 + cost * slack.clamp_min(0).square().sum())


def _ridge(x: Tensor, targets: Tensor, cost: float) -> Tensor:
    """Minimise ``|w|^2 / 2 + cost * |targets - x w|^2`` on the smaller side of ``x [n, D]``; ``[D, k]``."""
    rows = x.numpy()  # numpy notices that the product is symmetric and does half the work, torch does not
    few = len(rows) <= rows.shape[1]
    gram = torch.from_numpy(rows @ rows.T if few else rows.T @ rows)
    gram.diagonal().add_(1 / (2 * cost))
    factor = torch.linalg.cholesky(gram)
    if few:
        return x.T @ torch.cholesky_solve(targets, factor)
    return torch.cholesky_solve(x.T @ targets, factor)
