"""Gaussian Bhattacharyya coefficient (Pandy et al., CVPR 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from itm.core.errors import FeatureError
from itm.core.settings import Count, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.moments import Moments, moments

Gaussian = Literal["spherical", "diagonal"]

_FLOOR = 1e-4


@settings("scorer.gbc")
class GBC(Scorer):
    """Minus the overlap of the classes as Gaussians, ``-sum_{i != j} exp(-B_ij)``, with Bhattacharyya distances ``B``.

    Between ``-C (C - 1)``, where all classes coincide, and 0, where none overlap.

    The published distance between two classes of the same distribution grows as ``D / n_c``, because estimated means
    never coincide: wide features look separated. The default takes the leading principal components (64, as in the
    paper) and subtracts the expected squared error of the means; a class of one row takes the pooled variance.

    Args:
        gaussian: ``"spherical"``, one variance per class, or ``"diagonal"``. The spherical distance counts its term in
            the logarithm of the variances once, not ``D`` times, as published.
        components: Principal components kept; None keeps all.
        reference: True gives the published number (prafful-kumar/enhancing_TE, ``get_gbc_score``): all dimensions,
            nothing subtracted, variances of at least 1e-4 (in the default: of 1e-4 times the mean variance).

    Raises:
        SettingError: If ``gaussian`` or ``components`` is not as stated.
    """

    gaussian: Gaussian = "spherical"
    components: Count | None = 64
    reference: bool = False

    name: ClassVar[str] = "gbc"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        if not self.reference:
            m = Moments(m.principal(self.components or m.d), m.y, m.c)
        variances = self._variances(m)
        error = None if self.reference else variances / m.counts[:, None]
        coefficients = torch.stack([_coefficients(i, m, variances, error) for i in range(m.c)])
        return Score(-coefficients.sum().item())

    def _variances(self, m: Moments) -> Tensor:
        """Return the floored variances of each class, ``[C, 1]`` or ``[C, D]``."""
        degrees = m.counts[:, None] - 1
        few = int((degrees < 1).sum())
        if few and (self.reference or few == m.c):
            need = "every class" if self.reference else "some class"
            raise FeatureError(f"gbc: {few} of {m.c} classes have one row and so no variance; it takes two in {need}.")
        pooled = m.class_scatter.sum(0) / degrees.sum()
        variances = torch.where(degrees < 1, pooled, m.class_scatter / degrees.clamp_min(1))
        floor = _FLOOR if self.reference else _FLOOR * m.variance.mean().item() + torch.finfo(torch.float64).tiny
        variances = variances.clamp_min(floor)
        return variances.mean(1, keepdim=True) if self.gaussian == "spherical" else variances


def _coefficients(i: int, m: Moments, variances: Tensor, error: Tensor | None) -> Tensor:
    """Return the overlap of class ``i`` with every class, ``[C]``; with itself 0.

    Args:
        i: The class.
        m: Moments of the features.
        variances: Of each class, ``[C, 1]`` or ``[C, D]``.
        error: Expected squared error of each class's mean per dimension, to be subtracted, like ``variances``; or None.
    """
    squared = (m.class_offsets - m.class_offsets[i]).square()
    if error is not None:
        squared = squared - error - error[i]
    mean = (variances + variances[i]) / 2
    widths = (mean.log() - (variances.log() + variances[i].log()) / 2).sum(1) / 2
    distance = ((squared / mean).sum(1) / 8 + widths).clamp_min(0.0)
    distance[i] = torch.inf
    return (-distance).exp()
