"""Neural-collapse transferability index: how near the features are to collapse (Wang et al., ICCV 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples
from itm.scorers.common.folds import CrossValidated, derive
from itm.scorers.common.lda import LEAST_SHRINKAGE, Scatter, mean_true_probability, out_of_fold_posterior
from itm.scorers.common.moments import Moments, moments
from itm.scorers.common.relative import RelativeScorer

_COMPONENTS = 64


@settings("scorer.ncti")
class NCTI(CrossValidated, RelativeScorer):
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

    def parts(self, samples: Samples) -> dict[str, float]:
        """Compute ``seli`` (at least 0), ``ncc`` (between 0 and 1) and ``vc`` (any real number)."""
        y = samples.y.cpu()
        reduced = derive(samples, moments(samples).principal(_COMPONENTS))
        if self.reference:
            embedding, posterior = _published(moments(reduced))
        else:
            embedding = _default_embedding(moments(reduced))
            posterior = out_of_fold_posterior(reduced, self.folds, self.seed)
        variability = sum(_nuclear_norm(posterior[y == c]) for c in range(samples.num_classes))
        return {
            "seli": _nuclear_norm(embedding),
            "ncc": mean_true_probability(posterior, y),
            "vc": math.log(variability),
        }


def _published(m: Moments) -> tuple[Tensor, Tensor]:
    """Return embedding and posterior of the rows the analysis was fitted to, with the published switch of solvers."""
    leading = m.variance[: _COMPONENTS // 2].sum() * m.n / (m.n - 1)
    shrinkage = max(math.exp(-float(leading)), LEAST_SHRINKAGE)
    if shrinkage == LEAST_SHRINKAGE:
        # scikit-learn takes a while to import: only a scorer that uses it pays for it
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        rows, classes = m.x.numpy(), m.y.numpy()
        lda = LinearDiscriminantAnalysis(solver="svd").fit(rows, classes)
        embedding = torch.from_numpy(np.ascontiguousarray(lda.transform(rows)))
        return embedding - embedding.mean(0), torch.from_numpy(lda.predict_proba(rows))
    scatter = Scatter(m.counts, m.class_offsets, m.within, m.d)
    # The published solver shrinks the total covariance as well, so what is left between classes has a sphere in it.
    between = m.gram / m.n - m.within
    sphere = shrinkage * between.trace() / m.d * torch.eye(m.d, dtype=between.dtype)
    embedding = _embed(m, scatter.covariance(shrinkage), (1 - shrinkage) * between + sphere)
    return embedding, scatter.fit(shrinkage).posterior(m.centered)


def _default_embedding(m: Moments) -> Tensor:
    scatter = Scatter(m.counts, m.class_offsets, m.within, m.d)
    covariance = scatter.covariance(scatter.ledoit_wolf(m.centered, m.y))
    return _embed(m, covariance, m.class_offsets.T @ (m.counts[:, None] * m.class_offsets))


def _embed(m: Moments, within: Tensor, between: Tensor) -> Tensor:
    """Project rows on the ``C - 1`` directions of most scatter between classes, in units of the scatter within."""
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors / values.clamp_min(LEAST_SHRINKAGE * float(values.mean())).sqrt()
    directions = torch.linalg.eigh(whiten.T @ between @ whiten).eigenvectors[:, 1 - m.c :]
    embedding: Tensor = m.centered @ (whiten @ directions)
    return embedding


def _nuclear_norm(matrix: Tensor) -> float:
    return float(torch.linalg.svdvals(matrix).sum())
