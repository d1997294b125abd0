"""Leave-one-out accuracy of the nearest neighbours."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from itm.core.settings import Count, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.moments import moments

_DISTANCES_AT_ONCE = 2**23  # 64 MiB of float64


@settings("scorer.knn")
class KNN(Scorer):
    """Percentage of rows whose class the ``k`` nearest other rows vote for, by Euclidean distance.

    Exact. Neighbours that are equally far share the places that are left, so the order of the rows does not matter, and
    classes with equally many votes share the point, so the names of the classes do not matter either. The published
    code gives a tied vote to the smallest label, except that rows whose neighbours all disagree score their hits
    divided by ``k``.

    Args:
        k: Number of neighbours, lowered to the number of other rows of the smallest class: with more, a row of a small
            class is outvoted even if its own class is the nearest.
        reference: Reproduce the published code instead: its rule for tied votes, and ``k`` as given.
    """

    name: ClassVar[str] = "knn"

    k: Count = 5
    reference: bool = False

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; between 0 and 100 per cent."""
        x, y = moments(samples).centered, samples.y.cpu()
        k = min(self.k, len(x) - 1) if self.reference else _neighbours(self.k, y)
        points = _published_points if self.reference else _shared_points
        norms = x.square().sum(1)
        total = 0.0
        step = max(1, _DISTANCES_AT_ONCE // len(x))
        for start in range(0, len(x), step):
            rows = torch.arange(start, min(start + step, len(x)))
            squared = torch.addmm(norms, x[rows], x.T, alpha=-2).add_(norms[rows, None])
            squared[torch.arange(len(rows)), rows] = torch.inf
            votes = _votes(squared, y, k, samples.num_classes, tolerance=1e-13 * float(norms.max()))
            total += float(points(votes, y[rows]).sum())
        return Score(100 * total / len(x), details={"k": k})


def _neighbours(k: int, y: Tensor) -> int:
    counts = torch.bincount(y)
    return max(1, min(k, int(counts[counts > 0].min()) - 1))


def _votes(squared: Tensor, y: Tensor, k: int, num_classes: int, tolerance: float) -> Tensor:
    """Count the votes of the ``k`` nearest for each class, ``[B, C]``; equally far rows share what places are left."""
    nearest, index = squared.topk(min(k + 1, squared.shape[1]), largest=False, sorted=True)
    votes = torch.zeros(len(squared), num_classes, dtype=squared.dtype)
    votes.scatter_add_(1, y[index[:, :k]], torch.ones_like(nearest[:, :k]))
    tied = torch.nonzero(nearest[:, -1] - nearest[:, k - 1] <= tolerance).flatten()
    if len(tied):
        last = nearest[tied, k - 1 : k]
        nearer = (squared[tied] < last - tolerance).to(squared.dtype)
        equal = ((squared[tied] - last).abs() <= tolerance).to(squared.dtype)
        share = (k - nearer.sum(1, keepdim=True)) / equal.sum(1, keepdim=True)
        weights = nearer + equal * share
        votes[tied] = torch.zeros(len(tied), num_classes, dtype=squared.dtype).index_add_(1, y, weights)
    return votes


def _shared_points(votes: Tensor, y: Tensor) -> Tensor:
    """Give a point to a row whose class has the most votes, shared among the classes that have as many."""
    winners = votes >= votes.max(1, keepdim=True).values - 1e-9
    hit = winners.gather(1, y[:, None]).flatten()
    return hit / winners.sum(1)


def _published_points(votes: Tensor, y: Tensor) -> Tensor:
    most = votes.max(1).values
    hit = votes.argmax(1) == y  # argmax takes the smallest label of a tie
    own = votes.gather(1, y[:, None]).flatten()
    return torch.where(most > 1, hit.double(), own / votes.sum(1))
