"""How far a ranking statistic can be trusted: over seeds, over sub-pools of models, and between two scorers.

Everything rests on one table of indices, ``pools`` ``[M, k]``: each row picks ``k`` of the ``n`` models.
:func:`subpools` makes the paper's stability protocol of it (all 1,001 choices of 10 of 14), :func:`resamples` the
bootstrap. :func:`over_pools` evaluates a statistic on every row, :func:`compare` sets two scorers against each other on
the same rows, :func:`spread` sums up.

>>> truth, itm, logme = [70, 72, 75, 79, 83], [0.1, 0.4, 0.3, 0.8, 0.9], [3, 1, 2, 5, 4]
>>> pools = subpools(5, 4)
>>> over_pools(pools, truth, itm, statistic=functional.kendall_tau).round(2).tolist()
[0.67, 0.67, 1.0, 1.0, 0.67]
>>> compare(pools, truth, itm, logme).win_rate
1.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from itm.core.errors import SettingError
from itm.metrics import functional

Statistic = Callable[..., functional.Array]
"""A function of :mod:`itm.metrics.functional`; ``functools.partial`` sets its ``k`` or ``definition``."""
Values = ArrayLike | Tensor
Pools = NDArray[np.intp]

_CELLS = 4_000_000  # pairwise signs held at once: 32 MB per column


@dataclass(frozen=True)
class Spread:
    """Centre and width of a statistic's values.

    Args:
        mean: Mean of the values.
        std: Their standard deviation, ``ddof=1``; 0 for a single value.
        low: Lower end of the percentile interval.
        high: Upper end of the percentile interval.
        count: How many values.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """Scorer ``a`` against scorer ``b`` on the same pools.

    Args:
        difference: Spread of the statistic of ``a`` minus that of ``b``.
        win_rate: Share of pools on which ``a`` is better (for regret: lower), a draw counting half.
        draws: Share of pools on which both are equal.
    """

    difference: Spread
    win_rate: float
    draws: float


