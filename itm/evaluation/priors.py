"""Priors: scores of a model that do not use the images: size, source accuracy, ranks on other datasets.

On the field's own benchmarks these rank models about as well as the scores do, so they stand beside every score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import pandas as pd

from itm.core.errors import DataError, unknown
from itm.evaluation.truth import columns_of
from itm.groundtruth.tables import load


class ModelFacts(Protocol):
    """Facts of a model; :class:`itm.extraction.candidate.Candidate` has them."""

    @property
    def parameters(self) -> int:
        """Number of parameters without the source head."""

    @property
    def source_accuracy(self) -> float | None:
        """Top-1 accuracy on ImageNet in per cent, where known."""


def parameter_count(models: Mapping[str, ModelFacts]) -> dict[str, float]:
    """Rank by size: number of parameters of each model.

    Args:
        models: Facts by model name.

    Returns:
        A positive number by model name; larger is expected to be better.
    """
    return {name: float(model.parameters) for name, model in models.items()}


def source_accuracy(models: Mapping[str, ModelFacts]) -> dict[str, float]:
    """Rank by accuracy on the source data.

    Args:
        models: Facts by model name.

    Returns:
        ImageNet top-1 accuracy in per cent by model name. Models of unknown accuracy are left out: a made-up place
        would be worse than none.
    """
    known = ((name, model.source_accuracy) for name, model in models.items())
    return {name: float(accuracy) for name, accuracy in known if accuracy is not None}


def mean_rank_elsewhere(table: pd.DataFrame, dataset: str) -> dict[str, float]:
    """Rank by how the models do on the other datasets, see :func:`mean_rank`.

    Args:
        table: True accuracy, index model, columns dataset, as :func:`itm.groundtruth.tables.load` returns it; may
            have gaps.
        dataset: The column that the prior must not use.

    Returns:
        Minus the mean relative rank by model name, between -1 and 0, higher is better. Models without an accuracy on
        any other dataset are left out.

    Raises:
        SettingError: If the table has no such dataset.
        DataError: If it has no other dataset.
    """
    if dataset not in table.columns:
        raise unknown("dataset", dataset, table.columns)
    others = table.drop(columns=dataset)
    if others.shape[1] == 0:
        raise DataError(f"The accuracy table holds {dataset} alone; mean rank elsewhere needs one more dataset.")
    return mean_rank(others)


def mean_rank(table: pd.DataFrame) -> dict[str, float]:
    """Average the models' ranks over the datasets of a table.

    On each dataset the models it has an accuracy for are ranked, equal ones sharing the mean of their ranks, and the
    rank is divided by the number of models, so that datasets with missing cells weigh alike.

    Args:
        table: True accuracy, index model, columns dataset; may have gaps.

    Returns:
        Minus the mean relative rank by model name, between -1 and 0. Models without an accuracy are left out.
    """
    means = -(table.rank(ascending=False, method="average") / table.count()).mean(axis=1)
    return {str(name): float(mean) for name, mean in means.items() if not math.isnan(mean)}


def find_prior(
    tables: Sequence[str], data: str, models: Sequence[str], *, controls: bool = False
) -> dict[str, float] | None:
    """Find the mean rank elsewhere for images that no table needs to know.

    Args:
        tables: Sources of :func:`itm.groundtruth.tables.load`.
        data: The run's data as typed, whose own column the prior must not use.
        models: Names of the run's models.
        controls: Whether some models are untrained. A control may have the name of a trained model of the paper, so
            its table is then passed over.

    Returns:
        Minus the mean relative rank by model, of the table that knows every model on most datasets, the first of equal
        ones; None where none does, or there are fewer than two models.
    """
    best: pd.DataFrame | None = None
    for source in tables:
        if len(models) < 2 or (source == "paper" and controls):
            continue
        table = load(source).reindex(list(models))
        others = table.drop(columns=columns_of(data), errors="ignore").dropna(axis="columns", how="all")
        known = bool(others.notna().any(axis=1).all())
        if known and (best is None or others.shape[1] > best.shape[1]):
            best = others
    return None if best is None else mean_rank(best)


def best_table(tables: Sequence[str], datasets: Sequence[str], models: Sequence[str]) -> pd.DataFrame | None:
    """Return the table that has the most of some datasets, and then the most of some models, the first of equal ones.

    Args:
        tables: Sources of :func:`itm.groundtruth.tables.load`.
        datasets: Names of columns.
        models: Names of models.

    Returns:
        The table; None where none has an accuracy of one of the models on one of the datasets.
    """
    best, most = None, (0, 0)
    for source in tables:
        table = load(source)
        shared = [name for name in datasets if name in table.columns]
        count = int(table[shared].reindex(list(models)).notna().any(axis=1).sum())
        if count and (len(shared), count) > most:
            best, most = table, (len(shared), count)
    return best
