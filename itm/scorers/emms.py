"""EMMS, regression of label embeddings on features (Meng et al., NeurIPS 2023), with one-hot labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.moments import Moments, moments

_GUARD = 1e-8  # added to every standard deviation, as published


@settings("scorer.emms")
class EMMS(Scorer):
    """Minus ``C`` times the squared error of the standardised one-hot labels regressed on standardised features.

    With one label embedding, the one-hot one, the method is linear regression: ``-C * sum_c (1 - R_c^2)``, at most 0.
    The published error is that of the fit itself, so it falls with every dimension and is 0 up to rounding once
    ``D >= N - 1``. The default estimates the error on new rows: ridge regression, its penalty and its error by
    generalised cross-validation (Golub et al., Technometrics 1979). Features without information score about ``-C^2``.

    Args:
        reference: True gives the published number (OpenGVLab/Multitask-Model-Selector, ``EMMS``, which multiplies the
            mean squared error by ``C``; the default does too).
    """

    reference: bool = False

    name: ClassVar[str] = "emms"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        values, energy, rest = _regress(m)
        if self.reference:
            return Score(-m.c / m.n * rest, details={"rank": len(values)})
        # From hardly any penalty to one that allows no fit, in quarter decades of the mean eigenvalue.
        scale = values.mean() if len(values) else torch.ones((), dtype=torch.float64)
        penalties = scale * torch.logspace(-6, 6, 49, dtype=torch.float64)
        shrinkage = penalties[:, None] / (penalties[:, None] + values)
        residual = shrinkage.square() @ energy + rest
        freedom = m.n - 1 - (1 - shrinkage).sum(1)
        error = residual * m.n / freedom.square()
        best = int(error.argmin())
        return Score(-m.c * error[best].item(), details={"penalty": penalties[best].item()})


def _regress(m: Moments) -> tuple[Tensor, Tensor, float]:
    """Decompose the standardised labels along the left singular vectors of the standardised features.

    Returns:
        Squared singular values ``[k]``, the labels' squared components along the vectors, summed over classes, ``[k]``,
        and their squared norm outside.
    """
    inverse = 1 / (m.variance.sqrt() + _GUARD)
    share = m.counts / m.n
    label_scale = 1 / ((share * (1 - share)).sqrt() + _GUARD)
    total = (m.counts * (1 - share) * label_scale.square()).sum().item()
    if m.d <= m.n:
        values, v = torch.linalg.eigh(m.gram * torch.outer(inverse, inverse))
        projected = (m.class_offsets * inverse) @ v * m.counts[:, None]
    else:
        x = m.centered * inverse
        values, u = torch.linalg.eigh(x @ x.T)
        projected = torch.zeros(m.c, m.n, dtype=torch.float64).index_add_(0, m.y, u)
    keep = values > torch.finfo(torch.float64).eps * max(m.n, m.d) * values[-1]
    energy = (projected[:, keep] * label_scale[:, None]).square().sum(0)
    if m.d <= m.n:
        energy = energy / values[keep]
    return values[keep], energy, max(total - energy.sum().item(), 0.0)
