"""Quantities of ITM that the training rows decide before the training: scaling, centers, number of inner steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from itm.dva.adaptive import Standardize, adaptive_steps, class_distance
from itm.dva.equations import CenterScheme, pseudo_centers
from itm.dva.scaling import Scaling, fit_scaling


@dataclass(frozen=True)
class Prepared:
    """Quantities that the training rows of one run decide before the training.

    Args:
        distance: dis_φ of the training part.
        steps: Inner steps ``n``.
        mean: Subtracted from each row, ``[D]``.
        factor: Multiplies each row afterwards, ``[1]`` or ``[D]``.
        centers: Shifted pseudo-cluster centers, ``[C, p]``.
        logit_centers: The same before the shift.
    """

    distance: float
    steps: int
    mean: Tensor
    factor: Tensor
    centers: Tensor
    logit_centers: Tensor


def prepare(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    *,
    dim: int,
    scheme: CenterScheme,
    shift: bool,
    standardize: Standardize,
    scaling: Scaling,
    steps: int | None,
    eta: float,
    n_b: int,
    seed: int,
) -> Prepared:
    """Fit scaling, centers and number of inner steps to the training rows.

    Args:
        x: The rows, float32, ``[n, D]``; changed, which saves copies.
        y: Class of each row, int64, ``[n]``; a class may lack rows.
        num_classes: Number of classes, ``C``.
        dim: Width of the centers, ``p``.
        scheme: Scheme of :func:`itm.dva.equations.pseudo_centers`.
        shift: Whether centers take the scalar mean and standard deviation of the rows, as scaled.
        standardize: Form of dis_φ, see :func:`itm.dva.adaptive.class_distance`.
        scaling: Scaling of :func:`itm.dva.scaling.fit_scaling`.
        steps: A fixed number of inner steps; None takes that of eq. 9.
        eta: Rate of the logarithm in eq. 9.
        n_b: Steps that eq. 9 adds to every model.
        seed: Seed of random centers.

    Raises:
        FeatureError: If a feature is not finite.
        SettingError: If ``dim`` is smaller than the number of classes.
    """
    # a class of one row may be held out whole: its training part is empty, and the others are renumbered
    classes = torch.unique(y, return_inverse=True)[1]
    distance = class_distance(x, classes, standardize)
    mean, factor = fit_scaling(x, scaling)
    unshifted = pseudo_centers(num_classes, dim, scheme, generator=torch.Generator().manual_seed(seed))
    centers = unshifted
    if shift:
        offset = float(x.mul_(factor).mean())
        # std_mean() takes thirty times as long
        std = float(torch.linalg.vector_norm(x.sub_(offset))) / x.numel() ** 0.5
        # constant features have no deviation to scale the centers by
        centers = unshifted * (std or 1.0) + offset
    return Prepared(
        distance=distance,
        steps=steps or adaptive_steps(distance, eta=eta, n_b=n_b),
        mean=mean,
        factor=factor,
        centers=centers.float().to(x.device),
        logit_centers=unshifted.float().to(x.device),
    )
