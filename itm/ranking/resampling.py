"""Scores of a pool on random parts of its images, the same images for every model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from itm.core.errors import SettingError
from itm.core.features import Features
from itm.core.parallel import map_forked
from itm.core.progress import show_progress
from itm.core.seeding import derive_seed
from itm.core.splits import split_indices
from itm.scorers import Combined, Scorer
from itm.scorers.base import Subpool

MOST_ROWS = 1000
"""Rows of a part: the time of a score grows with them, and its deviations can be rescaled."""
_SEEDS = 2**31  # scikit-learn takes no larger seed


def random_parts(
    y: Tensor, count: int, *, seed: int = 0, groups: Tensor | None = None, most: int = MOST_ROWS
) -> list[Tensor]:
    """Draw random parts of the rows, stratified by class and never through a group.

    Args:
        y: Class of each row, integer, ``[N]``.
        count: Number of parts.
        seed: Decides the parts; the first parts do not depend on their number.
        groups: Group of each row, integer, ``[N]``, or None.
        most: Most rows of a part; up to it a part is half of the rows.

    Returns:
        Ascending indices of each part, int64. Every class has a row in each part.

    Raises:
        FeatureError: If there are fewer than two rows or groups.
    """
    share = min(0.5, most / len(y))
    return [split_indices(y, share, derive_seed(seed, index) % _SEEDS, groups)[0] for index in range(count)]


def resampled_scores(
    pool: Mapping[str, Features],
    scorer: Scorer,
    parts: Sequence[Tensor],
    *,
    models: Sequence[str] | None = None,
    seed: int = 0,
    jobs: int = 1,
) -> NDArray[np.float64]:
    """Score models of a pool on each part of the rows.

    The features of a model are read once for all parts, except by a scorer that needs all models side by side.

    Args:
        pool: Features of the same images by model name.
        scorer: The score. Where it has a seed, each part gets its own.
        parts: Indices of the rows of each part, see :func:`random_parts`.
        models: Models to score; all of the pool where not given.
        seed: Seed of the scorer on the first part, counted upwards.
        jobs: Processes that share the work, see :func:`itm.core.parallel.map_forked`.

    Returns:
        Scores, parts in rows and models in columns, ``[R, M]``; NaN where a model cannot be
        scored on a part.

    Raises:
        SettingError: If a process was killed.
    """
    names, count = list(models or pool), len(parts)
    if isinstance(scorer, Combined):
        members = {
            one.name: resampled_scores(pool, one, parts, models=names, seed=seed, jobs=jobs) for one in scorer.scorers
        }
        return combined_scores(scorer, members, names)
    variants = [_with_seed(scorer, seed + index) for index in range(count)]
    with show_progress(f"Resampling {scorer.name}", count if scorer.relative else len(names)) as advance:
        if scorer.relative:
            chosen = Subpool(pool, names)
            found = map_forked(lambda part: _score(variants[part], chosen, parts[part]), range(count), jobs, advance)
            return np.array(found).reshape(count, len(names))

        def score_model(model: str) -> list[float]:
            one = {model: pool[model]}
            return [_score(variant, one, rows)[0] for variant, rows in zip(variants, parts, strict=True)]

        return np.array(map_forked(score_model, names, jobs, advance)).reshape(len(names), count).T


def combined_scores(
    scorer: Combined, members: Mapping[str, NDArray[np.float64]], models: Sequence[str]
) -> NDArray[np.float64]:
    """Combine the members' scores part by part.

    Args:
        scorer: The combination.
        members: Scores of each member by its name, ``[R, M]``.
        models: Names of the columns.

    Returns:
        ``[R, M]``; NaN where a member has no score.
    """
    stacked = np.array(list(members.values()))  # [K, R, M]
    rows = [scorer.combine(dict(zip(members, part, strict=True)), models) for part in stacked.transpose(1, 0, 2)]
    return np.where(np.isnan(stacked).any(axis=0), math.nan, np.array(rows))


def deviations(scores: NDArray[np.float64], rows: int, part: int) -> NDArray[np.float64]:
    """Return how much the scores on all rows would vary over other images of the same kind.

    Parts of ``m`` of ``N`` rows, drawn without replacement, vary around the score on all rows with the variance
    ``(1/m - 1/N) v``, where the score on all rows itself varies with ``v/N``. The factor ``sqrt(m / (N - m))`` turns
    one into the other; for halves it is 1.

    Args:
        scores: Scores on parts, ``[R, M]``, see :func:`resampled_scores`; rows with a NaN are left out.
        rows: Number of all rows, ``N``.
        part: Number of rows of a part, ``m``.

    Returns:
        Deviations from the mean over the parts, ``[R', M]``. The models of one row go together.

    Raises:
        SettingError: If fewer than two parts have scores: one part shows no spread.
    """
    known = scores[np.isfinite(scores).all(axis=1)]
    if len(known) < 2:
        raise SettingError(
            f"resamples: of {len(scores)} random parts of the images {len(known)} gave a score to every model; "
            "a spread needs 2 or more."
        )
    return np.asarray((known - known.mean(axis=0)) * spread_factor(rows, part))


def spread_factor(rows: int, part: int) -> float:
    """Return the factor from the spread over parts to the spread of the score on all rows, see :func:`deviations`.

    Args:
        rows: Number of all rows, ``N``.
        part: Number of rows of a part, ``m``.
    """
    return math.sqrt(part / max(rows - part, 1))


def _score(scorer: Scorer, pool: Mapping[str, Features], rows: Tensor) -> list[float]:
    """Return the models' scores on some rows; NaN for each model that cannot be scored on them."""
    runs, _ = scorer.evaluate_sound({name: features.take(rows) for name, features in pool.items()})
    return [runs[name][0].value if name in runs else math.nan for name in pool]


def _with_seed(scorer: Scorer, seed: int) -> Scorer:
    has_seed = any(field.name == "seed" for field in dataclasses.fields(scorer))
    return dataclasses.replace(scorer, **{"seed": seed}) if has_seed else scorer
