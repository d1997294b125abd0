"""Rank statistics of many pools of models at once: every function takes ``[M, n]`` arrays and gives ``[M]`` values.

Row ``m`` is one pool of ``n`` models. Each statistic is built from the pairwise signs ``sgn(x_i - x_j)``, so a
thousand sub-pools cost one array operation. :mod:`itm.metrics.single` has the same statistics for one pool, with
checks and formulas; these trust their input (:func:`finite_columns` checks it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from itm.core.errors import SettingError, unknown

Array = NDArray[np.float64]
Values = ArrayLike | Tensor
"""One number per model."""
Definition = Literal["scipy", "paper"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)


def finite_columns(**columns: Any) -> tuple[Array, ...]:
    """Turn named sequences, one value per model, into float64 arrays of one length.

    Raises:
        SettingError: If one is not a flat sequence of finite numbers, lengths differ, there are fewer than two models,
            or two pandas Series list the models in different order; the message names the sequence and the index.
    """
    arrays = {name: finite(name, values) for name, values in columns.items()}
    first, *others = arrays
    for name in others:
        if len(arrays[name]) != len(arrays[first]):
            raise SettingError(f"{first} has {len(arrays[first])} values, {name} has {len(arrays[name])}; pair them.")
    if len(arrays[first]) < 2:
        raise SettingError(f"{first}: a ranking needs at least two models, found {len(arrays[first])}.")
    labelled = {name: values.index for name, values in columns.items() if isinstance(values, pd.Series)}
    for name, index in labelled.items():
        if not index.equals(next(iter(labelled.values()))):
            raise SettingError(f"{name}: the labels differ from those of {next(iter(labelled))}; align them by model.")
    return tuple(arrays.values())


def finite(name: str, values: Any) -> Array:
    """Turn one sequence (or a single number) into a flat float64 array, as :func:`finite_columns` does."""
    if isinstance(values, Mapping):
        raise SettingError(f"{name}: expected a sequence with one number per model, found a mapping; order it first.")
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{name}: expected a sequence with one number per model ({error}).") from error
    array = np.atleast_1d(array)
    if array.ndim != 1:
        raise SettingError(f"{name}: expected one dimension, one number per model, found shape {array.shape}.")
    missing = np.flatnonzero(~np.isfinite(array))
    if len(missing):
        i = missing[0]
        raise SettingError(f"{name}[{i}] is {array[i]}: every model needs a finite number; leave the model out.")
    return array


def weighted_kendall_tau(truth: Array, scores: Array, definition: Definition = "scipy") -> Array:
    """Return weighted Kendall's tau of each row, see :func:`itm.metrics.single.weighted_kendall_tau`."""
    if definition not in DEFINITIONS:
        raise unknown("definition", definition, DEFINITIONS)
    t, s = _signs(truth), _signs(scores)
    if definition == "scipy":
        return (_ranked_tau(t, s) + _ranked_tau(s, t)) / 2
    rank = 1 + (t < 0).sum(-1) + ((t == 0).sum(-1) - 1) / 2  # G: 1 = best, ties share their mean rank
    weight = 1 / (rank[:, :, None] + rank[:, None, :])
    return _ratio((weight * t * s).sum((-1, -2)), (weight * ((t != 0) | (s != 0))).sum((-1, -2)))


def _ranked_tau(first: Array, second: Array) -> Array:
    """Return Vigna's tau: weights ``1/(r_i+1) + 1/(r_j+1)``, ``r`` the falling order by ``first``, then ``second``."""
    earlier = np.tri(first.shape[-1], k=-1, dtype=bool)  # copies need distinct ranks; their order does not matter
    ahead = (first < 0) | ((first == 0) & ((second < 0) | ((second == 0) & earlier)))
    weight = 1 / (ahead.sum(-1) + 1)

    def dot(a: Array, b: Array) -> Array:
        return np.asarray(((a * b).sum(-1) * weight).sum(-1))  # sum_ij w_i s_ij = sum_{i<j} (w_i + w_j) s_ij

    return _ratio(dot(first, second), np.sqrt(dot(first, first) * dot(second, second)))


