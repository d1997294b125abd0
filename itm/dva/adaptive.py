"""Adaptive number of inner steps: a function of the distance of the features to the mean of their class (eq. 9)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from itm.core.errors import FeatureError, SettingError, unknown

Standardize = Literal["per_dim", "rms"]
_ROWS = 512


def class_distance(x: Tensor, y: Tensor, standardize: Standardize = "per_dim") -> float:
    """Return the mean distance of standardised features to the mean of their class, dis_φ (appendix A.7).

    Args:
        x: Features, float, ``[N, D]``.
        y: Class of each row, int64, ``[N]``, values ``0..C-1``, each present.
        standardize: ``"per_dim"`` is the paper's text: each dimension by its own mean and standard deviation, then
            the Euclidean distance. ``"rms"`` (ours) divides the distance by ``sqrt(D)``, so that widths compare.

    Returns:
        A non-negative number; near ``sqrt(D)`` (``"rms"``: near 1) when classes overlap, 0 when every class is a point.

    Raises:
        FeatureError: If a feature is not finite or a class has no sample.
        SettingError: If ``standardize`` is not known.
    """
    return float(class_distances(x, y, standardize).mean())


def class_distances(x: Tensor, y: Tensor, standardize: Standardize = "per_dim") -> Tensor:
    """Return the distances ``[N]`` of which :func:`class_distance` is the mean; arguments and errors are the same."""
    if standardize not in get_args(Standardize):
        raise unknown("standardize", standardize, get_args(Standardize))
    counts = torch.bincount(y)
    if len(counts) == 0 or (counts == 0).any():
        raise FeatureError(f"class distance: labels must be 0..C-1 without gaps, found counts {counts.tolist()[:20]}.")
    if not all(math.isfinite(extreme) for extreme in torch.aminmax(x)):
        raise FeatureError("class distance: a feature is NaN or infinite.")
    z = x - x.mean(dim=0)
    # a constant dimension has no deviation to divide by and contributes nothing
    # in blocks, which take no memory; torch's norm over the rows is ten times slower
    std = torch.stack([rows.square().sum(dim=0) for rows in torch.split(z, _ROWS)]).sum(dim=0).div_(len(z)).sqrt_()
    z /= torch.where(std > 0, std, 1)
    means = torch.zeros(len(counts), x.shape[1], dtype=z.dtype, device=z.device).index_add_(0, y, z) / counts[:, None]
    for rows, classes in zip(torch.split(z, _ROWS), torch.split(y, _ROWS), strict=True):
        rows -= means.index_select(0, classes)  # all at once would take as much memory as the features
    distances: Tensor = torch.linalg.vector_norm(z, dim=1)
    return distances / math.sqrt(x.shape[1]) if standardize == "rms" else distances


def adaptive_steps(distance: float, eta: float = 0.01, n_b: int = 20, reference: float = 1.0) -> int:
    """Return the number of inner steps, ``n = ceil(log_{1-eta}(reference / distance)) + n_b`` (eq. 9).

    Args:
        distance: dis_φ of :func:`class_distance`; 0 gives the fewest steps.
        eta: Rate of the logarithm, in (0, 1); the paper's 0.01.
        n_b: Steps added to every model.
        reference: dis_b, the distance at which ``n = n_b``; positive.

    Returns:
        ``n``, at least 1: a model whose classes are already tighter than ``reference`` is clamped there.

    Raises:
        SettingError: If ``eta`` or ``reference`` is out of range.
        FeatureError: If ``distance`` is negative or not finite.
    """
    if not 0 < eta < 1:
        raise SettingError(f"eta={eta}: the logarithm of eq. 9 needs a rate between 0 and 1.")
    if not reference > 0:
        raise SettingError(f"reference={reference}: expected a positive distance.")
    if not (distance >= 0 and math.isfinite(distance)):
        raise FeatureError(f"adaptive n: class distance is {distance}, expected a finite number of at least 0.")
    if distance == 0:
        return max(1, n_b)
    # 1e-9 keeps a whole logarithm whole in floating point
    return max(1, math.ceil(math.log(reference / distance) / math.log1p(-eta) - 1e-9) + n_b)
