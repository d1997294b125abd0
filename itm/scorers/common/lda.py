"""Linear discriminant analysis with a shrunken covariance: fitted, and scored on rows it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from itm.scorers.base import Samples
from itm.scorers.common.folds import assign_folds
from itm.scorers.common.moments import class_sums, gram, moments

LEAST_SHRINKAGE = 1e-10


@dataclass(frozen=True, eq=False)
class Discriminant:
    """Posterior of a Gaussian per class with one common covariance: ``softmax(x @ weight.T + bias)``.

    Args:
        weight: ``[C, D]``.
        bias: ``[C]``; minus infinity for a class without training rows.
    """

    weight: Tensor
    bias: Tensor

    def posterior(self, x: Tensor) -> Tensor:
        """Return class probabilities of rows ``x [N, D]``, ``[N, C]``."""
        return torch.softmax(x @ self.weight.T + self.bias, dim=1)


@dataclass(frozen=True, eq=False)
class Scatter:
    """Statistics of the training rows that discriminant analysis needs.

    Args:
        counts: Rows of each class, ``[C]``.
        means: Mean of each class, ``[C, r]``; zero where a class has no row.
        within: Pooled covariance within classes, population, ``[r, r]``.
        dim: Width ``D`` that the shrinkage target spreads the trace over; more than ``r`` in row-space coordinates.
    """

    counts: Tensor
    means: Tensor
    within: Tensor
    dim: int

    @classmethod
    def from_rows(cls, x: Tensor, y: Tensor, num_classes: int, dim: int, products: Tensor | None = None) -> Scatter:
        """Compute the scatter of rows ``x [n, r]``, from ``products = x.T @ x`` where the caller has them already."""
        counts = torch.bincount(y, minlength=num_classes).double()
        sums = class_sums(x, y, num_classes)
        means = sums / counts.clamp_min(1.0)[:, None]
        products = gram(x) if products is None else products
        return cls(counts, means, (products - means.T @ sums) / len(x), dim)

    def ledoit_wolf(self, x: Tensor, y: Tensor) -> float:
        """Share of the spherical target that minimises the expected squared error of the covariance.

        Args:
            x: The training rows, ``[n, r]``.
            y: Their classes, ``[n]``.

        Returns:
            Between :data:`LEAST_SHRINKAGE` and 1 (Ledoit and Wolf, 2004).
        """
        onto_means = (x @ self.means.T).gather(1, y[:, None]).flatten()
        norms = torch.linalg.vector_norm(x, dim=1).square() - 2 * onto_means + self.means.square().sum(1)[y]
        frobenius = float(self.within.square().sum())
        spread = frobenius - float(self.within.trace()) ** 2 / self.dim
        noise = (float(norms.square().mean()) - frobenius) / len(x)
        if spread <= 1e-20 * frobenius or self._level() <= LEAST_SHRINKAGE * self._total():
            return 1.0
        return min(max(noise / spread, LEAST_SHRINKAGE), 1.0)

    def fit(self, shrinkage: float) -> Discriminant:
        """Fit the discriminant with ``(1 - shrinkage) within + shrinkage * (trace / D) I`` as covariance."""
        covariance = self.covariance(shrinkage)
        weight = _solve(covariance, self.means.T).T
        prior = torch.log(self.counts / self.counts.sum())
        return Discriminant(weight, prior - 0.5 * (self.means * weight).sum(1))

    def covariance(self, shrinkage: float) -> Tensor:
        """Blend the pooled covariance with the sphere of its trace; the unit sphere where nothing varies at all."""
        level = max(self._level(), LEAST_SHRINKAGE * self._total()) or 1.0
        covariance = (1 - shrinkage) * self.within
        covariance.diagonal().add_(shrinkage * level)
        return covariance

    def _level(self) -> float:
        return float(self.within.trace()) / self.dim

    def _total(self) -> float:
        mean = self.counts @ self.means / self.counts.sum()
        between = (self.counts @ (self.means - mean).square().sum(1)) / self.counts.sum()
        return self._level() + float(between) / self.dim


def _solve(covariance: Tensor, right: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return torch.cholesky_solve(right, factor)
    # Rounding made a direction without scatter negative: it counts as the least scatter there can be.
    values, vectors = torch.linalg.eigh(covariance)
    floor = LEAST_SHRINKAGE * float(values.mean())
    solution: Tensor = vectors @ ((vectors.T @ right) / values.clamp_min(floor)[:, None])
    return solution


def coordinates(samples: Samples) -> Tensor:
    """Return centred features, float64, in the space their rows span: ``[N, D]``, or ``[N, N]`` where that is narrower.

    Rotations and shifts change no discriminant, and ``N`` directions hold all of ``N`` rows.
    """
    m = moments(samples)
    return m.centered if m.d <= m.n else m.principal(m.n)


@dataclass(frozen=True, eq=False)
class Fold:
    """One turn of a cross-validation: indices of the rows held out and of the others, with the latter's scatter."""

    train: Tensor
    held: Tensor
    scatter: Scatter


