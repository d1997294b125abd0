"""Differences between scores over several datasets, with their uncertainty over datasets, models and training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from itm.core.errors import SettingError, unknown
from itm.metrics import functional
from itm.metrics.two_way import two_way
from itm.metrics.uncertainty import summarize
from itm.scorers import Combined

_DRAW = 1e-9  # taus of equal orders may differ by rounding


def differences(
    rankings: pd.DataFrame,
    against: str,
    noise: Mapping[str, float],
    *,
    samples: int = 2_000,
) -> pd.DataFrame:
    """Compare every score with one score over all datasets.

    Models without a true accuracy on some dataset are left out, then scores without a value of some model.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``; priors are added by
            :func:`itm.evaluation.benchmark.with_priors`.
        against: The score that the others are compared with.
        noise: Standard deviation of a true accuracy in points, by dataset; 0 for others.
        samples: Draws of the two-way bootstrap.

    Returns:
        Index: scores and priors by mean. Columns: ``datasets`` and ``models``; ``mean`` weighted tau (scipy's) with its
        95 % interval ``low`` and ``high`` (:func:`itm.metrics.two_way.two_way`); ``difference`` to ``against``,
        ``difference low``, ``difference high``; the datasets that it ``wins`` and ``loses`` against it, draws in
        neither; and its weighted tau on each dataset.

    Raises:
        SettingError: If ``against`` has no score of every model.
    """
    truth, scores = _cells(rankings)
    if against not in scores:
        raise unknown("against", against, list(scores))
    deviations = [noise.get(str(name), 0.0) for name in truth.columns]
    values = truth.to_numpy().T
    draws = {name: two_way(values, table, deviations, samples=samples) for name, table in scores.items()}
    taus = {name: functional.weighted_kendall_tau(values, table) for name, table in scores.items()}
    rows = {}
    for name in scores:
        gain = taus[name] - taus[against]
        own, apart = summarize(draws[name]), summarize(draws[name] - draws[against])
        rows[name] = {
            "datasets": len(gain),
            "models": len(truth),
            "mean": taus[name].mean(),
            "low": own.low,
            "high": own.high,
            "difference": gain.mean(),
            "difference low": apart.low,
            "difference high": apart.high,
            "wins": int((gain > _DRAW).sum()),
            "loses": int((gain < -_DRAW).sum()),
            **dict(zip(map(str, truth.columns), taus[name], strict=True)),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("scorer")
    return table.sort_values("mean", ascending=False, kind="stable")


def with_combinations(rankings: pd.DataFrame, combinations: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Append unfitted means of scores and priors, see :class:`itm.scorers.combined.Combined`.

    Args:
        rankings: As for :func:`differences`, with the column ``parameters``.
        combinations: Members by name of the combination; a name that begins with ``"ranks:"`` takes the mean of ranks,
            one that begins with ``"zscores:"`` the mean of z-scores.

    Returns:
        The rows, and one row per model and dataset for each combination, where every member scored the model.

    Raises:
        SettingError: If a name begins with neither.
    """
    added = [rankings]
    facts = rankings.drop_duplicates(["dataset", "model"])[["dataset", "model", "true_accuracy", "parameters"]]
    for name, members in combinations.items():
        form = name.partition(":")[0]
        if form not in ("ranks", "zscores"):
            raise SettingError(f"combinations: found {name!r}, expected a name that begins with ranks: or zscores:.")
        combine = Combined(form=form, prior=None).combine  # type: ignore[arg-type]
        chosen = rankings[rankings["scorer"].isin(members)]
        for dataset, rows in chosen.groupby("dataset", sort=False):
            wide = rows.pivot(index="model", columns="scorer", values="score").dropna()
            if set(members) <= set(wide.columns) and len(wide):
                models = [str(model) for model in wide.index]
                score = combine({member: wide[member].tolist() for member in members}, models)
                own = pd.DataFrame({"dataset": dataset, "model": models, "scorer": name, "score": score})
                added.append(own.merge(facts, on=["dataset", "model"]))
    return pd.concat(added, ignore_index=True)


def _cells(rankings: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the true accuracies ``[M, T]`` without gaps, and the scores ``[T, M]`` of each complete scorer."""
    known = rankings.dropna(subset=["true_accuracy"])
    truth = known.drop_duplicates(["dataset", "model"]).pivot(index="model", columns="dataset", values="true_accuracy")
    truth = truth[list(dict.fromkeys(known["dataset"]))].dropna()
    scores = {}
    for name, rows in known.groupby("scorer", sort=False):
        wide = rows.pivot(index="dataset", columns="model", values="score")
        wide = wide.reindex(index=truth.columns, columns=truth.index)
        if not wide.isna().to_numpy().any():
            scores[str(name)] = wide.to_numpy()
    return truth, scores
