"""Logarithm of maximum evidence (You et al., ICML 2021)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.moments import Moments, moments

_EPS = 1e-5  # the published guard of both precisions; in the exact evidence the least residual of a perfect fit
_ROUNDS, _TOLERANCE = 11, 1e-3  # the published stopping rule


@settings("scorer.logme")
class LogME(Scorer):
    """Log evidence per row of a Bayesian linear model ``t = Xw + noise``, averaged over the one-vs-rest targets ``t``.

    Prior precision ``alpha`` of ``w`` and noise precision ``beta`` maximise the evidence of each target. Features are
    neither centred nor scaled, without a bias, as published.

    The published fixed point stops after 11 rounds. Where ``N < D`` it adds ``ln(alpha) / 2`` for each dimension beyond
    ``N``, so it grows with the width even of noise. The default is the exact maximum; the two agree to about 1e-7 where
    ``N > D`` and the published rounds converged.

    Args:
        reference: True gives the published number (thuml/LogME, ``_fit_fixed_point``).
    """

    reference: bool = False

    name: ClassVar[str] = "logme"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        sigma, a, rest = _project(m)
        evidence = _fixed_point(m, sigma, a, rest) if self.reference else _maximum(m, sigma, a, rest)
        return Score(evidence.mean().item(), details={"rank": len(sigma)})


def _project(m: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose the targets along the left singular vectors of X, on the smaller side of X.

    Returns:
        Squared singular values ``sigma [k]``, squared components of the targets ``a [k, C]``, and what is left of their
        squared norms, ``[C]``.
    """
    if m.d <= m.n:
        sigma, v = torch.linalg.eigh(m.gram + m.n * torch.outer(m.mean, m.mean))
        projected = v.T @ (m.class_means * m.counts[:, None]).T
    else:
        offset = m.centered @ m.mean
        sigma, u = torch.linalg.eigh(m.gram + offset + offset[:, None] + m.mean.square().sum())
        projected = torch.zeros(m.n, m.c, dtype=torch.float64).index_add_(1, m.y, u.T)
    keep = sigma > torch.finfo(torch.float64).eps * max(m.n, m.d) * sigma[-1]
    sigma, a = sigma[keep], projected[keep].square()
    if m.d <= m.n:
        a = a / sigma[:, None]
    return sigma, a, (m.counts - a.sum(0)).clamp_min(0.0)


def _maximum(m: Moments, sigma: Tensor, a: Tensor, rest: Tensor) -> Tensor:
    """Maximise each target's evidence per row over ``ln tau = ln(alpha / beta)``: a wide grid, then closer ones."""
    ends = sigma.log()[[0, -1]] if len(sigma) else torch.zeros(2, dtype=torch.float64)
    # Beyond e^40 the prior forbids any fit, below e^-40 it forbids nothing: the evidence is flat or falling there.
    grid = torch.linspace(ends[0].item() - 40, ends[1].item() + 40, 96, dtype=torch.float64)[None]
    reach = (grid[0, 1] - grid[0, 0]).item()
    evidence, index = _evidence(m.n, sigma, a, rest, grid).max(dim=1)
    center = grid[0, index]
    steps = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)
    while reach > 1e-4:  # at a maximum an error of 1e-4 in ln tau costs less than 1e-8
        grid = center[:, None] + reach * steps
        evidence, index = _evidence(m.n, sigma, a, rest, grid).max(dim=1)
        center = grid.gather(1, index[:, None]).squeeze(1)
        reach /= 4
    return evidence


def _evidence(n: int, sigma: Tensor, a: Tensor, rest: Tensor, log_tau: Tensor) -> Tensor:
    """Log evidence per row, ``[C, G]``, at ``log_tau`` ``[C or 1, G]`` and the best beta for it."""
    tau = log_tau.exp()[..., None]
    shrinkage = tau / (tau + sigma)
    residual = (shrinkage @ a.T[..., None]).squeeze(-1) + rest[:, None]
    log_det = -shrinkage.log().sum(-1)
    return -0.5 * ((residual.clamp_min(_EPS) / n).log() + log_det / n + 1 + math.log(2 * math.pi))


def _fixed_point(m: Moments, sigma: Tensor, a: Tensor, rest: Tensor) -> Tensor:
    """Compute the published evidence per row, ``[C]``: MacKay's updates, at most 11 rounds.

    The log-determinant has ``min(N, D)`` terms; directions without variance, such as dead units, count with
    ``ln(alpha)``, since the published rank test keeps their eigenvalues, which rounding leaves above its threshold.
    """
    k = min(m.n, m.d)
    s = sigma[:, None]
    alpha = beta = evidence = torch.ones(m.c, dtype=torch.float64)
    active = torch.ones(m.c, dtype=torch.bool)
    for _ in range(_ROUNDS):
        tau = alpha / beta
        gamma = (s / (s + tau)).sum(0)
        weight = (s * a / (tau + s) ** 2).sum(0)
        residual = (a / (1 + s / tau) ** 2).sum(0) + rest
        alpha = torch.where(active, gamma / (weight + _EPS), alpha)
        beta = torch.where(active, (m.n - gamma) / (residual + _EPS), beta)
        log_det = (alpha + beta * s).log().sum(0) + (k - len(sigma)) * alpha.log()
        total = m.d * alpha.log() + m.n * (beta / (2 * math.pi)).log() - log_det - beta * residual - alpha * weight
        evidence = torch.where(active, total / (2 * m.n), evidence)
        active &= (alpha / beta - tau).abs() / tau > _TOLERANCE
    return evidence
