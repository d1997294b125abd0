"""Cross-validation folds that depend on the content of the rows, not on their order or on the numbers of the classes.

scikit-learn's ``StratifiedKFold`` deals equal rows into several folds, where each one reveals the class of the others.
Its ``StratifiedGroupKFold``, with one group per distinct row, keeps them together, but takes 7 s for 50,000 rows of 10
classes and 10 s for 100 classes, where :func:`assign_folds` takes 0.2 s. Both refuse data whose classes all have fewer
rows than there are folds.
"""

from __future__ import annotations

from typing import Annotated
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from itm.core.errors import FeatureError, SettingError
from itm.core.settings import settings
from itm.scorers.base import Samples, Scorer

Folds = Annotated[int, Field(ge=2)]
MostRows = Annotated[int, Field(ge=3)] | None
"""Rows of a sample that a slow score sees in place of all; None for all."""
"""Number of folds."""
_ROWS_AT_ONCE = 1024


@settings("scorer")
class CrossValidated(Scorer):
    """A score of rows held out by folds, or the published one of the rows that were fitted to.

    Args:
        folds: Number of folds.
        seed: Which of the possible folds.
        reference: Reproduce the published code instead.
    """

    folds: Folds = 5
    seed: int = 0
    reference: bool = False


def row_keys(x: Tensor) -> NDArray[np.float64]:
    """Project the rows on a fixed direction, so that they can be ordered by their content.

    The order of the keys depends neither on the unit nor on the origin of the features.

    Args:
        x: Features, floating point, ``[N, D]``; float32 and float64 of the same values give the same keys.

    Returns:
        One number per row, ``[N]``; equal rows have equal keys to the last bit, wherever they stand.
    """
    direction = np.sin(np.arange(1.0, x.shape[1] + 1))  # round features with equal keys would need a rational relation
    low = x.amin(0).cpu().double().numpy()  # a common offset would cost digits
    keys = np.empty(len(x))
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        # numpy adds up each row on its own; a matrix product may round equal rows differently
        keys[rows] = ((x[rows].cpu().double().numpy() - low) * direction).sum(axis=1)
    return keys


_KEYS: WeakKeyDictionary[Samples, NDArray[np.float64]] = WeakKeyDictionary()


def _keys(samples: Samples) -> NDArray[np.float64]:
    if samples not in _KEYS:
        _KEYS[samples] = row_keys(samples.x)
    return _KEYS[samples]


def derive(samples: Samples, x: Tensor, rows: Tensor | None = None) -> Samples:
    """Replace the features of some rows, which keep the order that follows from their original content.

    The last digits of computed features depend on the number of threads, and so would their keys.

    Args:
        samples: Checked features.
        x: The new features, ``[n, D']``.
        rows: Which rows, int64, ``[n]``; all by default. Classes without a row fall away.

    Returns:
        Samples of these rows.
    """
    rows = torch.arange(len(samples.y)) if rows is None else rows
    counts = torch.bincount(samples.y.cpu()[rows], minlength=samples.num_classes)
    y = (torch.cumsum(counts > 0, dim=0) - 1)[samples.y.cpu()[rows]]
    groups = None if samples.groups is None else samples.groups.cpu()[rows]
    derived = Samples(x, y, int((counts > 0).sum()), groups=groups)
    _KEYS[derived] = _keys(samples)[rows.numpy()]
    return derived


def at_most(samples: Samples, rows: int | None, seed: int) -> Samples:
    """Draw a random sample of the rows, in a way that depends on their content and the seed.

    Args:
        samples: Checked features.
        rows: Most rows; None keeps all.
        seed: Which of the possible samples.

    Returns:
        All rows, or that many of them; classes without a row fall away.
    """
    n = len(samples.y)
    if rows is None or n <= rows:
        return samples
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    chosen = canonical_rows(samples)[order[:rows]]
    return derive(samples, samples.x[chosen], chosen)


def canonical_rows(samples: Samples) -> Tensor:
    """Order the rows by content, classes mixed.

    Returns:
        Indices of the rows, int64 ``[N]``; seeded draws that start from them do not change when rows are permuted.
    """
    return torch.from_numpy(np.lexsort((_class_ranks(samples)[samples.y.cpu()], _keys(samples))))


