"""Pairwise annotation representation comparison (Bolya et al., NeurIPS 2021)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm.core.errors import FeatureError
from itm.core.settings import Count, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.folds import MostRows, canonical_rows
from itm.scorers.common.moments import Moments, moments

Array = npt.NDArray[np.float64]

_BLOCK = 512  # rows of the distance matrix in memory at a time
_DIGITS = 12  # equal distances must tie, so they are rounded beyond the noise of their computation


@settings("scorer.parc")
class PARC(Scorer):
    """100 times Spearman's correlation between distances of features and of labels, over all pairs of rows.

    The distance of two rows is 1 minus the correlation of their standardised principal components, that of two labels 0
    or 1. Chance is 0; a row without spread correlates with nothing. Time and memory grow as ``N^2``.

    The published PCA stops after one power iteration, which moves scores by up to a fifth; the default is exact. Both
    depend on the signs of the components, since a correlation centres its rows; scikit-learn's convention fixes them.

    Args:
        components: Principal components kept, 32 as published or as many as there are; None compares the raw features.
        max_rows: Of larger sets a random sample of this many rows is compared: 5,000 take 0.4 GiB, 15,000 take 3 GiB.
        seed: Of the sample.
        reference: True calls the published PCA solver with its seed (dbolya/parc, ``PARC``). Label distances are exact:
            the published ones differ by rounding within a class, which moves the score by up to 3 %.

    Raises:
        SettingError: If ``components`` or ``max_rows`` is too small.
    """

    components: Count | None = 32
    max_rows: MostRows = 5_000
    seed: int = 0
    reference: bool = False

    name: ClassVar[str] = "parc"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        rows = self._rows(samples)
        x, y = self._reduce(m)[rows].numpy(), m.y[rows].numpy()
        distances, within = _distances(_unit_rows(x), y)
        if not 0 < len(within) < len(distances):
            found = "share one class" if len(within) else "are of different classes"
            raise FeatureError(f"parc: the {len(y)} rows compared all {found}; it takes equal and unequal labels.")
        return Score(100 * _spearman(distances, within), details={"rows": len(y)})

    def _rows(self, samples: Samples) -> Tensor:
        n = len(samples.y)
        if self.max_rows is None or n <= self.max_rows:
            return torch.arange(n)
        generator = torch.Generator().manual_seed(self.seed)
        return canonical_rows(samples)[torch.randperm(n, generator=generator)[: self.max_rows]]

    def _reduce(self, m: Moments) -> Tensor:
        if self.components is None:
            return m.x
        if self.reference:
            # scikit-learn takes a while to import: only a scorer that uses it pays for it
            from sklearn.decomposition import PCA

            count = min(self.components, m.n, m.d)
            pca = PCA(count, svd_solver="randomized", iterated_power=1, random_state=1919)
            return torch.from_numpy(pca.fit_transform(m.x.numpy()))
        return m.principal(max(1, min(self.components, m.rank)))


def _unit_rows(x: Array) -> Array:
    """Standardise columns, then center rows and bring them to length 1: their products are Pearson's correlations."""
    # scikit-learn takes a while to import: only a scorer that uses it pays for it
    from sklearn.preprocessing import StandardScaler

    rows: Array = StandardScaler().fit_transform(x)
    rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1.0)
    return rows


def _distances(rows: Array, y: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the distances of all ``N (N - 1) / 2`` pairs of rows, and those of pairs within a class; both sorted."""
    n = len(rows)
    pairs, within, filled = np.empty(n * (n - 1) // 2), [], 0
    for start in range(0, n, _BLOCK):
        block = np.round(1.0 - rows[start : start + _BLOCK] @ rows[start:].T, _DIGITS)
        later = np.triu(np.ones(block.shape, dtype=bool), k=1)
        values = block[later]
        pairs[filled : filled + len(values)] = values
        within.append(block[later & (y[start : start + _BLOCK, None] == y[start:])])
        filled += len(values)
    pairs.sort()
    return pairs, np.sort(np.concatenate(within))


def _spearman(distances: Array, within: Array) -> float:
    """Correlate the ranks of all distances with 0 for the pairs within a class and 1 for the others.

    With two label distances the mean rank within classes decides; ties take their mean rank, and all equal give 0.
    """
    total, equal = float(len(distances)), float(len(within))
    ranks = (np.searchsorted(distances, within) + np.searchsorted(distances, within, side="right") + 1) / 2
    below_mean = float(((total + 1) / 2 - ranks).sum())
    ties = np.unique(distances[1:][distances[1:] == distances[:-1]], return_counts=True)[1] + 1.0
    spread = (total**3 - total - float((ties**3 - ties).sum())) / 12 * equal * (total - equal) / total
    return below_mean / math.sqrt(spread) if spread > 0 else 0.0
