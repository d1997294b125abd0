"""Neural-collapse transferability index: how near the features are to collapse (Wang et al., ICCV 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from itm.scorers.base import Samples
from itm.scorers.folds import derive
from itm.scorers.lda import LEAST_SHRINKAGE, Scatter, mean_true_probability, out_of_fold_posterior
from itm.scorers.moments import moments
from itm.scorers.relative import RelativeScorer

_COMPONENTS = 64


@dataclass(frozen=True)
class NCTI(RelativeScorer):
    """Spread of the discriminant embedding, plus probability of the true class, minus variability within classes.

    All three are computed on the 64 leading principal components, scaled over the pool of models to ``[0, 1]``, and
    count one each. One model's score depends on the others of the pool, as the method has it. A pool of one scores 0.5.

    - ``seli``: nuclear norm of the embedding by a linear discriminant analysis.
    - ``ncc``: mean probability that the analysis gives the true class.
    - ``vc``: logarithm of the summed nuclear norms of each class's block of probabilities.

    The published code takes the probabilities of the rows the analysis was fitted to, and switches solver and shrinkage
    by the unit of the features. By default they are out of fold, from a covariance shrunk as Ledoit and Wolf do.
    The published principal components come from a randomised, unseeded solver; here they are exact throughout, which
    moves the published parts by up to 2 %.

    Args:
        folds: Number of folds.
        seed: Which of the possible folds.
        reference: Reproduce the published code instead, but for its random principal components.
    """

    name: ClassVar[str] = "ncti"
    weights: ClassVar[Mapping[str, float]] = {"seli": 1.0, "ncc": 1.0, "vc": -1.0}

    folds: int = 5
    seed: int = 0
    reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bound("folds", least=2)

    def parts(self, samples: Samples) -> dict[str, float]:
        """Compute ``seli`` (at least 0), ``ncc`` (between 0 and 1) and ``vc`` (any real number)."""
        x, y = moments(samples).principal(_COMPONENTS), samples.y.cpu()
        if self.reference:
            embedding, posterior = _published(x, y)
        else:
            reduced = derive(samples, x)
            embedding = _embedding(reduced)
            posterior = out_of_fold_posterior(reduced, self.folds, self.seed)
        variability = sum(_nuclear_norm(posterior[y == c]) for c in range(samples.num_classes))
        return {
            "seli": _nuclear_norm(embedding),
            "ncc": mean_true_probability(posterior, y),
            "vc": math.log(variability),
        }


def _published(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding and posterior of the rows the analysis was fitted to, with the published switch of solvers."""
    variances = x.var(0)
    shrinkage = max(math.exp(-float(variances[: _COMPONENTS // 2].sum())), LEAST_SHRINKAGE)
    if shrinkage == LEAST_SHRINKAGE:
        lda = LinearDiscriminantAnalysis(solver="svd")
    else:
        lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    rows, classes = x.numpy(), y.numpy()
    lda.fit(rows, classes)
    embedding = torch.from_numpy(np.ascontiguousarray(lda.transform(rows)))
    return embedding - embedding.mean(0), torch.from_numpy(lda.predict_proba(rows))


def _embedding(samples: Samples) -> Tensor:
    """Centred rows on the discriminant directions, in units of the shrunken deviation within classes, ``[N, <C]``."""
    m = moments(samples)
    scatter = Scatter(m.counts, m.class_offsets, m.within, m.d)
    values, vectors = torch.linalg.eigh(scatter.covariance(scatter.ledoit_wolf(m.centered, m.y)))
    whiten = vectors / values.clamp_min(LEAST_SHRINKAGE * float(values.mean())).sqrt()
    between = m.counts.sqrt()[:, None] * m.class_offsets @ whiten
    directions = torch.linalg.svd(between, full_matrices=False)[2][: m.c - 1]
    embedding: Tensor = m.centered @ whiten @ directions.T
    return embedding


def _nuclear_norm(matrix: Tensor) -> float:
    return float(torch.linalg.svdvals(matrix).sum())
