"""torchmetrics classes of the statistics that torchmetrics does not have.

They collect models over any number of updates and add nothing to the functions. Kendall's tau, Spearman's rho and
Pearson's r are torchmetrics' own (``KendallRankCorrCoef``, ``SpearmanCorrCoef``, ``PearsonCorrCoef``)::

    metrics = MetricCollection([WeightedKendallTau(), Regret()])
    metrics.update(truth, scores)
    metrics.compute()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from itm.core.errors import SettingError, unknown
from itm.metrics import functional
from itm.metrics.functional import Definition, Values
from itm.metrics.single import ndcg_at_k, recall_at_k, regret, weighted_kendall_tau


class _OverModels(Metric):
    """Collects truth and scores; call ``update``, not ``forward``, when a batch holds a single model."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    truth: list[Tensor]
    scores: list[Tensor]
    statistic: Callable[[Tensor, Tensor], float]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("truth", default=[], dist_reduce_fx="cat")
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, truth: Values, scores: Values) -> None:
        """Add models: a number or a sequence of numbers each, in the same order."""
        checked = functional.finite("truth", truth), functional.finite("scores", scores)
        if len(checked[0]) != len(checked[1]):
            raise SettingError(f"truth has {len(checked[0])} values, scores has {len(checked[1])}; pair them.")
        for state, values in zip((self.truth, self.scores), checked, strict=True):
            state.append(torch.as_tensor(values, device=self.device))

    def compute(self) -> Tensor:
        """Return the statistic over all models so far."""
        return torch.tensor(self.statistic(*map(dim_zero_cat, (self.truth, self.scores))), device=self.device)


class WeightedKendallTau(_OverModels):
    """:func:`weighted_kendall_tau` as a metric."""

    def __init__(self, definition: Definition = "scipy", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if definition not in functional.DEFINITIONS:
            raise unknown("definition", definition, functional.DEFINITIONS)
        self.statistic = partial(weighted_kendall_tau, definition=definition)


class RecallAtK(_OverModels):
    """:func:`recall_at_k` as a metric."""

    def __init__(self, k: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.statistic = partial(recall_at_k, k=k)


class NDCGAtK(_OverModels):
    """:func:`ndcg_at_k` as a metric."""

    def __init__(self, k: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.statistic = partial(ndcg_at_k, k=k)


class Regret(_OverModels):
    """:func:`regret` as a metric."""

    higher_is_better = False
    statistic = staticmethod(regret)
