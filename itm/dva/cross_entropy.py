"""The simulated evolution under the cross-entropy loss, which has no closed power: explicit steps, derived by hand.

With ``Q_k = (P_k − Y)ᵀΘ`` and ``M = UUᵀ`` the steps need the logits ``Z = UEᵀ`` only: ``P_kᵀ = softmax(Z_k)``,
``Z_{k+1} = Z_k − r·M·Q_k·Θᵀ``, and ``E⁽ⁿ⁾ = Θ − r·Θ·(Σ_k Q_kᵀ)·U``: six operations of a step and as many of its
derivative. Classes go before rows, ``[C, B]``, because softmax over short rows is ten times slower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def cross_entropy_steps(theta: Tensor, y: Tensor, u: Tensor, eta: float, n: int) -> Tensor:
    """Take ``n`` steps of ``E⁽ᵏ⁺¹⁾ = E⁽ᵏ⁾ − ηC·(softmax(E⁽ᵏ⁾Uᵀ) − onehot(y))·U`` from ``Θ``, with ``C = ΘΘᵀ/B``.

    Args:
        theta: Conditioned embeddings ``Θ``, float, ``[B, p]``.
        y: Class of each row, int64, ``[B]``.
        u: Centers that make the logits, ``[C, p]``.
        eta: Inner learning rate.
        n: Number of inner steps, at least 0.

    Returns:
        The evolved embeddings, ``[B, p]``, differentiable in ``theta`` and ``u``.
    """
    evolved: Tensor = _CrossEntropySteps.apply(theta, y, u, eta / len(theta), n)
    return evolved


class _CrossEntropySteps(torch.autograd.Function):
    """Backward, with a bar for a gradient and ``Ḡ = U·Ēᵀ``, from ``Z̄_n = 0`` down to ``Z̄_0``:

    ``V_k = (M·Z̄_{k+1} + Ḡ)·Θ`` and ``Z̄_k = Z̄_{k+1} − r·J_k(V_k·Θᵀ)`` with ``J_k`` the Jacobian of softmax; then
    ``Θ̄ = Ē + Z̄_0ᵀ·U − r·Σ_k ((M·Z̄_{k+1} + Ḡ)ᵀ·Q_k + (P_k − Y)·V_k)``.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, y: Tensor, u: Tensor, rate: float, n: int) -> Tensor:
        onehot = F.one_hot(y, len(u)).T.to(theta)
        m, z, of_labels = u @ u.T, u @ theta.T, onehot @ theta
        p, q = theta.new_empty(n, *z.shape), theta.new_empty(n, *of_labels.shape)
        for p_k, q_k in zip(p.unbind(), q.unbind(), strict=True):
            torch.softmax(z, dim=0, out=p_k)
            torch.sub(p_k @ theta, of_labels, out=q_k)
            z = torch.addmm(z, m @ q_k, theta.T, alpha=-rate)
        ctx.save_for_backward(theta, onehot, u, m, p, q)
        ctx.rate = rate
        return torch.addmm(theta, theta @ q.sum(dim=0).T, u, alpha=-rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor | None, None, None]:
        (grad,) = grads
        theta, onehot, u, m, p, q = ctx.saved_tensors
        g = u @ grad.T
        of_g, total = g @ theta, q.sum(dim=0)
        z_bars, w, v = torch.empty_like(p), torch.empty_like(q), torch.empty_like(q)
        z_bar = torch.zeros_like(g)
        for p_k, kept, w_k, v_k in zip(*(reversed(stack.unbind()) for stack in (p, z_bars, w, v)), strict=True):
            kept.copy_(z_bar)
            torch.mm(z_bar, theta, out=w_k)
            torch.addmm(of_g, m, w_k, out=v_k)
            moved = (v_k @ theta.T).mul_(p_k)
            z_bar.sub_(moved, alpha=ctx.rate).addcmul_(p_k, moved.sum(dim=0), value=ctx.rate)
        pairs = _sum_of_products(z_bars, m @ q) + g.T @ total + _sum_of_products(p - onehot, v)
        to_theta = torch.addmm(grad, z_bar.T, u).sub_(pairs, alpha=ctx.rate)
        if not ctx.needs_input_grad[2]:
            return to_theta, None, None, None, None
        m_bar = _sum_of_products(w.transpose(1, 2), q.transpose(1, 2)).mul_(-ctx.rate)
        to_u = z_bar @ theta + (m_bar + m_bar.T) @ u - ctx.rate * total @ theta.T @ grad
        return to_theta, None, to_u, None, None


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Return ``Σ_k A_kᵀ·B_k`` as one product, ``[n, C, R]`` and ``[n, C, S]`` to ``[R, S]``."""
    return a.flatten(0, 1).T @ b.flatten(0, 1)
