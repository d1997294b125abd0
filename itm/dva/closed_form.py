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
from numpy.polynomial import Chebyshev, Polynomial, chebyshev
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 4  # powers that share one product of Horner's rule
_MAX_DEGREE = 40
_CENTERED = 1.5  # m·λ beyond which powers of m·K cancel too much
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


def closed_form(theta: Tensor, target: Tensor, eta: float, n: int, onto: Tensor | None = None) -> Tensor:
    """``(I − ηC)ⁿ(Θ − Ê) + Ê`` with ``C = ΘΘᵀ/B`` (Algorithm 2, line 5), on the smaller of the two sides.

    Args:
        theta: Conditioned embeddings ``Θ``, float, ``[B, p]``.
        target: Pseudo-cluster center of each row's class ``Ê``, ``[B, p]``.
        eta: Inner learning rate.
        n: Number of inner steps, at least 0.
        onto: Weights ``H`` of a linear layer that the evolved embeddings go through, ``[C, p]``; none if not given.

    Returns:
        The evolved embeddings ``E``, ``[B, p]``, or ``E Hᵀ``, ``[B, C]``; differentiable in all tensors.
    """
    if theta.shape[1] <= len(theta):
        evolved: Tensor = _ClosedForm.apply(theta, target, onto, eta / len(theta), n)
        return evolved
    k = (eta / len(theta)) * (theta @ theta.T)
    evolved = theta - k @ (geometric_sum(k, n) @ (theta - target))
    return evolved if onto is None else evolved @ onto.T


