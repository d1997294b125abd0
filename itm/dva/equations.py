"""The equations of ITM as pure functions: pseudo-cluster centers and the simulated evolution of embeddings.

Symbols follow the paper (Implicit Transferability Modeling, NeurIPS 2025): ``Θ = E W_z`` are the conditioned embeddings
of a mini-batch of size ``B``, ``Ê`` the pseudo-cluster center of each row's class, ``C = ΘΘᵀ/B`` (eq. 5), ``η`` the
inner learning rate and ``n`` the number of inner steps. The inner problem is gradient descent on a linear map ``W_g``
that starts at the identity; ``E⁽ᵏ⁾ = Θ W_g⁽ᵏ⁾`` are the embeddings after ``k`` steps.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from itm.core.errors import SettingError, unknown
from itm.dva.closed_form import closed_form
from itm.dva.cross_entropy import cross_entropy_steps

Loss = Literal["mse", "mae", "ce"]
CenterScheme = Literal["onehot", "random", "pca", "laplacian"]
Evolution = Literal["closed_form", "unrolled", "unrolled_random"]
Heldout = Literal["evolved", "plain"]
Stability = Literal["cap", "error", "off"]


def pseudo_centers(
    num_classes: int,
    dim: int,
    scheme: CenterScheme = "onehot",
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make the pseudo-cluster centers, to which the embeddings of each class move (section 3.3 and appendix A.8).

    The rows are orthonormal, then shifted to ``center * std + mean``. How ``"random"``, ``"pca"`` and ``"laplacian"``
    draw them is our reading; the paper settles on ``"onehot"``.

    Args:
        num_classes: Number of classes, ``C``.
        dim: Width of a center, ``p``; at least ``C``.
        scheme: ``"onehot"``: unit vectors; ``"random"``: orthonormalised Gaussian vectors; ``"pca"``: the leading
            principal axes of a Gaussian cloud; ``"laplacian"``: the smoothest eigenvectors of the normalised graph
            Laplacian of ``dim`` random points under a Gaussian kernel.
        mean: Added to every entry.
        std: Multiplies every entry, before ``mean`` is added; positive.
        generator: Source of randomness of all schemes but ``"onehot"``.

    Returns:
        Centers, float64, ``[C, p]``.

    Raises:
        SettingError: If ``dim < num_classes``, ``std`` is not positive, or the scheme is not known.
    """
    if not 1 <= num_classes <= dim:
        raise SettingError(f"dim={dim}: {num_classes} orthonormal centers need a dim of at least {num_classes}.")
    if not std > 0:
        raise SettingError(f"std={std}: centers need a positive scale.")
    match scheme:
        case "onehot":
            directions = torch.eye(num_classes, dim, dtype=torch.float64)
        case "random":
            cloud = torch.randn(dim, num_classes, dtype=torch.float64, generator=generator)
            directions = torch.linalg.qr(cloud).Q.T
        case "pca":
            cloud = torch.randn(2 * dim + 1, dim, dtype=torch.float64, generator=generator)
            directions = torch.linalg.svd(cloud - cloud.mean(dim=0), full_matrices=False).Vh[:num_classes]
        case "laplacian":
            points = torch.randn(dim, 2, dtype=torch.float64, generator=generator)
            affinity = torch.exp(-torch.cdist(points, points).square())
            scale = affinity.sum(dim=1).rsqrt()
            laplacian = torch.eye(dim, dtype=torch.float64) - scale[:, None] * affinity * scale
            directions = torch.linalg.eigh(laplacian).eigenvectors[:, :num_classes].T
        case _:
            raise unknown("centers", scheme, get_args(CenterScheme))
    return directions * std + mean


def largest_eigenvalue(theta: Tensor) -> float:
    """Return the largest eigenvalue of ``C = ΘΘᵀ/B`` (eq. 5), computed on the smaller side, without gradient.

    Inner steps contract while ``η·λ_max <= 2`` and diverge beyond.

    Args:
        theta: Conditioned embeddings, float, ``[B, p]``.

    Returns:
        A non-negative number, NaN or infinite if an embedding is.
    """
    theta = theta.detach()
    gram = _gram(theta)
    if not torch.isfinite(gram).all():
        return math.nan
    return max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))


