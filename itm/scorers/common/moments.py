"""Moments of one model's features in float64, computed once and shared by every score that needs them."""

from __future__ import annotations

from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from scipy.linalg import eigh
from torch import Tensor

from itm.scorers.base import Samples


class Moments:
    """Moments of features ``X [N, D]`` with dense labels, each computed on first use and then kept.

    Tensors of ``N * D`` entries (``x``, ``centered``) are computed anew on every access: a cast is cheap, and a pool of
    wide models would otherwise lie in memory twice.

    Args:
        x: Features, floating point, ``[N, D]``; never changed.
        y: Class of each row, int64, ``[N]``, values ``0..C-1`` without gaps.
        num_classes: ``C``.
    """

    def __init__(self, x: Tensor, y: Tensor, num_classes: int) -> None:
        self._x = x.cpu()
        self.y = y.cpu()
        self.n, self.d = x.shape
        self.c = num_classes

    @property
    def x(self) -> Tensor:
        """Features in float64, ``[N, D]``; may be the caller's own memory, so never write to it."""
        return self._x.double()

    @property
    def centered(self) -> Tensor:
        """Features minus their mean, ``[N, D]``."""
        return self.x - self.mean

    @cached_property
    def counts(self) -> Tensor:
        """Rows of each class, float64, ``[C]``."""
        return torch.bincount(self.y, minlength=self.c).double()

    @cached_property
    def mean(self) -> Tensor:
        """Mean of all rows, ``[D]``; exact where all rows are equal, or rounding would pass for signal."""
        first = self._x[0]
        return torch.where((self._x == first).all(0), first.double(), self.x.mean(0))

    @cached_property
    def variance(self) -> Tensor:
        """Population variance of each dimension, ``[D]``."""
        return self.centered.square_().mean(0)

    @cached_property
    def class_means(self) -> Tensor:
        """Mean of each class, ``[C, D]``."""
        return self.mean + self.class_offsets

    @cached_property
    def class_offsets(self) -> Tensor:
        """Mean of each class minus the mean of all rows, ``[C, D]``; no digits are lost to a large common mean."""
        return self._class_sums(self.centered) / self.counts[:, None]

    @cached_property
    def class_scatter(self) -> Tensor:
        """Sum over a class of the squared deviations from its mean, per dimension, ``[C, D]``."""
        return self._class_sums((self.x - self.class_means[self.y]).square_())

    @cached_property
    def gram(self) -> Tensor:
        """Products of the centred features on the smaller side: ``XᵀX [D, D]`` if ``D <= N``, else ``XXᵀ [N, N]``."""
        return gram(self.centered if self.d <= self.n else self.centered.T)

    @cached_property
    def within(self) -> Tensor:
        """Pooled covariance within classes, ``sum_c pi_c cov(X_c)``, population, ``[D, D]``."""
        if self.d <= self.n:
            between = self.class_offsets * self.counts.sqrt()[:, None]
            return (self.gram - between.T @ between) / self.n
        x = self.x - self.class_means[self.y]
        return x.T @ x / self.n

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``[m]`` of :attr:`gram`, largest first and never negative, and its eigenvectors ``[m, m]``."""
        values, vectors = torch.linalg.eigh(self.gram)
        return values.flip(0).clamp_min(0.0), vectors.flip(1)

    @cached_property
    def rank(self) -> int:
        """Directions in which the centred features vary beyond rounding."""
        values = self.spectrum[0]
        threshold = torch.finfo(torch.float64).eps * max(self.n, self.d) * values[0]
        return int((values > threshold).sum())

    @cached_property
    def between(self) -> Tensor:
        """Share of each principal component's variance that lies between classes, largest component first, ``[rank]``.

        These are the squared projections ``|P_Y u_j|^2`` of the left singular vectors on the class indicators.
        """
        values, vectors = (part[..., : self.rank] for part in self.spectrum)
        if self.d <= self.n:
            means = self.class_offsets @ vectors / values.sqrt()
        else:
            means = class_sums(vectors, self.y, self.c) / self.counts[:, None]
        return self.counts @ means.square()

    def principal(self, k: int) -> Tensor:
        """Project the rows on the ``k`` leading principal components (exact, not whitened).

        Args:
            k: Number of components; at most ``min(N, D)`` exist.

        Returns:
            Float64, ``[N, min(k, N, D)]``, columns by falling variance. As in scikit-learn the largest loading of each
            component is positive: row-wise correlations depend on these signs.
        """
        values, vectors = self._leading(k)
        axes = vectors if self.d <= self.n else self.centered.T @ vectors
        signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        if self.d <= self.n:
            return self.centered @ (axes * signs)
        return vectors * values.sqrt() * signs

    def _leading(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the first ``k`` of :attr:`spectrum`, computed alone where they are few: that takes half the time."""
        size = len(self.gram)
        if 4 * k > size or "spectrum" in vars(self):
            return self.spectrum[0][:k], self.spectrum[1][:, :k]
        values, vectors = eigh(self.gram.numpy(), subset_by_index=[size - k, size - 1])
        return torch.from_numpy(values).flip(0).clamp_min(0.0), torch.from_numpy(vectors).flip(1)

    def _class_sums(self, values: Tensor) -> Tensor:
        return class_sums(values, self.y, self.c)


def gram(x: Tensor) -> Tensor:
    """Return ``xᵀx`` of rows ``x [N, D]`` on the CPU, ``[D, D]``."""
    rows = x.numpy()  # numpy notices that the product is symmetric and does half the work, torch does not
    return torch.from_numpy(rows.T @ rows)


def class_sums(x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the sum of the rows ``x [N, D]`` of each class ``y [N]``, ``[C, D]``."""
    return torch.zeros(num_classes, x.shape[1], dtype=x.dtype).index_add_(0, y, x)


_MOMENTS: WeakKeyDictionary[Samples, Moments] = WeakKeyDictionary()


def moments(samples: Samples) -> Moments:
    """Return the moments of checked features, remembered for as long as the samples live."""
    if samples not in _MOMENTS:
        _MOMENTS[samples] = Moments(samples.x, samples.y, samples.num_classes)
    return _MOMENTS[samples]
