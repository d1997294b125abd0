"""Self-challenging Fisher discriminant analysis (Shao et al., ECCV 2022)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples, Score
from itm.scorers.common.folds import CrossValidated
from itm.scorers.common.lda import (
    LEAST_SHRINKAGE,
    Discriminant,
    Fold,
    Scatter,
    coordinates,
    cross_validation,
    mean_true_probability,
)
from itm.scorers.common.moments import moments


@settings("scorer.sfda")
class SFDA(CrossValidated):
    """Mean probability of the true class after a discriminant analysis has been made harder by its own confidence.

    A first discriminant gives each row a confidence; rows then move towards the mean of the other classes, the less
    sure the farther (ConfMix); a second discriminant, fitted to the moved rows, gives the score.

    The published code judges the rows it was fitted to, so the score nears 1 as the width nears the number of rows, and
    shrinks the covariance by a rule that depends on the features' unit. By default the fit sees four fifths of the rows
    and the score is that of the other fifth, which moves by the expectation under its first posterior since its classes
    count as unknown; the covariance is shrunk as Ledoit and Wolf do.

    Args:
        folds: Number of folds.
        seed: Which of the possible folds.
        reference: Reproduce the published code instead: fitted and judged on all rows, with its shrinkage.
    """

    name: ClassVar[str] = "sfda"

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; between 0 and 1."""
        if self.reference:
            return _published(samples)
        x, y = coordinates(samples), samples.y.cpu()
        posterior = torch.empty(len(x), samples.num_classes, dtype=x.dtype)
        for fold in cross_validation(samples, x, self.folds, self.seed):
            posterior[fold.held] = _held_out(x, y, fold)
        return Score(mean_true_probability(posterior, y))


def _held_out(x: Tensor, y: Tensor, fold: Fold) -> Tensor:
    rows, classes, scatter = x[fold.train], y[fold.train], fold.scatter
    shrinkage = scatter.ledoit_wolf(rows, classes)
    first = scatter.fit(shrinkage)
    others = _other_means(scatter)
    certain = torch.nn.functional.one_hot(classes, len(scatter.counts)).to(x.dtype)
    second = _refit(_mix(rows, certain, first, others), classes, scatter, shrinkage)
    held = x[fold.held]
    return second.posterior(_mix(held, first.posterior(held), first, others))


def _published(samples: Samples) -> Score:
    m = moments(samples)
    x, y = m.centered, m.y
    scatter = Scatter(m.counts, m.class_offsets, m.within, m.d)
    shrinkage = max(math.exp(-5 * _top_eigenvalue(m.within)), LEAST_SHRINKAGE)
    first = scatter.fit(shrinkage)
    mixed = _mix(x, torch.nn.functional.one_hot(y, m.c).to(x.dtype), first, _other_means(scatter))
    second = _refit(mixed, y, scatter, shrinkage)
    return Score(mean_true_probability(second.posterior(mixed), y), details={"shrinkage": shrinkage})


def _mix(x: Tensor, belief: Tensor, first: Discriminant, others: Tensor) -> Tensor:
    """Move rows by ConfMix, ``q x + (1 - q) o_c``, in expectation over a belief ``[N, C]`` about their class."""
    confidence = torch.softmax(first.posterior(x), dim=1)  # a softmax of probabilities, as published
    keep = (belief * confidence).sum(1, keepdim=True)
    return torch.addmm(keep * x, belief * (1 - confidence), others)


def _other_means(scatter: Scatter) -> Tensor:
    """Return the unweighted mean of the other classes' means, ``o_c``, ``[C, r]``; of classes that have rows."""
    present = (scatter.counts > 0).sum()
    return (scatter.means.sum(0) - scatter.means) / (present - 1).clamp_min(1)


def _refit(mixed: Tensor, y: Tensor, scatter: Scatter, shrinkage: float) -> Discriminant:
    shift = mixed.mean(0)
    moved = Scatter.from_rows(mixed - shift, y, len(scatter.counts), scatter.dim).fit(shrinkage)
    return Discriminant(moved.weight, moved.bias - moved.weight @ shift)


def _top_eigenvalue(matrix: Tensor, steps: int = 3) -> float:
    """Take three double power steps from the row sums, as published: up to 2.3 % below the true eigenvalue."""
    value, v = 0.0, matrix.sum(1)
    for _ in range(steps):
        p = matrix @ v
        p = p / p.norm().clamp_min(torch.finfo(p.dtype).tiny)
        v = matrix @ p
        value = float(v.norm())
        v = v / max(value, torch.finfo(v.dtype).tiny)
    return value
