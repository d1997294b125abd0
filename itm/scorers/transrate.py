"""TransRate, mutual information by coding rates (Huang et al., ICML 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from itm.errors import SettingError
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.moments import moments

_EPS = 1e-4  # squared distortion of the code


@dataclass(frozen=True)
class TransRate(Scorer):
    """Nats per row that the class saves in coding the features, less what a random class of the same size would save.

    The rate of ``n`` rows is ``R(F) = 1/2 ln det(I + F^T F / (n eps))``, features centred by the mean of all rows, and
    the published score ``R(F) - mean_c R(F_c)``. It grows with the scale of the features and, few rows being cheap
    to code whatever their class, with their width. The default divides the features by their root mean square deviation
    and puts the mean rate of random sets of rows, as large as the classes, in the place of ``R(F)``: chance is 0.

    Args:
        permutations: Random partitions of the rows that the mean rate is taken over.
        seed: Of the partitions.
        reference: True gives the published number (Transfer-Learning-Library, ``transrate``).

    Raises:
        SettingError: If ``permutations`` is below 1.
    """

    permutations: int = 4
    seed: int = 0
    reference: bool = False

    name = "transrate"

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise SettingError(f"scorer.transrate.permutations={self.permutations}: expected 1 or more.")

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        by_class = torch.argsort(m.y, stable=True)
        sizes = m.counts.long()
        if self.reference:
            return Score(_rate(m.gram, m.n) - _mean_rate(m.centered[by_class], sizes))
        scale = m.variance.mean().sqrt()
        x = m.centered / scale if scale > 0 else m.centered
        generator = torch.Generator().manual_seed(self.seed)
        orders = [m.canonical_order[torch.randperm(m.n, generator=generator)] for _ in range(self.permutations)]
        # Sorted sizes: renaming the classes must not change what is drawn.
        rates = [_mean_rate(x[order], sizes.sort().values) for order in orders]
        return Score(math.fsum(rates) / len(rates) - _mean_rate(x[by_class], sizes))


def _mean_rate(x: Tensor, sizes: Tensor) -> float:
    """Mean rate, in nats, of consecutive blocks of rows of these sizes."""
    blocks = torch.tensor_split(x, sizes.cumsum(0)[:-1])
    rates = [_rate(b.T @ b if b.shape[1] < len(b) else b @ b.T, len(b)) for b in blocks]
    return math.fsum(rates) / len(rates)


def _rate(gram: Tensor, rows: int) -> float:
    """Rate ``1/2 ln det(I + G / (n eps))``, in nats, from the Gram matrix of either side."""
    factor = torch.linalg.cholesky(torch.eye(len(gram), dtype=gram.dtype) + gram / (rows * _EPS))
    return float(factor.diagonal().log().sum())
