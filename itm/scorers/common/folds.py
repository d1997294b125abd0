"""Cross-validation folds that depend on what the rows hold, not on their order or on how the classes are numbered."""

from __future__ import annotations

from typing import Annotated
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from itm.core.errors import FeatureError, SettingError
from itm.scorers.base import Samples

Folds = Annotated[int, Field(ge=2)]

_ROWS_AT_ONCE = 1024


def row_keys(x: Tensor, seed: int = 0) -> NDArray[np.uint64]:
    """Hash the float64 value of each row, so that rows can be shuffled by their content.

    Args:
        x: Features, floating point, ``[N, D]``; float32 and float64 of the same values give the same keys.
        seed: Which of the hashes.

    Returns:
        One pseudo-random key per row, ``[N]``; equal rows have equal keys.
    """
    weights = np.random.default_rng(seed).integers(0, 2**63, size=x.shape[1], dtype=np.uint64) * 2 + 1
    starts = range(0, len(x), _ROWS_AT_ONCE)
    keys = [_mix(_bits(x[start : start + _ROWS_AT_ONCE]), weights) for start in starts]
    return np.concatenate(keys)


def _bits(x: Tensor) -> NDArray[np.uint64]:
    return np.ascontiguousarray(x.cpu().double().numpy() + 0.0).view(np.uint64)  # + 0.0: minus zero is zero


def _mix(bits: NDArray[np.uint64], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Round numbers keep their information in the high bits, which a product alone would push out.
    products = (bits ^ (bits >> np.uint64(32))) * weights
    keys: NDArray[np.uint64] = (products ^ (products >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    return keys * np.uint64(0x9E3779B97F4A7C15)


_KEYS: WeakKeyDictionary[Samples, dict[int, NDArray[np.uint64]]] = WeakKeyDictionary()
_ORIGINS: WeakKeyDictionary[Samples, tuple[Samples, Tensor]] = WeakKeyDictionary()


def derive(samples: Samples, x: Tensor, rows: Tensor | None = None) -> Samples:
    """Put other features in place of some rows, which keep the folds they have by their original content.

    The last digits of computed features depend on the number of threads, and with them would their hash.

    Args:
        samples: Checked features.
        x: What takes the place of their features, ``[n, D']``.
        rows: Which rows, int64, ``[n]``; all by default. Classes without a row fall away.

    Returns:
        Samples of these rows.
    """
    rows = torch.arange(len(samples.y)) if rows is None else rows
    counts = torch.bincount(samples.y.cpu()[rows], minlength=samples.num_classes)
    y = (torch.cumsum(counts > 0, dim=0) - 1)[samples.y.cpu()[rows]]
    groups = None if samples.groups is None else samples.groups.cpu()[rows]
    derived = Samples(x, y, int((counts > 0).sum()), groups=groups)
    _ORIGINS[derived] = (samples, rows)
    return derived


def _sample_keys(samples: Samples, seed: int) -> NDArray[np.uint64]:
    if samples in _ORIGINS:
        origin, rows = _ORIGINS[samples]
        keys: NDArray[np.uint64] = _sample_keys(origin, seed)[rows.numpy()]
        return keys
    known = _KEYS.setdefault(samples, {})
    if seed not in known:
        known[seed] = row_keys(samples.x, seed)
    return known[seed]


def canonical(samples: Samples, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Order rows and classes by content: computations in this order are bitwise the same for every order of the input.

    Args:
        samples: Checked features.
        seed: Which of the pseudo-random orders.

    Returns:
        Indices of the rows, class by class, int64 ``[N]``, and of the classes, int64 ``[C]``.
    """
    keys, y = _sample_keys(samples, seed), samples.y.cpu().numpy()
    class_keys = np.zeros(samples.num_classes, dtype=np.uint64)
    np.add.at(class_keys, y, keys)
    classes = np.lexsort((class_keys, np.bincount(y)))
    rank = np.argsort(classes)
    return torch.from_numpy(np.lexsort((keys, rank[y]))), torch.from_numpy(classes)


def assign_folds(samples: Samples, folds: int = 5, seed: int = 0) -> Tensor:
    """Deal the rows into folds, every class as evenly as it goes, and never through a group.

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
    rows = canonical(samples, seed)[0]
    if samples.groups is None:
        fold = torch.empty(len(rows), dtype=torch.int64)
        fold[rows] = torch.arange(len(rows)) % folds
        return fold
    members = torch.unique(samples.groups.cpu(), return_inverse=True)[1]
    num_groups = int(members.max()) + 1
    if num_groups < 2:
        raise FeatureError(f"All {len(rows)} rows belong to one group; cross-validation needs two or more groups.")
    # A group stands where the first of its rows stands, so that groups of one class are dealt out one after the other.
    place = torch.empty(len(rows), dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    first = torch.full((num_groups,), len(rows)).scatter_reduce_(0, members, place, "amin")
    return (torch.argsort(torch.argsort(first)) % folds)[members]
