"""Scores whose parts are scaled over the pool of models before they are added up."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from itm.core.errors import FeatureError
from itm.core.features import Features
from itm.core.settings import settings
from itm.scorers.base import Samples, Score, Scorer


@settings("scorer")
class RelativeScorer(Scorer):
    """A weighted sum of parts, each first scaled to ``[0, 1]`` over the models of the pool.

    A score is therefore a place between the worst and the best model of this pool, and changes with the pool. Where a
    part is the same for all models, as in a pool of one, it counts one half for each model.
    """

    relative: ClassVar[bool] = True
    weights: ClassVar[Mapping[str, float]]
    """Weight of each part; negative where less is better."""

    @abstractmethod
    def parts(self, samples: Samples) -> dict[str, float]:
        """Compute the unscaled parts of one model, by the names in :attr:`weights`."""

    def evaluate_one(self, samples: Samples) -> Score:
        """Score a pool of one; the parts are in the details."""
        return Score(sum(0.5 * weight for weight in self.weights.values()), details=self.parts(samples))

    def evaluate(self, pool: Mapping[str, Features]) -> dict[str, Score]:
        """Score every model of the pool; the unscaled parts are in the details."""
        scores = super().evaluate(pool)
        totals = dict.fromkeys(scores, 0.0)
        for part, weight in self.weights.items():
            for name, place in _min_max(self.name, part, scores).items():
                totals[name] += weight * place
        return {name: replace(score, value=totals[name]) for name, score in scores.items()}


def _min_max(scorer: str, part: str, scores: Mapping[str, Score]) -> dict[str, float]:
    values = {name: float(score.details[part]) for name, score in scores.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise FeatureError(f"{name}: the {part} of {scorer} is {value} on these features; it gets no score.")
    low, high = min(values.values()), max(values.values())
    # Differences at rounding level are not an order; scaling would blow them up to the full range.
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return dict.fromkeys(values, 0.5)
    return {name: (value - low) / (high - low) for name, value in values.items()}
