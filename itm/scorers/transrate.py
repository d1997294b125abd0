"""TransRate, mutual information by coding rates (Huang et al., ICML 2022)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from itm.core.settings import Count, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.folds import canonical_rows
from itm.scorers.common.moments import moments

_EPS = 1e-4  # squared distortion of the code


@settings("scorer.transrate")
class TransRate(Scorer):
    """How much tighter a class is coded than a random set of rows of its size, in nats.

    The rate of ``n`` rows is ``R(F) = 1/2 ln det(I + F^T F / (n eps))``, and the published score is ``R(F)`` minus the
    mean of ``R(F_c)`` over the classes, all centred by the mean of all rows. It grows with the scale of the features
    and with their width, since few rows of any class are cheap to code; and two balanced classes cost as much as
    all rows together, at any distance. The default divides the features by their root mean square deviation,
    centers every set of rows by its own mean, and instead of ``R(F)`` takes the mean rate of random sets of rows of the
    sizes of the classes: chance is 0.

    Args:
        permutations: Random partitions of the rows that the mean rate is taken over.
        seed: Of the partitions.
        reference: True gives the published number (Transfer-Learning-Library, ``transrate``).

    Raises:
        SettingError: If ``permutations`` is below 1.
    """

    permutations: Count = 4
    seed: int = 0
    reference: bool = False

    name: ClassVar[str] = "transrate"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        by_class, sizes = m.centered[torch.argsort(m.y, stable=True)], m.counts.long()
        if self.reference:
            return Score(_rate(m.gram, m.n) - _mean_rate(by_class, sizes, center=False))
        scale = m.variance.mean().sqrt()
        by_class, rows = (
            part / scale if scale > 0 else part for part in (by_class, m.centered[canonical_rows(samples)])
        )
        generator = torch.Generator().manual_seed(self.seed)
        draws = (rows[torch.randperm(m.n, generator=generator)] for _ in range(self.permutations))
        # Sorted sizes: renaming the classes must not change what is drawn.
        chance = sum(_mean_rate(draw, sizes.sort().values, center=True) for draw in draws) / self.permutations
        return Score(chance - _mean_rate(by_class, sizes, center=True))


def _mean_rate(x: Tensor, sizes: Tensor, center: bool) -> float:
    """Return the mean rate, in nats, of consecutive blocks of rows of these sizes."""
    rates = []
    for block in torch.tensor_split(x, sizes.cumsum(0)[:-1]):
        b = block - block.mean(0) if center else block
        rates.append(_rate(b.T @ b if b.shape[1] < len(b) else b @ b.T, len(b)))
    return math.fsum(rates) / len(rates)


def _rate(gram: Tensor, rows: int) -> float:
    """Return the rate ``1/2 ln det(I + G / (n eps))``, in nats, from the Gram matrix of either side."""
    factor = torch.linalg.cholesky(torch.eye(len(gram), dtype=gram.dtype) + gram / (rows * _EPS))
    return float(factor.diagonal().log().sum())
