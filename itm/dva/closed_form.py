"""The closed form of the simulated evolution: a finite geometric sum of a symmetric matrix, differentiated by autograd.

Where ``n·λ_max`` is small, a polynomial of low degree equals the sum of ``n`` terms to rounding. Elsewhere it gives the
sum of the ``m`` terms from which doubling leads to ``n``. Products are ``bmm``: ``@`` adds views for autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

_BLOCK = 4  # powers that share one product of Horner's rule
_MAX_DEGREE = 40
_LIMIT = 16.0  # largest m·λ of a polynomial: beyond it the powers cancel, and doubling is cheaper


def closed_form(
    theta: Tensor, target: Tensor, eta: float | Tensor, n: int | Sequence[int], onto: Tensor | None = None
) -> Tensor:
    """Return ``(I − ηC)ⁿ(Θ − Ê) + Ê`` with ``C = ΘΘᵀ/B`` (Algorithm 2, line 5), on the smaller of the two sides.

    A leading axis of ``S`` independent problems, such as seeds, may precede the shapes below.

    Args:
        theta: Conditioned embeddings ``Θ``, float, ``[B, p]``.
        target: Pseudo-cluster center of each row's class ``Ê``, ``[B, p]``.
        eta: Inner learning rate; with a leading axis also one of each problem, ``[S]``.
        n: Number of inner steps, at least 0; with a leading axis also one of each problem.
        onto: Weights ``H`` of a linear layer that the evolved embeddings pass through, ``[C, p]``.

    Returns:
        The evolved embeddings ``E``, ``[B, p]``, or ``E Hᵀ``, ``[B, C]``; differentiable in all tensors.
    """
    if theta.ndim == 2:
        return closed_form(theta[None], target[None], eta, n, None if onto is None else onto[None])[0]
    batch, p = theta.shape[1:]
    rate = eta[:, None, None] / batch if isinstance(eta, Tensor) else eta / batch
    if p > batch:
        k = torch.bmm(theta * rate, theta.mT)
        evolved = theta - torch.bmm(k, torch.bmm(geometric_sum(k, n), theta - target))
        return evolved if onto is None else torch.bmm(onto, evolved.mT).mT
    gram = torch.bmm(theta.mT, theta)
    k, first = gram * rate, torch.baddbmm(gram, -target.mT, theta) * -rate  # the first step, −(η/B)·(Θ − Ê)ᵀΘ
    # the head joins the inner map, p x p, which costs less than a product with every row
    eye = torch.eye(p, dtype=k.dtype, device=k.device).expand_as(k)
    start, change = (eye, first) if onto is None else (onto, torch.bmm(onto, first))
    return torch.bmm(torch.baddbmm(start, change, geometric_sum(k, n)), theta.mT).mT


def geometric_sum(k: Tensor, n: int | Sequence[int]) -> Tensor:
    """Return ``S_n = Σ_{i<n} (I − K)ⁱ`` of symmetric ``K [S, q, q]`` to rounding, in O(log n) products.

    Each ``K`` may have its own ``n``. The sum grows without bound in ``n`` where an eigenvalue of ``K`` lies above 2.
    """
    counts, fixed = [n] * len(k) if isinstance(n, int) else list(n), k.detach()
    # λ_max <= ‖K²‖_F^½ <= λ_max·q^¼
    largest = torch.linalg.vector_norm(torch.bmm(fixed, fixed), dim=(1, 2)).sqrt().tolist()
    if not all(map(math.isfinite, largest)):
        return k * math.nan
    bound, levels = max(count * value for count, value in zip(counts, largest, strict=True)), 0
    while bound > _LIMIT * 2**levels and max(counts) >> levels > 1:
        levels += 1
    # rounded up, so that the batches of a run share few sets of coefficients
    reach = 2.0 ** (math.ceil(4 * math.log2(max(bound / 2**levels, 1e-3))) / 4)
    s, *power = _polynomials(k, tuple(count >> levels for count in counts), reach, 2 if levels else 1)
    # one binary digit b of n takes m to 2m + b: S ← S + P(S + bP) and P ← P²(I − bK), where P = (I − K)ᵐ
    for level in reversed(range(levels)):
        p = power.pop()
        odd = [count >> level & 1 for count in counts]
        digit = k.new_tensor(odd)[:, None, None] if any(odd) else None
        s = torch.baddbmm(s, p, s if digit is None else s + digit * p)
        if level > 0:
            p = torch.bmm(p, p)
            power.append(p if digit is None else torch.baddbmm(p, p, digit * k, alpha=-1))
    return s


def _polynomials(k: Tensor, terms: tuple[int, ...], reach: float, count: int) -> list[Tensor]:
    """Return ``S_m(K)`` and, with a ``count`` of 2, ``(I − K)ᵐ`` as polynomials in ``Y = 2m·K/reach − I``.

    The spectrum of ``Y`` lies in [−1, 1], where powers do not cancel. By the rule of Paterson and Stockmeyer (1973),
    cubics ``B_j(Y)`` are joined in Horner's steps ``V_j = B_j + Y⁴·V_{j+1}``.
    """
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device).expand_as(k)
    factors, coefficients = _coefficients(terms, reach, count, k.dtype, k.device)
    y = k * factors - eye
    y2 = torch.bmm(y, y)
    powers = torch.stack([eye, y, y2, torch.bmm(y, y2)], dim=1).flatten(2)
    cubics = torch.bmm(coefficients, powers).view(len(k), -1, *k.shape[1:]).unbind(1)
    size = len(cubics) // count
    y4 = torch.bmm(y2, y2) if size > 1 else y2
    values = list(cubics[size - 1 :: size])
    for step in range(2, size + 1):
        values = [torch.baddbmm(b, y4, v) for b, v in zip(cubics[size - step :: size], values, strict=True)]
    return values


@lru_cache(maxsize=256)
def _coefficients(terms: tuple[int, ...], reach: float, count: int, dtype: torch.dtype, device: torch.device) -> Any:
    """Return factors ``2m/reach`` of ``Y [S, 1, 1]`` and coefficients by power ``[S, rows, 4]``, cut at rounding."""
    series = []
    for m in terms:
        degree = min(m, _MAX_DEGREE)
        y = chebyshev.chebpts1(degree + 1)
        power = 1 - reach * (1 + y) / 2 / max(m, 1)
        values = np.stack([(power[:, None] ** np.arange(m)).sum(axis=1), power**m], axis=1)[:, :count]
        for column in np.transpose(chebyshev.chebfit(y, values, degree)):
            kept = np.abs(column) > max(torch.finfo(dtype).eps, 4e-15) * np.abs(column).max()
            series.append(chebyshev.cheb2poly(column[: int(np.flatnonzero(kept).max(initial=0)) + 1]))
    width = math.ceil(max(map(len, series)) / _BLOCK) * _BLOCK
    padded = np.stack([np.pad(row, (0, width - len(row))) for row in series]).reshape(len(terms), -1, _BLOCK)
    factors = np.array(terms).reshape(-1, 1, 1) * 2 / reach
    return tuple(torch.as_tensor(each, dtype=dtype, device=device) for each in (factors, padded))
