"""Benchmark tables in the form of the paper's: scorers over several datasets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from itm.evaluation.priors import mean_rank_elsewhere
from itm.evaluation.truth import LEAST_MODELS
from itm.metrics import functional
from itm.metrics.uncertainty import (
    LEAST_FOR_INTERVAL,
    Statistic,
    Subsets,
    over_subsets,
    resamples,
    subsets,
    summarize,
    win_rate,
)

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
    """Tabulate a statistic of every scorer and prior on every dataset (the paper's Table 1; Table 9 over CNNs).

    Args:
        comparisons: Rows of ``comparison.csv`` with a column ``dataset``.
        rankings: Rows of ``ranking.csv`` with a column ``dataset``; their seconds are added up.
        statistic: A numeric column of ``comparisons``.

    Returns:
        Index: scorers by their mean, then priors by theirs, marked ``(prior)``. Columns: the datasets, ``mean``,
        ``models``, the fewest that one dataset had, and ``seconds`` of scoring on all datasets (NaN for a prior). A
        scorer that could not run somewhere has NaN there and no mean.
    """
    marked = comparisons.assign(scorer=comparisons["scorer"] + np.where(comparisons["prior"], " (prior)", ""))
    wide = marked.pivot(index="scorer", columns="dataset", values=statistic)[list(dict.fromkeys(marked["dataset"]))]
    wide["mean"] = wide.mean(axis=1, skipna=False)
    wide["models"] = marked.groupby("scorer")["models"].min()
    wide["seconds"] = rankings.groupby("scorer")["seconds"].sum()
    priors = marked.groupby("scorer")["prior"].first()
    return wide.assign(prior=priors).sort_values(["prior", "mean"], ascending=[True, False]).drop(columns="prior")


def by_metric(rankings: pd.DataFrame) -> pd.DataFrame:
    """Average every rank statistic of every scorer over the datasets (the paper's Table 8).

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.

    Returns:
        Index: scorers, best weighted tau first. Columns: the statistics, then ``models``, the fewest that one dataset
        had. Fewer than three models with both numbers give no value.
    """
    table = statistics(rankings).groupby("scorer").agg({**dict.fromkeys(METRICS, "mean"), "models": "min"})
    return table.sort_values(next(iter(METRICS)), ascending=False)


def statistics(rankings: pd.DataFrame) -> pd.DataFrame:
    """Compute every rank statistic on every dataset.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.

    Returns:
        A row per scorer and dataset with three models or more: ``scorer``, ``dataset``, the statistics and ``models``.
    """
    known = rankings.dropna(subset=["score", "true_accuracy"])
    rows = []
    for (scorer, dataset), group in known.groupby(["scorer", "dataset"], sort=False):
        if len(group) >= LEAST_MODELS:
            truth, score = (group[column].to_numpy()[np.newaxis] for column in ("true_accuracy", "score"))
            values = {name: float(function(truth, score)[0]) for name, function in METRICS.items()}
            rows.append({"scorer": scorer, "dataset": dataset, **values, "models": len(group)})
    return pd.DataFrame(rows, columns=["scorer", "dataset", *METRICS, "models"])


def subset_taus(rankings: pd.DataFrame, size: int) -> pd.DataFrame:
    """Compute the weighted tau (scipy's) of every scorer on every subset of the models, averaged over the datasets.

    The paper's stability protocol takes all 1,001 choices of 10 of 14 models (Fig. 3). Models without a true accuracy
    on some dataset are left out, then scorers without a score of some model: on other models their values would not be
    comparable.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.
        size: Models of a subset; with fewer models one less than there are.

    Returns:
        One row per subset (at most 10,000, drawn at random), one column per scorer; empty where fewer than three models
        have a true accuracy on every dataset.
    """
    return _taus(rankings, lambda models: subsets(models, min(size, models - 1)))


def _taus(rankings: pd.DataFrame, choose: Callable[[int], Subsets]) -> pd.DataFrame:
    """Return the mean weighted tau of each complete scorer on the rows that ``choose`` gives for a number of models."""
    known = rankings.dropna(subset=["score", "true_accuracy"])
    truth = known.drop_duplicates(["dataset", "model"]).pivot(index="model", columns="dataset", values="true_accuracy")
    truth = truth.dropna()
    if len(truth) < LEAST_MODELS:
        return pd.DataFrame()
    scores = known.pivot(index="model", columns=["dataset", "scorer"], values="score").loc[truth.index].dropna(axis=1)
    rows = choose(len(truth))
    if not len(rows):
        return pd.DataFrame()
    means = {}
    for scorer in dict.fromkeys(known["scorer"]):
        if all((dataset, scorer) in scores for dataset in truth.columns):
            taus = [
                over_subsets(rows, truth[dataset].to_numpy(), scores[dataset, scorer].to_numpy())
                for dataset in truth.columns
            ]
            means[scorer] = np.mean(taus, axis=0)
    return pd.DataFrame(means)


def bootstrapped_taus(rankings: pd.DataFrame) -> pd.DataFrame:
    """Weighted tau (scipy's) of every scorer over bootstrapped models, averaged over the datasets.

    Args:
        rankings: As for :func:`subset_taus`.

    Returns:
        One row per draw, one column per scorer; empty with fewer models than
        :data:`~itm.metrics.uncertainty.LEAST_FOR_INTERVAL`.
    """
    return _taus(rankings, _resamples)


def stability(values: pd.DataFrame, against: str) -> pd.DataFrame:
    """Summarize :func:`subset_taus`.

    Args:
        values: One row per subset, one column per scorer.
        against: The scorer that the others are compared with.

    Returns:
        Index: scorers, best mean first. Columns: ``mean``, ``std``, ``low`` and ``high`` (95 % of the subsets), and
        ``<against> wins``, the share of subsets on which ``against`` does better, draws counted half; NaN where
        ``against`` is not among the scorers.
    """
    wins = f"{against} wins"
    rows = {}
    for name in values:
        summary = summarize(values[name].to_numpy())
        share = win_rate(values[against], values[name]) if against in values else float("nan")
        rows[name] = {
            "mean": summary.mean,
            "std": summary.std,
            "low": summary.low,
            "high": summary.high,
            wins: share,
        }
    columns = ["mean", "std", "low", "high", wins]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).sort_values("mean", ascending=False)


def with_priors(rankings: pd.DataFrame) -> pd.DataFrame:
    """Append the rankings of the priors: size, and mean rank on the other datasets.

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
    """Tabulate every scorer and prior on every dataset, with the uncertainty of the differences.

    Args:
        rankings: As for :func:`with_priors`.
        size: Models of a subset, see :func:`subset_taus`.
        against: The scorer that the others are compared with.

    Returns:
        Index: scorers and priors by ``mean``. Columns: weighted tau (scipy's) per dataset and its ``mean``; over the
        datasets the mean ``tau_w (paper)`` and ``regret`` (points); ``models``, the fewest of one dataset; ``seconds``
        of scoring in all; 95 % intervals of the mean over bootstrapped models (``low``, ``high``) and over subsets
        (``pool low``, ``pool high``); on the same subsets ``<against> wins``, draws counted half; and the 95 % interval
        of ``<against>`` minus the scorer over the same bootstrapped models (``gain low``, ``gain high``). NaN where a
        scorer lacks a model somewhere; bootstrap intervals need :data:`~itm.metrics.uncertainty.LEAST_FOR_INTERVAL`
        models with a true accuracy on every dataset.
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
    drawn, chosen = bootstrapped_taus(full), subset_taus(full, size)
    table[["low", "high"]] = _interval(drawn, table.index)
    table[["pool low", "pool high"]] = _interval(chosen, table.index)
    table[f"{against} wins"] = stability(chosen, against)[f"{against} wins"]
    gains = drawn.rsub(drawn[against], axis=0) if against in drawn else pd.DataFrame()
    table[["gain low", "gain high"]] = _interval(gains, table.index)
    return table.sort_values("mean", ascending=False).rename_axis(columns=None)


def _resamples(models: int) -> Subsets:
    """Return the bootstrap's rows; without any where its interval would be too narrow."""
    return resamples(models) if models >= LEAST_FOR_INTERVAL else np.empty((0, models), dtype=np.intp)


def _interval(values: pd.DataFrame, scorers: pd.Index) -> np.ndarray:
    """Return the 95 % interval of each scorer's values, ``[scorers, 2]``; NaN where there are none."""
    return values.reindex(columns=scorers).astype(float).quantile([0.025, 0.975]).T.to_numpy()