def evolve(
    theta: Tensor,
    y: Tensor,
    centers: Tensor,
    *,
    eta: float,
    steps: int,
    loss: Loss = "mse",
    logit_centers: Tensor | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """Evolve embeddings by ``n`` simulated fine-tuning steps (Algorithm 2), differentiable in ``theta`` and centers.

    With the MSE loss ``E⁽ⁿ⁾ = (I − ηC)ⁿ(Θ − Ê) + Ê`` (Algorithm 2, line 5) in O(log n) products on the smaller of the
    two sides. MAE and CE have no closed power and take ``n`` explicit steps (Table 2):
    ``E⁽ᵏ⁺¹⁾ = E⁽ᵏ⁾ − ηC·sign(E⁽ᵏ⁾ − Ê)`` and ``E⁽ᵏ⁺¹⁾ = E⁽ᵏ⁾ − ηC·(softmax(E⁽ᵏ⁾Uᵀ) − onehot(y))·U``.

    Args:
        theta: Conditioned embeddings ``Θ``, float, ``[B, p]``.
        y: Class of each row, int64, ``[B]``.
        centers: Pseudo-cluster centers, ``[C, p]``.
        eta: Inner learning rate, positive. Above ``2/λ_max`` (:func:`largest_eigenvalue`) the evolution diverges;
            this function does not judge.
        steps: ``n``, at least 0.
        loss: Inner loss.
        logit_centers: ``U`` of the CE loss, the centers before their shift, ``[C, p]``; ``centers`` if not given.
        onto: Weights of a linear layer that the evolved embeddings go through, ``[C, p]``. In the closed form it costs
            a product with the inner map in place of one with every row.

    Returns:
        ``E⁽ⁿ⁾``, ``[B, p]``; through ``onto``, ``[B, C]``.

    Raises:
        SettingError: If ``loss`` is not known or ``steps`` or ``eta`` is out of range.
    """
    _check_inner(eta, steps, loss)
    target = centers.to(theta).index_select(0, y)
    if loss == "mse":
        return closed_form(theta, target, eta, steps, onto)
    if loss == "mae":
        # sign() passes no gradient: only the sum of the signs is needed, taken outside the graph
        with torch.no_grad():
            signs, evolved = torch.zeros_like(theta), theta
            for _ in range(steps):
                step = torch.sign(evolved - target)
                signs += step
                evolved = evolved - eta * _apply_c(theta, step)
        evolved = theta - eta * _apply_c(theta, signs)
    else:
        u = centers if logit_centers is None else logit_centers
        evolved = cross_entropy_steps(theta, y, u.to(theta), eta, steps)
    return evolved if onto is None else evolved @ onto.T


def evolve_unrolled(
    theta: Tensor,
    y: Tensor,
    centers: Tensor,
    *,
    eta: float,
    steps: int,
    loss: Loss = "mse",
    init: Literal["identity", "random"] = "identity",
    generator: torch.Generator | None = None,
    logit_centers: Tensor | None = None,
) -> Tensor:
    """Evolve embeddings by really training the inner map ``W_g`` for ``M`` steps (Algorithm 1's inner loop).

    ``W_g ← W_g − (η/B)·Θᵀ(ΘW_g − Ê)`` for the MSE loss; gradients flow through every step. From the identity and with
    ``M = n`` this equals :func:`evolve` in value and gradient; a random start is the paper's text.

    Args:
        theta: Conditioned embeddings ``Θ``, float, ``[B, p]``.
        y: Class of each row, int64, ``[B]``.
        centers: Pseudo-cluster centers, ``[C, p]``.
        eta: Inner learning rate, positive.
        steps: ``M``, at least 0.
        loss: Inner loss.
        init: Start of ``W_g``; ``"random"`` draws entries with variance ``1/p``.
        generator: Source of the random start.
        logit_centers: See :func:`evolve`.

    Returns:
        ``Θ W_g``, ``[B, p]``.

    Raises:
        SettingError: If ``loss`` or ``init`` is not known or ``steps`` or ``eta`` is out of range.
    """
    _check_inner(eta, steps, loss)
    p = theta.shape[1]
    if init == "identity":
        w_g = torch.eye(p, dtype=theta.dtype, device=theta.device)
    elif init == "random":
        w_g = torch.randn(p, p, dtype=torch.float64, generator=generator).to(theta) / math.sqrt(p)
    else:
        raise unknown("init", init, ("identity", "random"))
    target = centers.to(theta)[y]
    u = (centers if logit_centers is None else logit_centers).to(theta)
    for _ in range(steps):
        evolved = theta @ w_g
        match loss:
            case "mse":
                slope = evolved - target
            case "mae":
                slope = torch.sign(evolved - target)
            case "ce":
                slope = _ce_slope(evolved, y, u)
        w_g = w_g - (eta / len(theta)) * (theta.T @ slope)
    return theta @ w_g


def _check_inner(eta: float, steps: int, loss: Loss) -> None:
    if loss not in get_args(Loss):
        raise unknown("loss", loss, get_args(Loss))
    if not eta > 0:
        raise SettingError(f"eta={eta}: the inner learning rate must be positive.")
    if steps < 0:
        raise SettingError(f"steps={steps}: the number of inner steps must be at least 0.")


def _gram(theta: Tensor) -> Tensor:
    """Return the smaller of ``ΘᵀΘ/B`` and ``ΘΘᵀ/B``; both have the same non-zero spectrum."""
    batch, p = theta.shape
    return (theta.T @ theta if p <= batch else theta @ theta.T) / batch


def _apply_c(theta: Tensor, slope: Tensor) -> Tensor:
    """Return ``C @ slope`` without forming the B x B matrix when ``p < B``."""
    batch, p = theta.shape
    return (theta @ (theta.T @ slope) if p <= batch else (theta @ theta.T) @ slope) / batch


def _ce_slope(evolved: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """Return the derivative of the cross-entropy of ``softmax(E Uᵀ)`` against ``y``, per row, with respect to ``E``."""
    return torch.softmax(evolved @ u.T, dim=1) @ u - u[y]