def kendall_tau(truth: Array, scores: Array) -> Array:
    """Return Kendall's tau-b of each row."""
    t, s = _signs(truth), _signs(scores)
    untied = np.abs(t).sum((-1, -2)) * np.abs(s).sum((-1, -2))
    return _ratio((t * s).sum((-1, -2)), np.sqrt(untied))


def partial_kendall_tau(truth: Array, scores: Array, prior: Array) -> Array:
    """Return Kendall's partial tau of each row, see :func:`itm.metrics.single.partial_kendall_tau`."""
    ts, tp, sp = kendall_tau(truth, scores), kendall_tau(truth, prior), kendall_tau(scores, prior)
    return _ratio(ts - tp * sp, np.sqrt((1 - tp**2) * (1 - sp**2)))


def spearman_rho(truth: Array, scores: Array) -> Array:
    """Return Spearman's rho of each row; ties share their mean rank."""
    return pearson_r(_signs(truth).sum(-1), _signs(scores).sum(-1))  # twice the mean rank, centred


def pearson_r(truth: Array, scores: Array) -> Array:
    """Return Pearson's r of each row."""
    t, s = _centred(truth), _centred(scores)
    return _ratio((t * s).sum(-1), np.linalg.norm(t, axis=-1) * np.linalg.norm(s, axis=-1))


def recall_at_k(truth: Array, scores: Array, k: int = 3) -> Array:
    """Return the recall of the ``k`` truly best of each row, see :func:`itm.metrics.single.recall_at_k`."""
    _check_k(k, truth.shape[-1])
    best = truth >= np.sort(truth, axis=-1)[:, -k, None]
    chosen = _by_position(scores, (np.arange(truth.shape[-1]) < k).astype(np.float64))
    return np.asarray((best * chosen).sum(-1) / k)


def ndcg_at_k(truth: Array, scores: Array, k: int | None = None) -> Array:
    """Return the normalised discounted cumulative gain of each row, see :func:`itm.metrics.single.ndcg_at_k`."""
    models = truth.shape[-1]
    _check_k(models if k is None else k, models)
    discount = np.where(np.arange(models) < (k or models), 1 / np.log2(np.arange(models) + 2), 0.0)
    gain = truth - truth.min(-1, keepdims=True)
    found, ideal = ((gain * _by_position(order, discount)).sum(-1) for order in (scores, truth))
    return np.asarray(np.divide(found, ideal, out=np.ones_like(ideal), where=ideal > 0))


def regret(truth: Array, scores: Array) -> Array:
    """Return the truth lost by following the score in each row, see :func:`itm.metrics.single.regret`."""
    first = (np.arange(truth.shape[-1]) == 0).astype(np.float64)
    best = truth.max(-1)
    return np.asarray(((best[:, None] - truth) * _by_position(scores, first)).sum(-1))


def _signs(x: Array) -> Array:
    return np.sign(x[:, :, None] - x[:, None, :])


def _centred(x: Array) -> Array:
    shifted = x - x[:, :1]  # makes a constant row exactly zero, for every rounding of its mean
    return np.asarray(shifted - shifted.mean(-1, keepdims=True))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Return the correlation, 0 where the denominator vanishes: nothing is ordered, so nothing agrees."""
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return np.clip(ratio, -1.0, 1.0)


def _by_position(scores: Array, value: Array) -> Array:
    """Return each model's worth when position ``p`` (0 = best score) is worth ``value[p]``; ties share positions."""
    signs = _signs(scores)
    ahead, level = (signs < 0).sum(-1), (signs == 0).sum(-1)
    total = np.concatenate([[0.0], np.cumsum(value)])
    return np.asarray((total[ahead + level] - total[ahead]) / level)


def _check_k(k: int, models: int) -> None:
    if not 1 <= k <= models:
        raise SettingError(f"k={k}: expected 1 to {models}, the number of models.")
