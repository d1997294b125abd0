"""Uncertainty of a mean rank statistic over datasets **and** models at once, with noisy true accuracies.

A benchmark draws its datasets and its models from many more, and its true accuracies carry the noise of their training
seeds. Each draw of :func:`two_way` resamples all three. Draws depend on the seed and the shapes alone, so those of two
scorers can be subtracted one by one.

>>> import numpy as np
>>> truth = np.arange(12.0) + np.zeros((3, 1))  # twelve models in the same order on three datasets
>>> gain = two_way(truth, truth, samples=50) - two_way(truth, -truth, samples=50)
>>> bool((gain == 2).all())
True
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from itm.core.errors import SettingError
from itm.metrics import functional
from itm.metrics.uncertainty import Statistic, resamples


def two_way(
    truth: functional.Array,
    scores: functional.Array,
    noise: ArrayLike = 0.0,
    *,
    statistic: Statistic = functional.weighted_kendall_tau,
    samples: int = 2_000,
    seed: int = 0,
) -> functional.Array:
    """Draw the mean over datasets of a rank statistic with other datasets, models and training seeds.

    Each draw takes as many datasets and as many models as there are, both with replacement and the same models on all
    datasets (the two-way, or pigeonhole, bootstrap of Owen, 2007, "The pigeonhole bootstrap", section 3), after the
    truth has moved by a normal deviate. It is conservative: its variance holds the noise of a single cell three times.

    Args:
        truth: True accuracy of each model on each dataset, ``[T, M]``.
        scores: Score of each model on each dataset, ``[T, M]``.
        noise: Standard deviation of a true accuracy, in its unit: one for all, or ``[T]``.
        statistic: A function of :mod:`itm.metrics.functional` of ``[rows, M]`` arrays.
        samples: Draws.
        seed: Of the draws.

    Returns:
        One value per draw, ``[samples]``.

    Raises:
        SettingError: If a number is not finite, the shapes differ, or a noise is negative.
    """
    deviation = np.asarray(noise, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != scores.shape or not np.isfinite([truth, scores]).all():
        raise SettingError(
            f"truth {truth.shape} and scores {scores.shape}: expected finite numbers of datasets by models, [T, M]."
        )
    if deviation.shape not in ((), truth.shape[:1]) or not np.isfinite(deviation).all() or (deviation < 0).any():
        raise SettingError(f"noise={deviation}: expected deviations of 0 or more, one or one per dataset.")
    datasets, models = truth.shape
    rng = np.random.default_rng(seed)
    rows = resamples(models, samples, seed)
    drawn = rng.integers(datasets, size=(samples, datasets))
    weights = (drawn[:, :, None] == np.arange(datasets)).sum(axis=1) / datasets
    deviations = np.broadcast_to(deviation, datasets)
    means = np.zeros(samples)
    for place in range(datasets):
        # one deviate per model, so that copies of a model stay equal
        shocks = deviations[place] * rng.standard_normal((samples, models))
        moved = np.take_along_axis(truth[place] + shocks, rows, axis=1)
        means += weights[:, place] * statistic(moved, scores[place][rows])
    return means
