"""Gaussian LEEP: LEEP over the components of a mixture instead of source classes (Li et al., CVPR 2021)."""

from __future__ import annotations

import math
import warnings
from typing import ClassVar

import torch
from torch import Tensor

from itm.core.errors import FeatureError
from itm.core.settings import Count, Share, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.folds import canonical_rows
from itm.scorers.common.moments import Moments, moments
from itm.scorers.leep import expected_prediction

# scikit-learn's GaussianMixture by default, as published
_REGULARIZATION = 1e-6
_TOLERANCE, _ROUNDS = 1e-3, 100
_NEGLIGIBLE = 1e-15  # a row that belongs less than this to a component does not shape it


@settings("scorer.nleep")
class NLEEP(Scorer):
    """Mean log-likelihood of the labels under ``sum_k P(y | k) theta_k(x)``, in nats, at most 0.

    ``theta`` are the posteriors of a Gaussian mixture fitted to the leading principal components without labels. With
    few rows per component the score says more about the mixture than about the classes.

    The published code takes the mean probability and no logarithm, is not seeded, draws the start of its mixture by the
    order of the rows, and adds 1e-6 to variances of any scale. The default is the paper's formula on features of unit
    scale, drawn independently of the order, with at most one component for four rows.

    Args:
        ratio: Components per class.
        variance: Share of the variance that the principal components must exceed, above 0 and below 1.
        log: False gives the mean probability.
        seed: Of the k-means start of the mixture; scores vary by a few per cent with it.
        reference: True gives the published number (TencentARC/SFDA, ``NLEEP``) after ``numpy.random.seed(seed)``.

    Raises:
        SettingError: If ``ratio`` or ``variance`` is not as stated.
    """

    ratio: Count = 5
    variance: Share = 0.8
    log: bool = True
    seed: int = 0
    reference: bool = False

    name: ClassVar[str] = "nleep"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        m = moments(samples)
        components = self.ratio * m.c
        if self.reference and components > m.n:
            raise FeatureError(f"nleep: a mixture of {components} components needs as many rows, found {m.n}.")
        if not self.reference:
            components = min(components, max(1, m.n // 4))
        order = torch.arange(m.n) if self.reference else canonical_rows(samples)
        x = self._reduce(m)[order].contiguous()
        if not self.reference:
            x /= x.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        theta = posteriors(x, components, self.seed)
        probability = expected_prediction(theta, m.y[order], m.c)
        value = (probability.log() if self.log and not self.reference else probability).mean().item()
        return Score(value, details={"components": components, "dimensions": x.shape[1]})

    def _reduce(self, m: Moments) -> Tensor:
        """Project on the fewest principal components that hold more than the share of the variance, one at least."""
        cumulative = m.spectrum[0].cumsum(0)
        return m.principal(1 + int((cumulative <= self.variance * cumulative[-1]).sum()))


def posteriors(x: Tensor, components: int, seed: int) -> Tensor:
    """Fit a Gaussian mixture with full covariances by expectation maximisation from a k-means start.

    The steps are those of scikit-learn's ``GaussianMixture``; only the algebra is faster where components are shaped by
    fewer rows than there are dimensions.

    Args:
        x: Rows, float64, ``[N, d]``.
        components: ``K``, at most ``N``.
        seed: Of k-means.

    Returns:
        Posterior of each component for each row, ``[N, K]``.
    """
    # scikit-learn takes a while to import: only a scorer that uses it pays for it
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than components: the rest stay empty
        start = KMeans(components, n_init=1, random_state=seed).fit_predict(x.numpy())
    theta = torch.nn.functional.one_hot(torch.from_numpy(start).long(), components).double()
    bound = -math.inf
    for _ in range(_ROUNDS):
        log_joint = _log_joint(x, theta)
        theta = log_joint.softmax(dim=1)
        previous, bound = bound, log_joint.logsumexp(dim=1).mean().item()
        if abs(bound - previous) < _TOLERANCE:
            break
    return _log_joint(x, theta).softmax(dim=1)


def _log_joint(x: Tensor, theta: Tensor) -> Tensor:
    """Fit weights, means and covariances to posteriors ``theta [N, K]``; return log weight times density, ``[N, K]``.

    A covariance is ``A^T A + reg I`` with one row of ``A`` per row of ``x`` that belongs to the component. In the
    singular vectors of ``A`` it is diagonal, and ``reg`` on all that is orthogonal to them.
    """
    n, d = x.shape
    mass = theta.sum(0) + 10 * torch.finfo(torch.float64).eps
    means = theta.T @ x / mass[:, None]
    squared = x.square().sum(1) - 2 * means @ x.T + means.square().sum(1, keepdim=True)
    log_joint = torch.empty(len(mass), n, dtype=torch.float64)
    for k, belongs in enumerate(theta.T.contiguous()):
        rows = (belongs > _NEGLIGIBLE).nonzero().squeeze(1)
        a = (x[rows] - means[k]) * (belongs[rows] / mass[k]).sqrt()[:, None]
        singular, axes = torch.linalg.svd(a, full_matrices=False)[1:]
        variances = singular.square() + _REGULARIZATION
        along = (x @ axes.T - axes @ means[k]).square()
        mahalanobis, rest = along @ variances.reciprocal(), d - len(variances)
        if rest:
            mahalanobis += (squared[k] - along.sum(1)).clamp_min(0.0) / _REGULARIZATION
        log_det = variances.log().sum() + rest * math.log(_REGULARIZATION)
        log_joint[k] = mass[k].log() - 0.5 * (mahalanobis + log_det)
    return log_joint.T - math.log(n) - d / 2 * math.log(2 * math.pi)