def cross_validation(samples: Samples, x: Tensor, folds: int = 5, seed: int = 0) -> Iterator[Fold]:
    """Walk through the folds; the scatter of the training rows comes from one product per held-out part.

    Args:
        samples: Checked features.
        x: Their :func:`coordinates`.
        folds: Number of folds.
        seed: Which of the possible deals, see :func:`itm.scorers.common.folds.assign_folds`.

    Yields:
        Each fold in turn.
    """
    y, dim = samples.y.cpu(), samples.x.shape[1]
    products = moments(samples).gram if dim <= len(x) else gram(x)
    fold = assign_folds(samples, folds, seed)
    for number in range(int(fold.max()) + 1):
        train, held = torch.nonzero(fold != number).flatten(), torch.nonzero(fold == number).flatten()
        kept = products - gram(x[held])
        yield Fold(train, held, Scatter.from_rows(x[train], y[train], samples.num_classes, dim, kept))


_POSTERIORS: WeakKeyDictionary[Samples, dict[tuple[int, int], Tensor]] = WeakKeyDictionary()


def out_of_fold_posterior(samples: Samples, folds: int = 5, seed: int = 0) -> Tensor:
    """Return class probabilities of every row by a discriminant that never saw the row.

    The covariance is shrunk as Ledoit and Wolf do, so that the result depends neither on the features' unit nor on how
    the width compares with the number of rows. On features without information the true class gets ``sum_c pi_c^2`` on
    average, for every width.

    Args:
        samples: Checked features.
        folds: Number of folds.
        seed: Which of the possible deals.

    Returns:
        Float64, ``[N, C]``, rows sum to one; remembered for as long as the samples live, so do not write to it.
    """
    known = _POSTERIORS.setdefault(samples, {})
    if (folds, seed) not in known:
        x, y = coordinates(samples), samples.y.cpu()
        posterior = torch.empty(len(x), samples.num_classes, dtype=x.dtype)
        for fold in cross_validation(samples, x, folds, seed):
            rows = x[fold.train]
            shrinkage = fold.scatter.ledoit_wolf(rows, y[fold.train])
            posterior[fold.held] = fold.scatter.fit(shrinkage).posterior(x[fold.held])
        known[folds, seed] = posterior
    return known[folds, seed]


def nearest_centroid_posterior(x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the posterior with the identity as covariance, of the very rows the class means come from.

    This is all that is left of the discriminant analysis in the published code of ETran and of spread-and-attract: the
    eigenvectors it takes of a matrix that is not symmetric are orthonormal and cancel out.

    Args:
        x: Features, float64, ``[N, D]``.
        y: Class of each row, ``[N]``.
        num_classes: ``C``.

    Returns:
        ``[N, C]``.
    """
    counts = torch.bincount(y, minlength=num_classes).double()
    means = class_sums(x, y, num_classes) / counts[:, None]
    bias = torch.log(counts / len(y)) - 0.5 * means.square().sum(1)
    return Discriminant(means, bias).posterior(x)


def mean_true_probability(posterior: Tensor, y: Tensor) -> float:
    """Return the mean probability ``[N, C]`` given to the true class ``y [N]``."""
    return math.fsum(posterior.gather(1, y[:, None]).flatten().tolist()) / len(y)
