"""Scaling of features before they enter ITM's map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from itm.core.errors import unknown

Scaling = Literal["unit", "none", "l2", "standardize"]


def scale_features(x: Tensor, train: Tensor, scaling: Scaling = "unit") -> Tensor:
    """Features as they enter the map ``f``; the paper is silent, so all four are our reading.

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
    if scaling not in ("unit", "standardize"):
        raise unknown("scaling", scaling, ("unit", "none", "l2", "standardize"))
    fitted = x[train]
    mean = fitted.mean(dim=0)
    centred = fitted - mean
    spread = centred.norm(dim=1).mean() if scaling == "unit" else fitted.std(dim=0, correction=0)
    # rounding leaves a constant feature a spread of about eps times its size, which is no signal
    floor = 10 * torch.finfo(x.dtype).eps * torch.stack(torch.aminmax(fitted)).abs().max()
    return (x - mean).mul_(torch.where(spread > floor, 1 / spread.clamp(min=floor), 0).nan_to_num(posinf=0))
