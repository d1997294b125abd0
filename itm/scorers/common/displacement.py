"""Moving rows to where fine-tuning is expected to carry their class, before a score judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from itm.core.errors import FeatureError
from itm.scorers.base import Samples, Score
from itm.scorers.common.folds import derive
from itm.scorers.common.lda import coordinates, cross_validation
from itm.scorers.common.moments import class_sums

Move = Callable[[Tensor, Tensor, int, Tensor, Tensor], Tensor]
"""``move(x, y, num_classes, rows, belief)``: ``rows [n, D]`` moved as the classes of ``x [N, D]``, ``y [N]`` say, where
``belief [n, C]`` is what is known about the class of each row."""


class Balls(NamedTuple):
    """Every class as a ball.

    Args:
        centers: Class means, ``[C, D]``.
        radii: Root of the summed population variances, ``[C]``.
    """

    centers: Tensor
    radii: Tensor


def class_balls(x: Tensor, y: Tensor, num_classes: int) -> Balls:
    """Compute the ball of each class from rows ``x [N, D]`` and classes ``y [N]``."""
    counts = torch.bincount(y, minlength=num_classes).double()
    centers = class_sums(x, y, num_classes) / counts[:, None]
    squares = torch.zeros(num_classes, dtype=x.dtype).index_add_(0, y, (x - centers[y]).square_().sum(1))
    return Balls(centers, (squares / counts).sqrt())


def pairwise(balls: Balls) -> tuple[Tensor, Tensor]:
    """Return the distances of the centers and sums of the radii, both ``[C, C]``."""
    # Differences, not products: the distance of two centers that coincide is to be exactly zero.
    distances = torch.cdist(balls.centers, balls.centers, compute_mode="donot_use_mm_for_euclid_dist")
    return distances, balls.radii[:, None] + balls.radii


def push_apart(centers: Tensor, distances: Tensor, amounts: Tensor) -> Tensor:
    """Displace each center away from every other one.

    Args:
        centers: ``[C, D]``.
        distances: Between the centers, ``[C, C]``.
        amounts: How far a pair moves, ``[C, C]``; negative pulls together. The diagonal does not count.

    Returns:
        ``delta_i = sum_{j != i} amounts_ij (centers_i - centers_j) / distances_ij``, ``[C, D]``; a pair that coincides
        has no direction and does not move.
    """
    weights = torch.where(distances > 0, amounts / distances.clamp_min(torch.finfo(distances.dtype).tiny), 0.0)
    weights.fill_diagonal_(0.0)
    return weights.sum(1, keepdim=True) * centers - weights @ centers


def score_moved(samples: Samples, x: Tensor, move: Move, base: Callable[[Samples], Score]) -> Score:
    """Score all rows after each has moved with its own class, as the published codes do.

    Args:
        samples: Checked features.
        x: What is moved and judged, float64, ``[N, D]``.
        move: The displacement.
        base: The score taken afterwards.
    """
    y, c = samples.y.cpu(), samples.num_classes
    certain = torch.nn.functional.one_hot(y, c).to(x.dtype)
    return base(derive(samples, move(x, y, c, x, certain)))


def score_moved_by_halves(
    samples: Samples, x: Tensor, move: Move, base: Callable[[Samples], Score], seed: int
) -> Score:
    """Score each half of the rows after it has moved as the other half says, and average.

    A row that moves with its own class reveals its class. Here the moves, and the belief about the class of each row,
    come from a half that does not contain the row. The base score then sees moved rows only, and no label of theirs had
    a part in the moves. This costs half of the rows.

    Args:
        samples: Checked features.
        x: What is moved and judged, float64, ``[N, D]``.
        move: The displacement.
        base: The score taken afterwards, of half of the rows.
        seed: Which of the possible halves.

    Raises:
        FeatureError: If a half holds a single class.
    """
    total = sum(len(half.y) * base(half).value for half in _moved_halves(samples, x, move, seed))
    return Score(total / len(x))


def _moved_halves(samples: Samples, x: Tensor, move: Move, seed: int) -> Iterator[Samples]:
    y, whole = samples.y.cpu(), coordinates(samples)
    for fold in cross_validation(samples, whole, folds=2, seed=seed):
        rows, labels = whole[fold.train], y[fold.train]
        belief = fold.scatter.fit(fold.scatter.ledoit_wolf(rows, labels)).posterior(whole[fold.held])
        other = derive(samples, x[fold.train], fold.train)
        moved = move(other.x, other.y, other.num_classes, x[fold.held], belief[:, fold.scatter.counts > 0])
        half = derive(samples, moved, fold.held)
        if half.num_classes < 2:
            raise FeatureError(f"{len(y)} rows are too few: one half holds a single class.")
        yield half
