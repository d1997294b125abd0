"""Choosing a model by its results on source tasks: the table of readings and controls, and whether tasks differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from itm.core.features import Features
from itm.evaluation.benchmark import METRICS, bootstrapped_taus
from itm.metrics import functional
from itm.metrics.uncertainty import Statistic

SCIPY = next(iter(METRICS))
SHORTLIST = 5
"""Models of the shortlist in NDCG and recall."""
STATISTICS: dict[str, Statistic] = {
    "Kendall tau": functional.kendall_tau,
    f"recall@{SHORTLIST}": lambda truth, score: functional.recall_at_k(truth, score, min(SHORTLIST, truth.shape[1])),
    "regret": functional.regret,
}


def transfer_table(rankings: pd.DataFrame, control: str) -> pd.DataFrame:
    """Tabulate scorers over targets, each ranked without its own accuracies.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset`` and ``true_accuracy``.
        control: The scorer whose weighted tau is subtracted from the others'.

    Returns:
        Index: scorers, best weighted tau first. Means over the targets of weighted tau (scipy's) with its 95 % interval
        over bootstrapped models (``low``, ``high``), Kendall's tau, ``NDCG@5`` (gain: number of models minus the true
        rank), ``recall@5`` and ``regret`` (points); ``gain`` over ``control`` in weighted tau with its 95 % interval
        over the same bootstrapped models (``gain low``, ``gain high``), and ``wins``, the share of targets with a
        higher weighted tau than the control's, draws counted half.
    """
    known = rankings.dropna(subset=["score", "true_accuracy"])
    rows = []
    for (scorer, dataset), group in known.groupby(["scorer", "dataset"], sort=False):
        truth, score = (group[column].to_numpy()[np.newaxis] for column in ("true_accuracy", "score"))
        values = {name: float(function(truth, score)[0]) for name, function in STATISTICS.items()}
        tau, ndcg = METRICS[SCIPY](truth, score), ndcg_of_ranks(truth, score)
        rows.append({"scorer": scorer, "dataset": dataset, SCIPY: float(tau[0]), f"NDCG@{SHORTLIST}": ndcg, **values})
    each = pd.DataFrame(rows)
    table = each.drop(columns="dataset").groupby("scorer", sort=False).mean()
    wide = each.pivot(index="dataset", columns="scorer", values=SCIPY)
    drawn = bootstrapped_taus(rankings)
    table[["low", "high"]] = _interval(drawn, table.index)
    if control in wide:
        gains = wide.sub(wide[control], axis=0)
        table["gain"] = gains.mean()
        differences = drawn.sub(drawn[control], axis=0) if control in drawn else drawn  # empty with few models
        table[["gain low", "gain high"]] = _interval(differences, table.index)
        table["wins"] = ((gains > 0) + 0.5 * (gains == 0)).mean()
    first = [SCIPY, "low", "high"]
    table = table[[*first, *(name for name in table if name not in first)]]
    return table.sort_values(SCIPY, ascending=False, kind="stable")


def ndcg_of_ranks(truth: functional.Array, score: functional.Array) -> float:
    """Return NDCG@5 of one ranking ``[1, M]`` with the gain ``M - true rank``; equal models share their ranks."""
    models = truth.shape[1]
    gains = models - pd.Series(truth[0]).rank(ascending=False).to_numpy()
    return float(functional.ndcg_at_k(gains[np.newaxis], score, k=min(SHORTLIST, models))[0])


def identified(conductance: Mapping[str, Mapping[str, Features]], halves: int = 20, seed: int = 0) -> pd.DataFrame:
    """Measure whether conductance distinguishes tasks: how often half of a task's images lies nearest its other half.

    Each task's images are split into random halves. The profile of a first half is compared with those of the second
    halves of all tasks, within one model, by the sum of absolute differences.

    Args:
        conductance: Features ``[N, blocks]`` by model, by task.
        halves: Number of random splits.
        seed: Seed of the splits.

    Returns:
        Index: models. Columns: share of first halves whose nearest second half is of the same task, for the profile
        ``share`` and for ``log-z`` (its logarithm's z-score over the tasks), then ``chance``.
    """
    generator = torch.Generator().manual_seed(seed)
    tasks = list(conductance)
    rows = {}
    for model in conductance[tasks[0]]:
        hits = {"share": 0.0, "log-z": 0.0}
        for _ in range(halves):
            pairs = [_halves(conductance[task][model].x.double(), generator) for task in tasks]
            first, second = (torch.stack([pair[place] for pair in pairs]) for place in (0, 1))
            hits["share"] += _nearest(first, second)
            logs = second.log()
            mean, std = logs.mean(0), logs.std(0, correction=0).clamp_min(1e-12)
            hits["log-z"] += _nearest((first.log() - mean) / std, (logs - mean) / std)
        rows[model] = {name: value / halves for name, value in hits.items()} | {"chance": 1 / len(tasks)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _halves(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), generator=generator)
    parts = x[order[: len(x) // 2]].mean(0), x[order[len(x) // 2 :]].mean(0)
    first, second = ((part / part.sum()).clamp_min(1e-30) for part in parts)
    return first, second


def _nearest(first: Tensor, second: Tensor) -> float:
    """Share of the rows of ``first`` whose nearest row of ``second`` has the same index."""
    nearest = torch.cdist(first, second, p=1).argmin(1)
    return float((nearest == torch.arange(len(first))).double().mean())


def _interval(values: pd.DataFrame, scorers: pd.Index) -> np.ndarray:
    """95 % interval of each scorer's values, ``[scorers, 2]``; NaN where there are none."""
    return values.reindex(columns=scorers).astype(float).quantile([0.025, 0.975]).T.to_numpy()


def verdict(table: pd.DataFrame, scorers: list[str], control: str, tasks: pd.DataFrame) -> list[str]:
    """Return the sentences that follow from the tables.

    Args:
        table: As :func:`transfer_table` returns it.
        scorers: The readings of the score.
        control: The control.
        tasks: As :func:`identified` returns it.
    """
    share, log_z, chance = (float(tasks[name].mean()) for name in ("share", "log-z", "chance"))
    said = [
        f"Half of a task's images lies nearest its own other half in {share:.0%} of cases by share and in "
        f"{log_z:.0%} by log-z (chance {chance:.0%}; mean of {len(tasks)} models): conductance "
        f"{'distinguishes' if max(share, log_z) > 2 * chance else 'hardly distinguishes'} tasks here."
    ]
    readings = table.loc[[name for name in scorers if name in table.index]]
    better, worse = readings.index[readings["gain low"] > 0], readings.index[readings["gain high"] < 0]
    low, high = readings["gain"].min(), readings["gain"].max()
    said.append(
        f"The weighted tau of the {len(readings)} readings differs from that of {control} by {low:+.3f} to "
        f"{high:+.3f}; the interval of the difference is above zero for {len(better)} and below zero for {len(worse)} "
        "of them."
    )
    if not len(better):
        said.append(f"DCD therefore reduces to {control} here: its weights of the source tasks gain nothing shown.")
    regrets = f"{readings['regret'].min():.2f} to {readings['regret'].max():.2f}"
    said.append(
        f"Regret of the readings: {regrets} points; of {control}: {float(table['regret'][control]):.2f}. Intervals are "
        "over models; other targets could give other differences."
    )
    return said
