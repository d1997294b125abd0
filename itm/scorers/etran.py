"""ETran: energy of the features plus a discriminant analysis (Gholami et al., ICCV 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples
from itm.scorers.common.folds import CrossValidated
from itm.scorers.common.lda import mean_true_probability, nearest_centroid_posterior, out_of_fold_posterior
from itm.scorers.common.moments import moments
from itm.scorers.common.relative import RelativeScorer


@settings("scorer.etran")
class ETran(CrossValidated, RelativeScorer):
    """0.15 of the energy plus 0.85 of the mean probability of the true class, each scaled over the pool of models.

    One model's score depends on the others of the pool, as the method has it. A pool of one scores 0.5.

    Three things in the published code mislead. Its energy ``ln sum_d exp(x_d)`` grows with the logarithm of the width
    and is averaged over the lowest 0.5 % of the rows: a single row of 200, none of 199. The eigenvectors of its
    discriminant analysis cancel out, so that it compares distances to class means and nothing else. And it judges the
    rows that made those means. By default, therefore, the energy is ``ln mean_d exp(x_d)``, free of its bias in narrow
    features and averaged over all rows, and the probabilities are out of fold, by a discriminant with a covariance
    shrunk as Ledoit and Wolf do.

    The term for regression tasks takes no part, as in the published classification code.

    Args:
        folds: Number of folds.
        seed: Which of the possible folds.
        reference: Reproduce the published code instead; it returns NaN for fewer than 200 rows, this the
            lowest energy.
    """

    name: ClassVar[str] = "etran"
    weights: ClassVar[Mapping[str, float]] = {"energy": 0.15, "lda": 0.85}

    def parts(self, samples: Samples) -> dict[str, float]:
        """Compute ``energy``, any real number, and ``lda``, a mean probability."""
        m = moments(samples)
        if self.reference:
            energy = _lowest_energy(m.x)
            posterior = nearest_centroid_posterior(m.x, m.y, m.c)
        else:
            energy = _mean_energy(m.x)
            posterior = out_of_fold_posterior(samples, self.folds, self.seed)
        return {"energy": energy, "lda": mean_true_probability(posterior, m.y)}


def _lowest_energy(x: Tensor) -> float:
    """Return the mean of ``ln sum_d exp(x_d)`` over the lowest 0.5 % of the rows, rounded down as published."""
    kept = max(1, 5 * len(x) // 1000)
    return float(torch.logsumexp(x, dim=1).topk(kept, largest=False).values.mean())


def _mean_energy(x: Tensor) -> float:
    """Return the mean of ``ln mean_d exp(x_d)`` over the rows, corrected for its bias in narrow features.

    The logarithm of a mean of few values is low. The second-order correction is half the squared variation of
    ``exp(x_d)`` over ``D``; it lies between 0 and 1/2.
    """
    dim = x.shape[1]
    weights = torch.softmax(x, dim=1)
    bias = (dim * weights.square_().sum(1) - 1) / (2 * max(dim - 1, 1))
    return float((torch.logsumexp(x, dim=1) + bias).mean()) - math.log(dim)
