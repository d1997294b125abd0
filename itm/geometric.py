"""The finite geometric sum of a symmetric matrix: the only costly step of the closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def geometric_sum(k: Tensor, n: int) -> Tensor:
    """``S_n = Σ_{i<n} (I − K)ⁱ`` in O(log n) products, differentiable in ``K``.

    Args:
        k: Symmetric matrix, ``[p, p]``.
        n: Number of terms, at least 0.

    Returns:
        The sum, ``[p, p]``. It grows without bound in ``n`` where an eigenvalue of ``K`` lies outside (0, 2).
    """
    total: Tensor = _GeometricSum.apply(k, n)
    return total


class _GeometricSum(torch.autograd.Function):
    """``S_n = Σ_{k<n} (I − K)ᵏ`` of a symmetric ``K`` by doubling, with an analytic backward pass.

    With ``A = I − K`` and ``P_m = Aᵐ``, one binary digit ``b`` of ``n`` takes ``m`` to ``2m + b``:
    ``S ← S + P(S + bP)`` and ``P ← P²Aᵇ``. (``I − KS`` would give the new ``P`` in one product for either digit, but
    loses four digits of the gradient where ``K`` is nearly singular.)

    The derivative of a polynomial at a symmetric matrix is self-adjoint, so the gradient is the derivative of ``S_n``
    in the direction of the symmetric part of the incoming gradient; it follows the same digits.
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int) -> Tensor:
        eye = torch.eye(len(k), dtype=k.dtype, device=k.device)
        a = p = eye - k
        s = eye if n else torch.zeros_like(k)
        chain = []
        for digit in bin(n)[3:]:
            odd = digit == "1"
            squared = p @ p
            chain.append((p, s, squared if odd else None))
            s = torch.addmm(s, p, s + p if odd else s)
            p = squared @ a if odd else squared
        ctx.a, ctx.chain = a, chain
        return s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x = (grads[0] + grads[0].T) / -2  # the direction of A
        dp, ds = x, torch.zeros_like(x)
        for p, s, squared in ctx.chain:
            odd = squared is not None
            ds = torch.addmm(torch.addmm(ds, dp, s + p if odd else s), p, ds + dp if odd else ds)
            half = p @ dp
            dp = half + half.T
            if odd:
                dp = torch.addmm(dp @ ctx.a, squared, x)
        return ds, None
