"""One-vs-rest linear support vector machines, all classes at once."""

from __future__ import annotations

import torch
from torch import Tensor


def one_vs_rest_svm(
    x: Tensor, y: Tensor, num_classes: int, *, cost: float = 1.0, tolerance: float = 1e-3, iterations: int = 1000
) -> Tensor:
    """Minimise ``|w_c|^2 / 2 + cost * sum_i max(0, 1 - t_ic x_i w_c)^2`` for each class ``c``, ``t`` being +1 or -1.

    This is the objective of scikit-learn's ``LinearSVC``, whose coordinate descent takes minutes where there are many
    classes. Here the classes share one factorisation: ``I + 2 cost X'X`` bounds every Hessian, so that steps by its
    inverse never overshoot; Nesterov's momentum, restarted where it turns against the gradient, speeds them up.

    Args:
        x: Rows, float64, ``[N, D]``; append a column of ones for a bias.
        y: Classes, ``[N]``.
        num_classes: ``C``; a class without rows gets a machine that rejects.
        cost: Weight of the loss.
        tolerance: Stop when the gradient's norm has shrunk to this share of its first value.
        iterations: Stop at the latest after so many.

    Returns:
        Weights, ``[D, C]``.
    """
    signs = 2.0 * torch.nn.functional.one_hot(y, num_classes).to(x.dtype) - 1.0
    bound = 2 * cost * (x.T @ x)
    bound.diagonal().add_(1.0)
    factor = torch.linalg.cholesky(bound)
    weights = torch.zeros(x.shape[1], num_classes, dtype=x.dtype)
    ahead, momentum, first = weights, 1.0, 0.0
    for _ in range(iterations):
        slack = (1 - signs * (x @ ahead)).clamp_min_(0.0)
        gradient = ahead - 2 * cost * (x.T @ (signs * slack))
        size = float(gradient.norm())
        first = first or size
        if size <= tolerance * first:
            break
        following = ahead - torch.cholesky_solve(gradient, factor)
        if float((gradient * (following - weights)).sum()) > 0:
            momentum = 1.0
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = following + (momentum - 1) / grown * (following - weights)
        weights, momentum = following, grown
    return ahead