def spread(values: ArrayLike, level: float = 0.95) -> Spread:
    """Mean, standard deviation and percentile interval of values, for example of one statistic over seeds.

    Args:
        values: One value per seed or pool, finite, at least one.
        level: Share of the values inside the interval, between 0 and 1.

    Raises:
        SettingError: If there is no value, one is not finite, or ``level`` is out of range.

    Example:
        >>> spread([0.25, 0.5, 0.75], level=0.5)
        Spread(mean=0.5, std=0.25, low=0.375, high=0.625, count=3)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise SettingError(f"values: expected one or more finite numbers, found {np.array2string(array, threshold=8)}.")
    if not 0 < level < 1:
        raise SettingError(f"level={level}: expected a share between 0 and 1, for example 0.95.")
    low, high = np.quantile(array, [(1 - level) / 2, (1 + level) / 2])
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return Spread(float(array.mean()), std, float(low), float(high), len(array))


def chance(truth: Values, orders: int = 5_000) -> float:
    """Standard deviation of the weighted tau (scipy's) when the models are ordered at random; its mean is 0.

    Args:
        truth: Accuracy of each model.
        orders: Orders drawn; where there are no more than that, all are taken.
    """
    known = functional.finite("truth", truth)
    places = np.arange(len(known), dtype=np.float64)
    if math.factorial(len(known)) <= orders:
        scores = np.array(list(permutations(places)))
    else:
        scores = np.random.default_rng(0).permuted(np.tile(places, (orders, 1)), axis=1)
    return float(functional.weighted_kendall_tau(np.broadcast_to(known, scores.shape), scores).std())


def subpools(models: int, size: int, limit: int = 10_000, seed: int = 0) -> Pools:
    """Choices of ``size`` of ``models`` models: all of them, or a random sample where there are more than ``limit``.

    Args:
        models: Number of models, ``n``.
        size: Models per pool, ``k``, 2 to ``n``.
        limit: Most pools wanted, at least 1.
        seed: Of the random sample; it is drawn without replacement, every choice being equally likely.

    Returns:
        Indices ``[M, k]``, ascending in each row, rows distinct and in lexicographic order.

    Raises:
        SettingError: If ``size`` or ``limit`` is out of range.

    Example:
        >>> subpools(3, 2).tolist()
        [[0, 1], [0, 2], [1, 2]]
        >>> len(subpools(14, 10)), len(subpools(40, 10))
        (1001, 10000)
    """
    if not 2 <= size <= models:
        raise SettingError(f"size={size}: expected 2 to {models}, the number of models.")
    if limit < 1:
        raise SettingError(f"limit={limit}: expected at least one pool.")
    if math.comb(models, size) <= limit:
        return np.array(list(combinations(range(models), size)), dtype=np.intp)
    rng = np.random.default_rng(seed)
    found: Pools = np.empty((0, size), dtype=np.intp)
    while len(found) < limit:
        drawn = rng.random((limit, models)).argsort(axis=1)[:, :size]
        found = np.unique(np.concatenate([found, np.sort(drawn, axis=1)]), axis=0)
    return found[np.sort(rng.permutation(len(found))[:limit])]


def resamples(models: int, samples: int = 2_000, seed: int = 0) -> Pools:
    """Bootstrap: draw as many models as there are, with replacement.

    Copies of one model tie in truth and in score. Every tau here leaves pairs tied in both out of its numerator and of
    its normaliser, so that copies are evidence neither for nor against the order. Draws of a single model, which has no
    order, are not returned.

    Args:
        models: Number of models, at least 2.
        samples: Draws wanted, at least 1.
        seed: Of the draws.

    Returns:
        Indices ``[samples, models]``.

    Raises:
        SettingError: If ``models`` or ``samples`` is out of range.
    """
    if models < 2 or samples < 1:
        raise SettingError(f"models={models}, samples={samples}: expected at least two models and one sample.")
    rng = np.random.default_rng(seed)
    found: Pools = np.empty((0, models), dtype=np.intp)
    while len(found) < samples:
        drawn = rng.integers(models, size=(samples, models))
        found = np.concatenate([found, drawn[(drawn != drawn[:, :1]).any(axis=1)]])
    return found[:samples]


def over_pools(
    pools: Pools,
    truth: Values,
    scores: Values,
    prior: Values | None = None,
    *,
    statistic: Statistic = functional.weighted_kendall_tau,
) -> functional.Array:
    """Evaluate a statistic on every pool.

    Args:
        pools: Indices ``[M, k]`` of :func:`subpools` or :func:`resamples`.
        truth: Accuracy of each of the ``n`` models.
        scores: Score of each model.
        prior: A second score, for the statistic that takes one (the partial tau).
        statistic: A function of :mod:`itm.metrics.functional`.

    Returns:
        One value per pool, ``[M]``.

    Raises:
        SettingError: If a column is not sound (see :mod:`itm.metrics.single`) or a pool points past its end.
    """
    columns = {"truth": truth, "scores": scores} | ({} if prior is None else {"prior": prior})
    arrays = functional.finite_columns(**columns)
    if pools.ndim != 2 or not pools.size or pools.min() < 0 or pools.max() >= len(arrays[0]):
        raise SettingError(f"pools: expected indices [M, k] of 0 to {len(arrays[0]) - 1}, one per model.")
    step = max(1, _CELLS // pools.shape[1] ** 2)
    parts = (pools[start : start + step] for start in range(0, len(pools), step))
    return np.concatenate([statistic(*(array[part] for array in arrays)) for part in parts])


def bootstrap(
    truth: Values,
    scores: Values,
    prior: Values | None = None,
    *,
    statistic: Statistic = functional.weighted_kendall_tau,
    samples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Spread:
    """Percentile bootstrap interval of a statistic over models.

    The interval answers how the statistic would move with other models of the same kind. In a simulation of normal
    pairs the 95 % interval of Kendall's tau-b held the true value in 95 to 97 % of 300 trials, for 10 and 20 models.

    Args:
        truth: Accuracy of each model.
        scores: Score of each model.
        prior: As in :func:`over_pools`.
        statistic: A function of :mod:`itm.metrics.functional`.
        samples: Draws.
        level: Share of the draws inside the interval.
        seed: Of the draws.

    Example:
        >>> interval = bootstrap([1, 2, 3, 4, 5, 6], [1, 3, 2, 4, 6, 5], statistic=functional.kendall_tau)
        >>> 0 < interval.low < interval.mean < interval.high <= 1
        True
    """
    pools = resamples(len(functional.finite("truth", truth)), samples, seed)
    return spread(over_pools(pools, truth, scores, prior, statistic=statistic), level)


def compare(
    pools: Pools,
    truth: Values,
    a: Values,
    b: Values,
    *,
    statistic: Statistic = functional.weighted_kendall_tau,
    level: float = 0.95,
) -> Comparison:
    """Compare two scorers pool by pool.

    Over :func:`subpools` the result describes these models only: pools share most of their models, so the interval is
    no test. Over :func:`resamples` the interval is the paired bootstrap's.

    Args:
        pools: Indices ``[M, k]``; both scorers see the same ones.
        truth: Accuracy of each model.
        a: Score of each model by the first scorer.
        b: Score of each model by the second scorer.
        statistic: A function of :mod:`itm.metrics.functional`; of regret, the lower value wins.
        level: Share of the differences inside the interval.
    """
    difference = over_pools(pools, truth, a, statistic=statistic) - over_pools(pools, truth, b, statistic=statistic)
    difference[np.abs(difference) < 1e-12] = 0.0  # equal orders may differ by rounding
    gain = -difference if statistic is functional.regret else difference
    draws = float((gain == 0).mean())
    return Comparison(spread(difference, level), float((gain > 0).mean()) + draws / 2, draws)
