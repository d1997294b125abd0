"""H-score (Bao et al., ICIP 2019) and its regularised form (Ibrahim et al., ICML 2022)."""

from __future__ import annotations

from typing import ClassVar

from itm.core.settings import settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.moments import Moments, moments


@settings("scorer.hscore")
class HScore(Scorer):
    """``tr(cov(f)^-1 cov(E[f | y]))``: how many class directions the features explain, corrected for chance.

    The published number is ``(C - 1) D / (N - 1)`` on average when the labels are shuffled, and ``C - 1`` for any
    features when ``D >= N - 1``: it rewards width. The default subtracts that average and rescales, as the adjusted
    R^2 does, so that chance is 0 and the best is still ``C - 1``; of wide features it keeps the ``(N - 1) / 2`` leading
    principal components: with all components, every set of labels is explained.

    Args:
        reference: True gives the published number (Transfer-Learning-Library, ``h_score``).
    """

    reference: bool = False

    name: ClassVar[str] = "hscore"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        if self.reference:
            return Score(m.between.sum().item(), details={"components": m.rank})
        components = min(m.rank, (m.n - 1) // 2)
        value = _above_chance(m.between[:components].sum().item(), float(components), m)
        return Score(value, details={"components": components})


@settings("scorer.regularized_hscore")
class RegularizedHScore(Scorer):
    """H-score with the covariance shrunk to a multiple of the identity by Ledoit and Wolf's rule, corrected for chance.

    Shuffled labels give the published number an average that depends on the spectrum and the width alone; with
    ``N < D`` it is most of the score. The default subtracts it and rescales as :class:`HScore` does.

    Args:
        reference: True gives the published number (Transfer-Learning-Library, ``regularized_h_score``), whose two
            covariances are divided by ``N`` and ``N - 1``.
    """

    reference: bool = False

    name: ClassVar[str] = "regularized_hscore"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        shrinkage = ledoit_wolf(m)
        kept = (1 - shrinkage) * m.spectrum[0][: m.rank] / m.n
        weights = kept / (kept + shrinkage * m.variance.mean())
        explained = (weights @ m.between).item()
        value = explained * m.n / (m.n - 1) if self.reference else _above_chance(explained, weights.sum().item(), m)
        return Score(value, details={"shrinkage": shrinkage})


def ledoit_wolf(m: Moments) -> float:
    """Return the weight of ``(tr S / D) I`` in Ledoit and Wolf's estimate of the covariance (J. Multivar. Anal., 2004).

    Every sum over the covariance is one over rows or over the smaller Gram matrix, so nothing wide is made.
    """
    mean_variance = m.variance.mean().item()
    squared_norm = m.gram.square().sum().item() / m.n**2
    distance = squared_norm / m.d - mean_variance**2
    noise = (m.centered.square().sum(1).square().sum().item() / m.n - squared_norm) / (m.d * m.n)
    if m.d == 1 or distance <= 0 or noise <= 0:
        return 0.0
    return min(noise / distance, 1.0)


def _above_chance(explained: float, degrees: float, m: Moments) -> float:
    """Rescale so that the mean over all permutations of the labels becomes 0 and ``C - 1`` stays.

    A smoother of trace ``degrees`` explains ``(C - 1) degrees / (N - 1)`` of permuted class indicators on average.
    """
    ceiling = m.c - 1
    room = 1 - degrees / (m.n - 1)
    return (explained - ceiling * (1 - room)) / room if room > 1e-9 else 0.0
