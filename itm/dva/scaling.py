"""Scaling of features before they enter ITM's map."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from itm.core.errors import unknown

Scaling = Literal["unit", "none", "l2", "standardize"]


def scale_features(x: Tensor, train: Tensor, scaling: Scaling = "unit") -> Tensor:
    """Scale features as they enter the map ``f``; the paper is silent, so all four are our reading.

    Args:
        x: Features, float, ``[N, D]``.
        train: Indices of the training rows: the only ones that statistics are taken from, int64.
        scaling: ``"unit"`` subtracts the training mean and divides by the mean norm of the centred training rows (one
            number: keeps every direction, removes the unit); ``"standardize"`` does so column by column with the
            standard deviation; ``"l2"`` divides each row by its norm; ``"none"`` changes nothing and diverges on many
            backbones.

    Returns:
        Scaled features, ``[N, D]``; constant columns and zero rows become zero.

    Raises:
        SettingError: If ``scaling`` is not known.
    """
    if scaling == "none":
        return x
    if scaling == "l2":
        return F.normalize(x, dim=1)
    mean, factor = fit_scaling(x[train], scaling)
    return (x - mean).mul_(factor)


def whiten(x: Tensor, shrinkage: float) -> Tensor:
    """Whiten features by their total covariance, shrunk towards a multiple of the identity.

    With the covariance ``Σ`` of the rows and its mean variance ``v``, each centred row is multiplied by
    ``((1 − a) Σ/v + a I)^(−1/2)``. No label is used, so held-out rows may take part.

    Args:
        x: Features, float, ``[N, D]``.
        shrinkage: ``a``, above 0 to 1; 1 only centres.

    Returns:
        Features ``[N, D]``; zeros where all rows are equal.
    """
    centered = x - x.mean(dim=0)
    variance = float(centered.square().sum()) / x.numel()
    if variance <= torch.finfo(x.dtype).tiny:
        return torch.zeros_like(x)
    left, lengths, right = torch.linalg.svd(centered, full_matrices=False)
    spectrum = lengths.square() / (len(x) * variance)
    weights = ((1 - shrinkage) * spectrum + shrinkage).rsqrt()
    return torch.mm(left * (lengths * weights), right)


def fit_scaling(x: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Fit the scalings that are linear, ``(x − mean)·factor``; ``"l2"`` needs no fit and leaves features as they are.

    Args:
        x: Training rows, float, ``[N, D]``; left centred for ``"unit"`` and ``"standardize"``, which saves a copy.
        scaling: As in :func:`scale_features`.

    Returns:
        Mean ``[D]`` and factor, ``[1]`` or ``[D]``; a constant column or set has the factor 0.

    Raises:
        SettingError: If ``scaling`` is not known.
    """
    if scaling not in get_args(Scaling):
        raise unknown("scaling", scaling, get_args(Scaling))
    if scaling in ("none", "l2"):
        return x.new_zeros(x.shape[1]), x.new_ones(1)
    # rounding leaves a constant feature a deviation of about eps times its size, which is not signal
    floor = 10 * torch.finfo(x.dtype).eps * torch.stack(torch.aminmax(x)).abs().max()
    mean = x.mean(dim=0)
    x -= mean
    if scaling == "unit":
        deviation = torch.linalg.vector_norm(x, dim=1).mean().view(1)
    else:
        deviation = torch.linalg.vector_norm(x, dim=0) / len(x) ** 0.5
    return mean, torch.where(deviation > floor, 1 / deviation.clamp(min=floor), 0).nan_to_num(posinf=0)
