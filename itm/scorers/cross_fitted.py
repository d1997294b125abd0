"""A score of models of which several layers were read, with the choice of the layer cross-fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from itm.core.errors import FeatureError
from itm.core.features import Features
from itm.core.settings import settings
from itm.core.splits import split_indices
from itm.scorers.base import PoolScorer, Score, Scorer
from itm.scorers.combined import Combined

Runs = dict[str, list[Score]]


@settings("scorer.cross_fitted")
class CrossFitted(PoolScorer):
    """Score of each model's best layer, where the layer is chosen on other images than those that are scored.

    The images are halved. On each half the score takes the layer that is best on the other half, and the mean of both
    halves counts. The best of several layers on the same images would favour models of many layers. A half has fewer
    rows than all images, so scores do not compare with those of one layer.

    Args:
        scorer: The score of one layer.
        widths: Width of each layer in the features of a model, the last layer first; models without an entry have one.
    """

    name: ClassVar[str] = "cross_fitted"

    scorer: Scorer
    widths: Mapping[str, Sequence[int]] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.scorer.name)

    @property
    def seed(self) -> int | None:
        """Seed of the score; None for a score without randomness."""
        return getattr(self.scorer, "seed", None)

    @property
    def relative(self) -> bool:  # type: ignore[override]
        """Whether one model's score depends on the others in the pool."""
        return self.scorer.relative

    @property
    def resampled(self) -> bool:  # type: ignore[override]
        """Whether the score is quick enough to be computed on resampled images."""
        return self.scorer.resampled

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields that the features need besides ``x`` and ``y``."""
        return self.scorer.needs

    def evaluate_sound(self, pool: Mapping[str, Features], seeds: Sequence[int] = ()) -> tuple[Runs, dict[str, str]]:
        """Score the models that have a layer with a score on both halves.

        Args:
            pool: Features by model name, layers side by side.
            seeds: Seeds of the score.

        Returns:
            One score per seed by model, whose details hold the layer chosen for each half, 0 for the last one; and the
            reasons of the models that have none.
        """
        halves: list[Runs] = []
        refused: dict[str, str] = {}
        try:
            for layers in self._halves(pool):
                runs, failed = self.scorer.evaluate_sound(layers, seeds)
                halves.append(runs)
                refused = {**failed, **refused}
        except FeatureError as error:  # images that cannot be halved
            return {}, dict.fromkeys(pool, str(error))
        found: Runs = {}
        reasons: dict[str, str] = {}
        for model in pool:
            names = [_layer(model, place) for place in range(len(self._widths(model, pool[model])))]
            sound = [name for name in names if all(name in runs for runs in halves)]
            if sound:
                found[model] = [self._choose(halves, names, sound, place) for place in range(max(1, len(seeds)))]
            else:
                reasons[model] = next(refused[name] for name in names if name in refused)
        return found, reasons

    def _halves(self, pool: Mapping[str, Features]) -> list[dict[str, Features]]:
        """Return each half of the images, with the layers of all models by name."""
        first = next(iter(pool.values()))
        return [
            {
                _layer(model, place): part
                for model, features in pool.items()
                for place, part in enumerate(_parts(features.take(rows), self._widths(model, features)))
            }
            for rows in split_indices(first.y, 0.5, 0, first.groups)
        ]

    def _widths(self, model: str, features: Features) -> Sequence[int]:
        return self.widths.get(model) or (features.dim,)

    def _choose(self, halves: Sequence[Runs], names: Sequence[str], sound: Sequence[str], seed: int) -> Score:
        """Combine the layers' scores of one seed, given by its place."""
        other, own = halves
        chosen = [max(sound, key=lambda name: judge[name][seed].value) for judge in (own, other)]
        scores = [runs[name][seed] for runs, name in zip(halves, chosen, strict=True)]
        seconds = sum(runs[name][seed].seconds for runs in halves for name in sound)
        details: dict[str, Any] = {
            "layer_first_half": names.index(chosen[0]),
            "layer_second_half": names.index(chosen[1]),
        }
        return Score(sum(score.value for score in scores) / 2, seconds, details)


def cross_fitted(scorers: Mapping[str, Scorer], widths: Mapping[str, Sequence[int]]) -> dict[str, Scorer]:
    """Let scorers choose the layer of each model; a combination lets each of its members choose.

    Args:
        scorers: Scorers by the name of their ranking.
        widths: As in :class:`CrossFitted`.
    """

    def fitted(scorer: Scorer) -> Scorer:
        if isinstance(scorer, Combined):
            return replace(scorer, members=tuple(fitted(member) for member in scorer.scorers))
        return CrossFitted(scorer, widths)

    return {name: fitted(scorer) for name, scorer in scorers.items()}


def _layer(model: str, place: int) -> str:
    return f"{model}@{place}"


def _parts(features: Features, widths: Sequence[int]) -> list[Features]:
    parts: Sequence[Tensor] = torch.split(features.x, list(widths), dim=1)
    return [Features(part, features.y, features.logits, features.groups) for part in parts]
