"""Scorers over several datasets, in the form of the paper's tables, from the rankings of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from itm.evaluation.priors import mean_rank_elsewhere
from itm.metrics import functional
from itm.metrics.uncertainty import Pools, Statistic, over_pools, resamples, spread, subpools

METRICS: dict[str, Statistic] = {
    "tau_w (scipy)": functional.weighted_kendall_tau,
    "tau_w (paper)": partial(functional.weighted_kendall_tau, definition="paper"),
    "Kendall tau": functional.kendall_tau,
    "Spearman rho": functional.spearman_rho,
    "Pearson r": functional.pearson_r,
    "recall@1": partial(functional.recall_at_k, k=1),
    "recall@3": partial(functional.recall_at_k, k=3),
    "regret": functional.regret,
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
    table = statistics(rankings).groupby("scorer").agg({**dict.fromkeys(METRICS, "mean"), "models": "min"})
    return table.sort_values(next(iter(METRICS)), ascending=False)


def statistics(rankings: pd.DataFrame) -> pd.DataFrame:
    """Every rank statistic on every dataset, one by one.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.

    Returns:
        A row per scorer and dataset with three models or more: ``scorer``, ``dataset``, the statistics and ``models``.
    """
    known = rankings.dropna(subset=["score", "true_accuracy"])
    rows = []
    for (scorer, dataset), group in known.groupby(["scorer", "dataset"], sort=False):
        if len(group) >= 3:
            truth, score = (group[column].to_numpy()[np.newaxis] for column in ("true_accuracy", "score"))
            values = {name: float(function(truth, score)[0]) for name, function in METRICS.items()}
            rows.append({"scorer": scorer, "dataset": dataset, **values, "models": len(group)})
    return pd.DataFrame(rows, columns=["scorer", "dataset", *METRICS, "models"])


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
    return _over(rankings, lambda models: subpools(models, min(size, models - 1)))


def _over(rankings: pd.DataFrame, choose: Callable[[int], Pools]) -> pd.DataFrame:
    """Mean weighted tau of each scorer that has every model, on each choice of so many models."""
    known = rankings.dropna(subset=["score", "true_accuracy"])
    wide = known.pivot(index="model", columns=["dataset", "scorer"], values="score")
    wide = wide.dropna(axis=1)
    truth = known.drop_duplicates(["dataset", "model"]).pivot(index="model", columns="dataset", values="true_accuracy")
    pools = choose(len(wide))
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


def with_priors(rankings: pd.DataFrame) -> pd.DataFrame:
    """The rankings, and below them those that never look at the images: size, and mean rank on the other datasets.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset``, ``true_accuracy`` and ``parameters``.

    Returns:
        The rows and, for each dataset, those of the scorers ``parameters (prior)`` and ``mean rank elsewhere (prior)``.
    """
    models = rankings.drop_duplicates(["dataset", "model"])[["dataset", "model", "true_accuracy", "parameters"]]
    truth = models.pivot(index="model", columns="dataset", values="true_accuracy")
    priors = [models.assign(scorer="parameters (prior)", score=models["parameters"])]
    if truth.shape[1] > 1:
        elsewhere = pd.DataFrame({data: mean_rank_elsewhere(truth, str(data)) for data in truth.columns})
        scores = elsewhere.rename_axis("model").melt(var_name="dataset", value_name="score", ignore_index=False)
        priors.append(models.merge(scores.reset_index()).assign(scorer="mean rank elsewhere (prior)"))
    return pd.concat([rankings, *priors], ignore_index=True)


def benchmark(rankings: pd.DataFrame, size: int, against: str) -> pd.DataFrame:
    """Every scorer and prior on every dataset, with what can be said of the differences.

    Args:
        rankings: As for :func:`with_priors`.
        size: Models of a sub-pool, see :func:`over_subpools`.
        against: The scorer that the others are set against.

    Returns:
        Index: scorers and priors by ``mean``. Columns: weighted tau (scipy's) per dataset and its ``mean``; over the
        datasets the mean ``tau_w (paper)`` and ``regret`` (points); ``models``, the fewest of one dataset; ``seconds``
        of scoring in all; 95 % intervals of the mean over bootstrapped models (``low``, ``high``) and over sub-pools
        (``pool low``, ``pool high``); on the same sub-pools ``<against> wins``, draws counted half; and the 95 %
        interval of ``<against>`` minus the scorer over the same bootstrapped models (``gain low``, ``gain high``). NaN
        where a scorer lacks a model somewhere.
    """
    full = with_priors(rankings)
    each = statistics(full)
    first, paper, *_ = METRICS
    datasets = list(dict.fromkeys(each["dataset"]))
    table = each.pivot(index="scorer", columns="dataset", values=first)[datasets]
    table["mean"] = table.mean(axis=1, skipna=False)
    table[paper] = each.groupby("scorer")[paper].mean()
    table["regret"] = each.groupby("scorer")["regret"].mean()
    table["models"] = each.groupby("scorer")["models"].min()
    table["seconds"] = rankings.groupby("scorer")["seconds"].sum()
    drawn, pooled = _over(full, resamples), over_subpools(full, size)
    table[["low", "high"]] = drawn.quantile([0.025, 0.975]).T
    table[["pool low", "pool high"]] = pooled.quantile([0.025, 0.975]).T
    table[f"{against} wins"] = stability(pooled, against)[f"{against} wins"]
    table[["gain low", "gain high"]] = drawn.rsub(drawn[against], axis=0).quantile([0.025, 0.975]).T
    return table.sort_values("mean", ascending=False).rename_axis(columns=None)