class _ClosedForm(torch.autograd.Function):
    """``E = Θ·W`` with ``W = I − S_n(K)·T``, ``K = r·ΘᵀΘ`` and ``T = r·ΘᵀR``, ``R = Θ − Ê``, p x p; or ``E·Hᵀ``.

    Backward, with a bar for a gradient: ``M̄ = ΘᵀḠ`` for ``M = W`` or ``W·Hᵀ``, ``W̄ = M̄·H`` and ``H̄ = M̄ᵀ·W``,
    ``r·T̄ = −r·S·W̄``, ``S̄ = −W̄·Tᵀ``, ``2·K̄`` the derivative of ``S_n`` along ``S̄ + S̄ᵀ``; then ``R̄ = r·Θ·T̄`` and
    ``Θ̄ = Ḡ·Mᵀ + r·(R·T̄ᵀ + 2·Θ·K̄) + R̄``, and ``Ê`` gets ``−R̄``.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, target: Tensor, onto: Tensor | None, rate: float, n: int) -> Tensor:
        residual = theta - target
        p = theta.shape[1]
        powers = theta.new_empty(_BLOCK + 1, p, p)
        powers[1].addmm_(theta.T, theta, beta=0, alpha=n * rate)
        sums = _Doubling(powers, n)
        t = torch.empty_like(sums.value).addmm_(theta.T, residual, beta=0, alpha=rate)
        w = torch.addmm(_identity(p, t.dtype, t.device), sums.value, t, alpha=-1)
        whole = w if onto is None else w @ onto.T
        ctx.save_for_backward(theta, residual, onto)
        ctx.sums, ctx.t, ctx.w, ctx.whole, ctx.rate = sums, t, w, whole, rate
        return theta @ whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        theta, residual, onto = ctx.saved_tensors
        to_whole = theta.T @ grad
        w_bar = to_whole if onto is None else to_whole @ onto
        t_bar = torch.empty_like(w_bar).addmm_(ctx.sums.value, w_bar, beta=0, alpha=-ctx.rate)
        to_theta = to_target = to_onto = None
        if ctx.needs_input_grad[0]:
            s_bar = torch.empty_like(w_bar).addmm_(w_bar, ctx.t.T, beta=0, alpha=-1)
            k_bar = ctx.sums.derivative(s_bar + s_bar.T)
            by_theta = torch.add(t_bar, k_bar, alpha=ctx.rate)
            to_theta = (grad @ ctx.whole.T).addmm_(residual, t_bar.T).addmm_(theta, by_theta)
        if ctx.needs_input_grad[1]:
            to_target = (theta @ t_bar).neg_()
        if ctx.needs_input_grad[2]:
            to_onto = to_whole.T @ ctx.w
        return to_theta, to_target, to_onto, None, None


class _GeometricSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int) -> Tensor:
        ctx.sums = _Doubling.of(k, n)
        value: Tensor = ctx.sums.value
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return ctx.sums.derivative((grad + grad.T) / 2), None


class _Doubling:
    """``S_n(K)`` as ``value``: a polynomial for the leading binary digits of ``n``, and doubling for the others.

    With ``A = I − K`` and ``P_m = Aᵐ``, one digit ``b`` of ``n`` takes ``m`` to ``2m + b``: ``S ← S + P(S + bP)`` and
    ``P ← P²Aᵇ``. (``I − KS`` would give each ``P`` in one product, but loses four digits of the gradient where ``K``
    is nearly singular; it serves only as the first ``P``, where ``m·λ`` is small.)

    Args:
        powers: Room for the powers of the polynomial, ``[5, p, p]``; the second holds ``n·K``.
        n: Number of terms.
    """

    def __init__(self, powers: Tensor, n: int) -> None:
        torch.mm(powers[1], powers[1], out=powers[2])
        reach = math.sqrt(float(torch.linalg.vector_norm(powers[2])))  # n·λ_max <= ‖(nK)²‖_F^½ <= n·λ_max·p^¼
        levels = 0
        if not reach <= _LIMIT:  # also where it is not a number
            while n >> levels > 1 and not (n >> levels) / n * reach <= _START:
                levels += 1
        self.chain: list[tuple[Tensor, Tensor, Tensor | None]] = []
        if not levels:
            self.series = _Polynomial(powers, n, reach)
            self.value = self.series.value
            return
        m, self.k = n >> levels, powers[1] / n
        powers[1].mul_(m / n)
        powers[2].mul_((m / n) ** 2)
        self.series = _Polynomial(powers, m, reach * m / n)
        eye = _identity(len(self.k), self.k.dtype, self.k.device)
        self.a = eye - self.k
        s = self.series.value
        p = torch.addmm(eye, self.k, s, alpha=-1)
        for level in reversed(range(levels)):
            odd, last = n >> level & 1, level == 0
            p_squared = p if last else p @ p
            self.chain.append((p, s, p_squared if odd else None))
            s = torch.addmm(s, p, s + p if odd else s)
            if not last:
                p = p_squared @ self.a if odd else p_squared
        self.value = s

    @classmethod
    def of(cls, k: Tensor, n: int) -> _Doubling:
        """The sum for a matrix that is there already, which stays as it is."""
        powers = k.new_empty(_BLOCK + 1, *k.shape)
        torch.mul(k, n, out=powers[1])
        return cls(powers, n)

    def derivative(self, x: Tensor) -> Tensor:
        """Directional derivative of ``S_n`` along a symmetric ``x``, which follows the steps of the value.

        The derivative of a polynomial at a symmetric matrix is self-adjoint: along the symmetric part of an incoming
        gradient it is the gradient at ``K``.
        """
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
    """``S_m(K)`` as ``value``: a polynomial in ``Y = m·K``, or in what shifts and scales its spectrum to [−1, 1].

    Evaluated by the rule of Paterson and Stockmeyer (1973): with ``Z = Y⁴`` and cubics ``B_j(Y)``, Horner's rule
    ``V_j = B_j + Z·V_{j+1}``. The derivative along ``X`` follows: ``dV_j = dB_j + dZ·V_{j+1} + Z·dV_{j+1}``.

    Args:
        powers: ``[5, p, p]``, of which the second and third hold ``m·K`` and its square; overwritten.
        m: Number of terms.
        reach: Upper bound of the eigenvalues of ``m·K``.
    """

    def __init__(self, powers: Tensor, m: int, reach: float) -> None:
        # rounded up, so that the steps of one run share few sets of coefficients
        reach = 2 ** (math.ceil(4 * math.log2(max(reach, 1e-3))) / 4) if m > 1 else 1.0
        self.scale, self.powers = float(m), powers
        y = self.y = powers.unbind()
        y[0].copy_(_identity(len(y[0]), powers.dtype, powers.device))
        if reach > _CENTERED:
            half = 2 / reach
            y[2].mul_(half**2).add_(y[1], alpha=-2 * half).add_(y[0])
            y[1].mul_(half).sub_(y[0])
            self.scale *= half
        self.rows = _coefficients(m, reach, powers.dtype, powers.device)
        torch.mm(y[1], y[2], out=y[3])
        *blocks, last = (self.rows @ self.powers[:_BLOCK].flatten(1)).view(-1, *y[0].shape).unbind()
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
def _coefficients(m: int, reach: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients of ``S_m`` as a function of ``z = m·x`` on [0, reach] by ascending power of Y, in rows of four.

    The Chebyshev interpolant, cut where its terms fall below rounding. Around the middle of the interval, with
    ``Y = 2z/reach − 1``, the powers do not cancel: the coefficients' magnitudes add up to the function's largest value,
    as those of ``exp(−ay)`` do. In ``Y = z`` they add up to ``exp(reach)`` times its smallest, and two bits are lost.
    """
    if m <= 1:
        return torch.tensor([[float(m), 0.0, 0.0, 0.0]], dtype=dtype, device=device)

    def mean_power(y: Any) -> Any:
        z = reach * (1 + y) / 2
        x = z / m
        small = np.minimum(x, 0.5)  # 1 − (1 − x)ᵐ cancels there
        return np.where(x < 0.5, -np.expm1(m * np.log1p(-small)), 1 - (1 - x) ** m) / z

    terms = chebyshev.chebinterpolate(mean_power, min(_MAX_DEGREE, m - 1))
    degree = int(np.flatnonzero(np.abs(terms) > max(torch.finfo(dtype).eps, 4e-15) * np.abs(terms).max())[-1])
    size = (degree // _BLOCK + 1) * _BLOCK
    powers = np.zeros(size)
    kept = Chebyshev(terms[:size], domain=[0, reach]).convert(
        kind=Polynomial, domain=[0, reach] if reach > _CENTERED else [-1, 1]
    )
    powers[: len(kept)] = m * kept.coef
    return torch.tensor(powers.reshape(-1, _BLOCK), dtype=dtype, device=device)
