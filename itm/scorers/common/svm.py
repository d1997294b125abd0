"""One-vs-rest linear support vector machines at their exact minimum: conjugate gradients, then Newton's method."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from itm.scorers.common.moments import gram

_STEPS = 1000  # of Newton's method; about 20 from the common start, 2 after the conjugate gradients
_ROUNDS, _ROUNDS_BETWEEN_CHECKS = 300, 20
_TINY = torch.finfo(torch.float32).tiny
_SHARE_INSIDE = 0.3  # of the rows, in the preconditioner: from 0.1 to 0.5 the speed is the same


def one_vs_rest_svm(x: Tensor, y: Tensor, num_classes: int, cost: float = 1.0) -> Tensor:
    """Minimise ``|w_c|^2 / 2 + cost * sum_i max(0, 1 - t_ic x_i w_c)^2`` for each class ``c``, ``t`` being +1 or -1.

    This is the objective of scikit-learn's ``LinearSVC``, whose solvers take minutes, or stop before the minimum, where
    there are many classes or more dimensions than rows. The objective is a quadratic for each set of rows inside the
    margin; Newton's method visits such sets until one confirms itself (Chapelle, Neural Computation 2007), so the
    result is exact. Where there are more rows than dimensions a step costs ``N D^2`` for each class, and conjugate
    gradients, ``N D`` for each class, first come near these sets.

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
    if len(x) > x.shape[1]:
        near = _conjugate_gradients(x, signs.T.float(), start.T.float(), cost).T.to(x.dtype)
        start = near if near.isfinite().all() else start  # values beyond float32
    machines = [_descend(x, t, w, cost) for t, w in zip(signs.T, start.T, strict=True)]
    return torch.stack(machines, dim=1)


def _conjugate_gradients(x: Tensor, signs: Tensor, weights: Tensor, cost: float) -> Tensor:
    """Descend from ``weights [C, D]``, all classes together, until few rows change sides.

    The preconditioner is the Hessian of an even share of the rows. Float32 is enough, as Newton's method follows.
    Classes first is the order in which products with few classes are fast.
    """
    hessian = gram(x) * (2 * cost * _SHARE_INSIDE)
    hessian.diagonal().add_(1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).float()
    x = x.float()
    slack = 1 - signs * (weights @ x.T)
    inside = slack > 0
    direction, previous, energy = torch.zeros_like(weights), torch.zeros_like(weights), torch.ones(len(weights), 1)
    for round_ in range(1, _ROUNDS + 1):
        gradient = weights - 2 * cost * ((signs * slack.clamp_min(0)) @ x)
        downhill = gradient @ inverse
        # Polak and Ribiere's rule, which restarts by itself where it would turn negative
        keep = ((downhill * (gradient - previous)).sum(1, keepdim=True) / energy).clamp_min(0)
        direction = keep * direction - downhill
        previous, energy = gradient, (downhill * gradient).sum(1, keepdim=True).clamp_min(_TINY)
        change = -signs * (direction @ x.T)
        step = _best_step(weights, direction, slack, change, cost)
        weights, slack = weights + step * direction, slack + step * change
        if round_ % _ROUNDS_BETWEEN_CHECKS == 0:
            changed = (slack > 0) != inside
            if changed.sum() <= len(weights):
                break
            inside = slack > 0
    return weights


def _best_step(weights: Tensor, direction: Tensor, slack: Tensor, change: Tensor, cost: float) -> Tensor:
    """Return each class's step ``[C, 1]`` to the minimum along its direction, by Newton's method on the slope."""
    step = torch.ones(len(weights), 1)
    along = (weights * direction).sum(1, keepdim=True)
    length = direction.square().sum(1, keepdim=True).clamp_min(_TINY)
    for _ in range(5):
        pushing = change * (slack + step * change > 0)
        curvature = length + 2 * cost * (pushing * change).sum(1, keepdim=True)
        step = (-(along + 2 * cost * (pushing * slack).sum(1, keepdim=True)) / curvature).clamp_min(0)
    return step


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
    few = len(x) <= x.shape[1]
    products = gram(x.T if few else x)
    products.diagonal().add_(1 / (2 * cost))
    factor = torch.linalg.cholesky(products)
    if few:
        return x.T @ torch.cholesky_solve(targets, factor)
    return torch.cholesky_solve(x.T @ targets, factor)
