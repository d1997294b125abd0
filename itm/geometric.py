"""The closed form of the simulated evolution: a finite geometric sum of a symmetric matrix, and what surrounds it.

With ``K = (η/B)·ΘᵀΘ`` the evolution needs ``S_n(K) = Σ_{i<n} (I − K)ⁱ``, a function of the eigenvalues
``S_n(x) = (1 − (1 − x)ⁿ)/x`` that behaves like ``exp(−nx)``. Where ``n·λ_max`` is small it is a polynomial of low
degree to the last digit; where it is not, a polynomial for fewer terms ``m`` is doubled up to ``n``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 4  # powers that share one product of Horner's rule
_MAX_DEGREE = 40
_LIMIT = 16.0  # largest n·λ of a polynomial alone: beyond it doubling is cheaper
_START = 0.5  # largest m·λ where doubling starts: its first power I − KS is then as exact as squaring


def geometric_sum(k: Tensor, n: int) -> Tensor:
    """``S_n = Σ_{i<n} (I − K)ⁱ`` to rounding, in at most O(log n) products, differentiable in ``K``.

    Args:
        k: Symmetric positive semi-definite matrix, ``[p, p]``.
        n: Number of terms, at least 0.

    Returns:
        The sum, ``[p, p]``. It grows without bound in ``n`` where an eigenvalue of ``K`` lies above 2.
    """
    total: Tensor = _GeometricSum.apply(k, n)
    return total


def closed_form(theta: Tensor, target: Tensor, eta: float, n: int) -> Tensor:
    """``(I − ηC)ⁿ(Θ − Ê) + Ê`` with ``C = ΘΘᵀ/B`` (Algorithm 2, line 5), on the smaller of the two sides.

    Args:
        theta: Conditioned embeddings ``Θ``, float, ``[B, p]``.
        target: Pseudo-cluster center of each row's class ``Ê``, ``[B, p]``.
        eta: Inner learning rate.
        n: Number of inner steps, at least 0.

    Returns:
        The evolved embeddings, ``[B, p]``, differentiable in ``theta`` and ``target``.
    """
    if theta.shape[1] <= len(theta):
        evolved: Tensor = _ClosedForm.apply(theta, target, eta / len(theta), n)
        return evolved
    k = (eta / len(theta)) * (theta @ theta.T)
    return theta - k @ (geometric_sum(k, n) @ (theta - target))


class _ClosedForm(torch.autograd.Function):
    """``E = Θ·W`` with ``W = I − S_n(K)·T``, ``K = r·ΘᵀΘ`` and ``T = r·ΘᵀR``, ``R = Θ − Ê``, all p x p.

    Backward, with a bar for a gradient: ``V̄ = −ΘᵀḠ``, ``T̄ = S·V̄``, ``S̄ = V̄·Tᵀ``, ``K̄`` the derivative of ``S_n`` in
    the direction of ``S̄``; then ``R̄ = r·Θ·T̄`` and ``Θ̄ = Ḡ·Wᵀ + r·(R·T̄ᵀ + 2·Θ·K̄) + R̄``, and ``Ê`` gets ``−R̄``.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, target: Tensor, rate: float, n: int) -> Tensor:
        residual = theta - target
        sums = _Doubling((theta.T @ theta).mul_(rate), n)
        t = (theta.T @ residual).mul_(rate)
        w = torch.addmm(_identity(len(t), t.dtype, t.device), sums.value, t, alpha=-1)
        ctx.save_for_backward(theta, residual)
        ctx.sums, ctx.t, ctx.w, ctx.rate = sums, t, w, rate
        return theta @ w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        theta, residual = ctx.saved_tensors
        v_bar = (theta.T @ grad).neg_()
        t_bar = (ctx.sums.value @ v_bar).mul_(ctx.rate)
        to_theta = to_target = None
        if ctx.needs_input_grad[0]:
            k_bar = ctx.sums.derivative(v_bar @ ctx.t.T)
            to_theta = (grad @ ctx.w.T).addmm_(residual, t_bar.T).addmm_(theta, k_bar.mul_(2 * ctx.rate).add_(t_bar))
        if ctx.needs_input_grad[1]:
            to_target = (theta @ t_bar).neg_()
        return to_theta, to_target, None, None


class _GeometricSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int) -> Tensor:
        ctx.sums = _Doubling(k, n)
        value: Tensor = ctx.sums.value
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.sums.derivative(grads[0]), None


