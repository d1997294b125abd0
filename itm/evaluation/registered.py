"""Tables of a registered benchmark: by part of its datasets, without and with untrained controls, and by images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from itm.core.errors import DataError
from itm.evaluation.benchmark import statistics, with_priors
from itm.evaluation.differences import differences, with_combinations
from itm.evaluation.truth import LEAST_MODELS
from itm.groundtruth import summary

ALL = "all"
"""All registered datasets, of every part."""

_ELSEWHERE = "mean rank elsewhere (prior)"
COMBINATIONS = {
    "ranks: regularized_hscore, prior": ("regularized_hscore", _ELSEWHERE),
    "ranks: logme, prior": ("logme", _ELSEWHERE),
    "ranks: itm, prior": ("itm", _ELSEWHERE),
    "ranks: itm, logme, regularized_hscore": ("itm", "logme", "regularized_hscore"),
    "zscores: regularized_hscore, prior": ("regularized_hscore", _ELSEWHERE),
    "zscores: itm, prior": ("itm", _ELSEWHERE),
    "zscores: itm, logme, regularized_hscore": ("itm", "logme", "regularized_hscore"),
    "zscores: itm, logme, regularized_hscore, prior": ("itm", "logme", "regularized_hscore", _ELSEWHERE),
}
"""Candidates for :class:`itm.scorers.combined.Combined`: form, then members."""


def truth_noise(table: Path) -> dict[str, float]:
    """Return the standard deviation of a true accuracy, in points by dataset, from the trials beside a table.

    A true accuracy is the mean over the seeds of the best setting, so its noise is that of one seed divided by the
    square root of their number.

    Raises:
        DataError: If the trials are missing or cannot be read.
    """
    file = table.with_name(f"{table.stem}_cells.csv")
    try:
        trials = pd.read_csv(file)
        seeds = trials.groupby("dataset")["seed"].nunique()
        noise = summary.noise(trials) / seeds.reindex(summary.noise(trials).index) ** 0.5
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: cannot be read as a table of trials ({error}).") from error
    return {str(name): float(value) for name, value in noise.items()}


def too_noisy(table: Path, controls: Collection[str], least: float = 5.0) -> dict[str, float]:
    """Return the datasets whose models differ too little for their seed noise, by the rule of the registration.

    Args:
        table: Table of true accuracies, whose trials lie beside it.
        controls: Untrained models, which do not count.
        least: Smallest range of the true accuracies, in standard deviations over seeds within a setting.

    Returns:
        Range divided by noise of each dataset below ``least``.

    Raises:
        DataError: If the trials are missing or cannot be read.
    """
    file = table.with_name(f"{table.stem}_cells.csv")
    try:
        trials = pd.read_csv(file)
        trials = trials[~trials["model"].isin(list(controls))]
        accuracy = summary.best_accuracies(trials)
        ratio = (accuracy.max() - accuracy.min()) / summary.noise(trials)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: cannot be read as a table of trials ({error}).") from error
    return {str(name): float(value) for name, value in ratio.items() if value < least}


def by_part(
    rankings: pd.DataFrame,
    parts: Mapping[str, str],
    noise: Mapping[str, float],
    controls: Collection[str],
    *,
    against: str = "itm",
    samples: int = 2_000,
) -> pd.DataFrame:
    """Compare every score and combination with one, for each part of the datasets, without and with the controls.

    Args:
        rankings: As for :func:`itm.evaluation.differences.differences`.
        parts: Part of each dataset, see :func:`itm.evaluation.registration.read_registration`.
        noise: As there.
        controls: Untrained models.
        against: The score that the others are compared with.
        samples: Draws of the two-way bootstrap.

    Returns:
        Columns ``part``, ``controls`` (``"out"`` or ``"in"``), ``scorer`` and those of
        :func:`itm.evaluation.differences.differences`. The prior of a part knows all other registered datasets.
    """
    tables = []
    for word, left_out in (("out", list(controls)), ("in", [])):
        kept = rankings[~rankings["model"].isin(left_out)]
        if kept["model"].nunique() < LEAST_MODELS:
            continue
        full = with_combinations(with_priors(kept), COMBINATIONS)
        for part in (*dict.fromkeys(parts.values()), ALL):
            chosen = full[full["dataset"].map(lambda name, part=part: part in (ALL, parts.get(name)))]
            if len(chosen):
                table = differences(chosen, against, noise, samples=samples).reset_index()
                tables.append(table.assign(part=part, controls=word))
    found = pd.concat(tables, ignore_index=True)
    first = ["part", "controls"]
    return found[[*first, *(name for name in found if name not in first)]]


def by_images(rankings: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the weighted tau of every score by the number of its images.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset``, ``limit`` (images), ``true_accuracy`` and
            ``parameters``.

    Returns:
        Columns ``scorer``, ``images``, ``mean`` over the datasets, ``datasets``, then the weighted tau (scipy's) of
        each dataset; in the order of the mean with most images.
    """
    found = []
    for images, rows in rankings.groupby("limit"):
        each = statistics(rows)
        table = each.pivot(index="scorer", columns="dataset", values=each.columns[2])
        table = table[list(dict.fromkeys(each["dataset"]))]
        means = pd.DataFrame({"images": images, "mean": table.mean(axis=1, skipna=False), "datasets": table.shape[1]})
        found.append(means.join(table))
    frame = pd.concat(found).reset_index()
    best = frame[frame["images"] == frame["images"].max()].set_index("scorer")["mean"]
    order = frame["scorer"].map(best).rename("order")
    return frame.assign(order=-order).sort_values(["order", "scorer", "images"]).drop(columns="order")
