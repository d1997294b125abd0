"""Values that are known by a model's name, as a ranking beside the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import ClassVar

from itm.core.features import Features
from itm.core.settings import settings
from itm.scorers.base import PoolScorer, Score


@settings("scorer.known")
class Known(PoolScorer):
    """Value of each model that was computed elsewhere, such as a prior; the features play no part.

    Args:
        values: Value by model, higher is better. A model without a finite one gets no score.
    """

    name: ClassVar[str] = "known"
    resampled: ClassVar[bool] = False

    values: Mapping[str, float] = field(default_factory=dict, hash=False)

    def evaluate_sound(
        self, pool: Mapping[str, Features], seeds: Sequence[int] = ()
    ) -> tuple[dict[str, list[Score]], dict[str, str]]:
        """Look up the value of each model, see :meth:`itm.scorers.base.Scorer.evaluate_sound`."""
        found = {name: [Score(self.values[name])] for name in pool if math.isfinite(self.values.get(name, math.nan))}
        return found, {name: "no value is known" for name in pool if name not in found}