class _Doubling:
    """``S_n(K)`` as ``value``: a polynomial for the leading binary digits of ``n``, and doubling for the others.

    With ``A = I − K`` and ``P_m = Aᵐ``, one digit ``b`` of ``n`` takes ``m`` to ``2m + b``: ``S ← S + P(S + bP)`` and
    ``P ← P²Aᵇ``. (``I − KS`` would give each ``P`` in one product, but loses four digits of the gradient where ``K``
    is nearly singular; it serves only as the first ``P``, where ``m·λ`` is small.)
    """

    def __init__(self, k: Tensor, n: int) -> None:
        squared = k @ k
        bound = math.sqrt(float(squared.norm()))  # λ_max <= ‖K²‖_F^½ <= λ_max·p^¼
        levels = 0
        if not n * bound <= _LIMIT:  # also where the bound is not a number
            while n >> levels > 1 and not (n >> levels) * bound <= _START:
                levels += 1
        self.k, self.series = k, _Polynomial(k, squared, n >> levels, bound)
        self.chain: list[tuple[Tensor, Tensor, Tensor | None]] = []
        s = self.value = self.series.value
        if not levels:
            return
        eye = _identity(len(k), k.dtype, k.device)
        self.a = eye - k
        p = torch.addmm(eye, k, s, alpha=-1)
        for level in reversed(range(levels)):
            odd, last = n >> level & 1, level == 0
            p_squared = p if last else p @ p
            self.chain.append((p, s, p_squared if odd else None))
            s = torch.addmm(s, p, s + p if odd else s)
            if not last:
                p = p_squared @ self.a if odd else p_squared
        self.value = s

    def derivative(self, x: Tensor) -> Tensor:
        """Gradient of ``S_n`` at ``K`` for an incoming gradient ``x``; symmetric.

        The derivative of a polynomial at a symmetric matrix is self-adjoint, so this is the directional derivative
        along the symmetric part of ``x``, which follows the steps of the value.
        """
        x = x.add(x.T).div_(2)
        ds = self.series.derivative(x)
        if not self.chain:
            return ds
        dp = torch.addmm(x @ self.series.value, self.k, ds).neg_()
        for level, (p, s, p_squared) in enumerate(self.chain, start=1):
            odd = p_squared is not None
            ds = torch.addmm(ds, p, ds + dp if odd else ds).addmm_(dp, s + p if odd else s)
            if level < len(self.chain):
                half = p @ dp
                dp = half + half.T
                if p_squared is not None:
                    dp = torch.addmm(dp @ self.a, p_squared, x, alpha=-1)
        return ds


class _Polynomial:
    """``S_m(K)`` as ``value``: a polynomial in ``Y = K/r − I``, whose eigenvalues lie in [−1, 1].

    Evaluated by the rule of Paterson and Stockmeyer (1973): with ``Z = Y⁴`` and cubics ``B_j(Y)``, Horner's rule
    ``V_j = B_j + Z·V_{j+1}``. The derivative along ``X`` follows: ``dV_j = dB_j + dZ·V_{j+1} + Z·dV_{j+1}``.
    """

    def __init__(self, k: Tensor, squared: Tensor, m: int, bound: float) -> None:
        # rounded up, so that the steps of one run share few sets of coefficients
        bound = 2 ** (math.ceil(4 * math.log2(max(bound, 1e-3 / m))) / 4) if m > 1 else 1.0
        self.rows = _coefficients(m, bound, k.dtype, k.device)
        self.scale = 2 / bound
        self.powers = k.new_empty(_BLOCK + 1, *k.shape)
        y = self.y = self.powers.unbind()
        y[0].copy_(_identity(len(k), k.dtype, k.device))
        torch.sub(self.scale * k, y[0], out=y[1])
        torch.add(self.scale**2 * squared, y[1], alpha=-2, out=y[2]).sub_(y[0])
        torch.mm(y[1], y[2], out=y[3])
        *blocks, last = (self.rows @ self.powers[:_BLOCK].flatten(1)).view(-1, *k.shape).unbind()
        self.partial = [last]
        if blocks:
            torch.mm(y[2], y[2], out=y[4])
        for block in reversed(blocks):
            self.partial.append(torch.addmm(block, y[4], self.partial[-1]))
        self.value = self.partial[-1]

    def derivative(self, x: Tensor) -> Tensor:
        """Directional derivative of ``S_m`` along a symmetric ``x``."""
        y, changes = self.y, torch.empty_like(self.powers[1:])
        dy = changes.unbind()
        torch.mul(x, self.scale, out=dy[0])
        half = y[1] @ dy[0]
        torch.add(half, half.T, out=dy[1])
        torch.mm(y[1], dy[1], out=dy[2]).addmm_(dy[0], y[2])
        *blocks, ds = (self.rows[:, 1:] @ changes[: _BLOCK - 1].flatten(1)).view(-1, *x.shape).unbind()
        if blocks:
            half = y[2] @ dy[1]
            torch.add(half, half.T, out=dy[3])
        for block, partial in zip(reversed(blocks), self.partial, strict=False):
            ds = torch.addmm(block, y[4], ds).addmm_(dy[3], partial)
        return ds


@lru_cache(maxsize=64)
def _identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=dtype, device=device)


@lru_cache(maxsize=256)
def _coefficients(m: int, bound: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients of ``S_m(bound·(1 + y)/2)`` on [−1, 1] by ascending power, in rows of four.

    The Chebyshev interpolant, cut where its terms fall below rounding. Around the middle of the interval the powers do
    not cancel: the coefficients' magnitudes add up to the function's largest value, as those of ``exp(−ay)`` do.
    """
    if m <= 1:
        return torch.tensor([[float(m), 0.0, 0.0, 0.0]], dtype=dtype, device=device)

    def mean_power(y: Any) -> Any:
        x = bound * (1 + y) / 2
        small = np.minimum(x, 0.5)  # 1 − (1 − x)ᵐ cancels there
        return np.where(x < 0.5, -np.expm1(m * np.log1p(-small)), 1 - (1 - x) ** m) / (m * x)

    terms = chebyshev.chebinterpolate(mean_power, min(_MAX_DEGREE, m - 1))
    degree = int(np.flatnonzero(np.abs(terms) > max(torch.finfo(dtype).eps, 4e-16) * np.abs(terms).max())[-1])
    size = (degree // _BLOCK + 1) * _BLOCK
    powers = np.zeros(size)
    kept = chebyshev.cheb2poly(terms[:size])
    powers[: len(kept)] = m * kept
    return torch.tensor(powers.reshape(-1, _BLOCK), dtype=dtype, device=device)
