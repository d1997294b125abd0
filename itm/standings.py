"""Scorers over several datasets, in the form of the paper's tables, from the rankings of each."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from itm import rowwise
from itm.uncertainty import Statistic, over_pools, spread, subpools

METRICS: dict[str, Statistic] = {
    "tau_w (scipy)": rowwise.weighted_kendall_tau,
    "tau_w (paper)": partial(rowwise.weighted_kendall_tau, definition="paper"),
    "Kendall tau": rowwise.kendall_tau,
    "Spearman rho": rowwise.spearman_rho,
    "Pearson r": rowwise.pearson_r,
    "recall@1": partial(rowwise.recall_at_k, k=1),
    "recall@3": partial(rowwise.recall_at_k, k=3),
    "regret": rowwise.regret,
}


def by_dataset(comparisons: pd.DataFrame, rankings: pd.DataFrame, statistic: str = "tau_w") -> pd.DataFrame:
    """A statistic of every scorer and prior on every dataset (the paper's Table 1; Table 9 over CNNs).

    Args:
        comparisons: Rows of ``comparison.csv`` with a column ``dataset``.
        rankings: Rows of ``ranking.csv`` with a column ``dataset``; their seconds are added up.
        statistic: A numeric column of ``comparisons``.

    Returns:
        Index: scorers by their mean, then priors by theirs, marked so. Columns: the datasets, ``mean``, ``models``, the
        fewest that one dataset had, and ``seconds`` of scoring on all of them (NaN for a prior). A scorer that could
        not run somewhere has NaN there and no mean.
    """
    marked = comparisons.assign(scorer=comparisons["scorer"] + np.where(comparisons["prior"], " (prior)", ""))
    wide = marked.pivot(index="scorer", columns="dataset", values=statistic)[list(dict.fromkeys(marked["dataset"]))]
    wide["mean"] = wide.mean(axis=1, skipna=False)
    wide["models"] = marked.groupby("scorer")["models"].min()
    wide["seconds"] = rankings.groupby("scorer")["seconds"].sum()
    priors = marked.groupby("scorer")["prior"].first()
    return wide.assign(prior=priors).sort_values(["prior", "mean"], ascending=[True, False]).drop(columns="prior")


def by_metric(rankings: pd.DataFrame) -> pd.DataFrame:
    """Every rank statistic of every scorer, averaged over the datasets (the paper's Table 8).

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.

    Returns:
        Index: scorers, best weighted tau first. Columns: the statistics, then ``models``, the fewest that one dataset
        had. Fewer than three models with both numbers give no value.
    """
    known = rankings.dropna(subset=["score", "true_accuracy"])
    rows = []
    for (scorer, _), group in known.groupby(["scorer", "dataset"], sort=False):
        if len(group) >= 3:
            truth, score = (group[column].to_numpy()[np.newaxis] for column in ("true_accuracy", "score"))
            values = {name: float(function(truth, score)[0]) for name, function in METRICS.items()}
            rows.append({"scorer": scorer, **values, "models": len(group)})
    frame = pd.DataFrame(rows, columns=["scorer", *METRICS, "models"])
    table = frame.groupby("scorer").agg({**dict.fromkeys(METRICS, "mean"), "models": "min"})
    return table.sort_values(next(iter(METRICS)), ascending=False)


def over_subpools(rankings: pd.DataFrame, size: int) -> pd.DataFrame:
    """Weighted tau (scipy's) of every scorer on every sub-pool of the models, averaged over the datasets.

    The paper's stability protocol takes all 1,001 choices of 10 of 14 models (Fig. 3). A scorer that lacks one of the
    models somewhere is left out: on fewer models its values could not be set beside the others.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.
        size: Models of a sub-pool; one less than there are where there are too few.

    Returns:
        One row per sub-pool (10,000 drawn ones at most), one column per scorer.
    """
    known = rankings.dropna(subset=["score", "true_accuracy"])
    wide = known.pivot(index="model", columns=["dataset", "scorer"], values="score")
    wide = wide.dropna(axis=1)
    truth = known.drop_duplicates(["dataset", "model"]).pivot(index="model", columns="dataset", values="true_accuracy")
    pools = subpools(len(wide), min(size, len(wide) - 1))
    datasets = truth.columns
    scorers = [name for name in dict.fromkeys(known["scorer"]) if all((data, name) in wide for data in datasets)]
    return pd.DataFrame(
        {
            name: np.mean(
                [
                    over_pools(pools, truth.loc[wide.index, data].to_numpy(), wide[data, name].to_numpy())
                    for data in datasets
                ],
                axis=0,
            )
            for name in scorers
        }
    )


def stability(values: pd.DataFrame, against: str) -> pd.DataFrame:
    """Sum up :func:`over_subpools`.

    Args:
        values: One row per sub-pool, one column per scorer.
        against: The scorer that the others are set against.

    Returns:
        Index: scorers, best mean first. Columns: ``mean``, ``std``, ``low`` and ``high`` (95 % of the sub-pools), and
        ``win rate``, the share of sub-pools where ``against`` does better, draws counted half.
    """
    rows = {}
    for name in values:
        s = spread(values[name].to_numpy())
        gain = values[against] - values[name]
        wins = float((gain > 1e-12).mean() + (gain.abs() <= 1e-12).mean() / 2)
        rows[name] = {"mean": s.mean, "std": s.std, "low": s.low, "high": s.high, f"{against} wins": wins}
    return pd.DataFrame(rows).T.sort_values("mean", ascending=False)