def canonical(samples: Samples) -> tuple[Tensor, Tensor]:
    """Order rows and classes by content: computations in this order are bitwise the same for every order of the input.

    Returns:
        Indices of the rows, class by class, int64 ``[N]``, and of the classes, int64 ``[C]``.
    """
    ranks = _class_ranks(samples)
    return torch.from_numpy(np.lexsort((_keys(samples), ranks[samples.y.cpu()]))), torch.argsort(ranks)


def _class_ranks(samples: Samples) -> Tensor:
    """Place of each class by its size and its first key, ``[C]``."""
    keys, y = _keys(samples), samples.y.cpu().numpy()
    first = np.full(samples.num_classes, np.inf)
    np.minimum.at(first, y, keys)
    return torch.from_numpy(np.argsort(np.lexsort((first, np.bincount(y)))))


def shuffled(samples: Samples, seed: int) -> Tensor:
    """Shuffle the rows of each class, in a way that depends on their content and the seed.

    Returns:
        Indices of the rows, class by class, equal rows side by side, int64 ``[N]``.
    """
    rows = canonical(samples)[0]
    distinct = _new(samples, rows).cumsum(0) - 1
    order = torch.randperm(int(distinct[-1]) + 1, generator=torch.Generator().manual_seed(seed))
    return rows[np.lexsort((order[distinct], _class_ranks(samples)[samples.y.cpu()[rows]]))]


def _new(samples: Samples, rows: Tensor) -> Tensor:
    """Mark each of ``rows [N]`` whose content or class is not that of the row before it."""
    keys, y = torch.from_numpy(_keys(samples))[rows], samples.y.cpu()[rows]
    new = torch.ones(len(rows), dtype=torch.bool)
    new[1:] = (keys[1:] != keys[:-1]) | (y[1:] != y[:-1])
    return new


def assign_folds(samples: Samples, folds: int = 5, seed: int = 0) -> Tensor:
    """Deal the rows into folds, every class as evenly as possible, and never through a group.

    Equal rows of a class share a fold, since one in the training part would reveal the class of the other. A class with
    fewer distinct rows than folds is the exception: the training part needs it too.

    Args:
        samples: Checked features.
        folds: Number of folds; fewer where there are fewer rows or groups.
        seed: Which of the possible deals.

    Returns:
        Fold of each row, int64, ``[N]``, values ``0..folds-1``. A class with one row has no training row in its fold.

    Raises:
        SettingError: If ``folds`` is smaller than 2.
        FeatureError: If all rows belong to one group.
    """
    if folds < 2:
        raise SettingError(f"folds={folds}: cross-validation needs 2 or more.")
    rows = shuffled(samples, seed)
    units = _distinct_rows(samples, rows, folds) if samples.groups is None else _whole_groups(samples.groups, rows)
    fold = torch.empty(len(rows), dtype=torch.int64)
    fold[rows] = units % folds
    return fold


def _distinct_rows(samples: Samples, rows: Tensor, folds: int) -> Tensor:
    """Number the distinct rows along ``rows``, and every row of a class with fewer distinct ones than ``folds``."""
    new, y = _new(samples, rows), samples.y.cpu()[rows]
    few = torch.bincount(y[new], minlength=samples.num_classes) < folds
    return (new | few[y]).cumsum(0) - 1


def _whole_groups(groups: Tensor, rows: Tensor) -> Tensor:
    """Number the groups along ``rows`` by the first row of each, so that groups of one class are dealt in turn."""
    members = torch.unique(groups.cpu(), return_inverse=True)[1][rows]
    num_groups = int(members.max()) + 1
    if num_groups < 2:
        raise FeatureError(f"All {len(rows)} rows belong to one group; cross-validation needs two or more groups.")
    first = torch.full((num_groups,), len(rows)).scatter_reduce_(0, members, torch.arange(len(rows)), "amin")
    return torch.argsort(torch.argsort(first))[members]
