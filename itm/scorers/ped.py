"""Potential-energy descent: classes repel each other before a score judges them (Li et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from itm.core.errors import FeatureError
from itm.core.features import Features
from itm.core.settings import Positive, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.base_score import Base, base_score
from itm.scorers.common.displacement import Balls, class_balls, pairwise, push_apart, score_moved, score_moved_by_halves
from itm.scorers.common.moments import moments

_STEPS = 6
_LEAST_STD = 1e-3


@settings("scorer.ped")
class PED(Scorer):
    """Another score, taken after overlapping classes have pushed each other apart for up to six steps.

    Features are measured in units of what the same backbone sees in its source data, which is why those features are
    needed. Each class is a ball; balls that overlap repel each other in proportion to the overlap.

    The published code moves every row with its own class, so that even features without information come out separated,
    and the more the wider they are. By default each half of the rows moves as the other half says, see
    :func:`itm.scorers.common.displacement.score_moved_by_halves`, and the base score has its own sound default.

    Args:
        source: Features of source data (such as ImageNet's validation images) by model name, for every model to score;
            their labels play no part.
        base: The score taken afterwards: ``"sfda"``, ``"logme"`` or ``"nleep"``.
        nsigma: Radius of a ball in units of its standard deviation; the authors tried 0.3 and 0.6.
        time_step: Length of a step.
        exit_ratio: Stop before a step that moves less than this share of the first one.
        seed: Which of the possible halves, and of what the base score draws.
        reference: Reproduce the published code instead, base score included.

    Raises:
        SettingError: If ``base`` is none of the three, or a number is out of range.
    """

    name: ClassVar[str] = "ped"

    source: Mapping[str, Features] | None = field(default=None, hash=False)
    base: Base = "sfda"
    nsigma: Positive = 0.6
    time_step: Positive = 0.1
    exit_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    seed: int = 0
    reference: bool = False

    def evaluate_model(self, name: str, features: Features, seeds: Sequence[int] = ()) -> list[Score]:
        """Score one model against its own source features, see :meth:`itm.scorers.base.Scorer.evaluate_model`.

        Raises:
            FeatureError: If the model has no source features, or they are not as wide as its features.
        """
        source = self.source or {}
        if name not in source:
            raise FeatureError(
                f"{name}: ped needs features of source data through this backbone; set source.name to such images "
                f"(from Python, give ped.source an entry {name!r})."
            )
        if source[name].dim != features.dim:
            raise FeatureError(f"{name}: {features.dim} features, but ped.source has {source[name].dim}.")
        alone = replace(self, source={name: source[name]})
        return super(PED, alone).evaluate_model(name, features, seeds)

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model by the one entry of ``source``; on the scale of the base score."""
        if self.source is None or len(self.source) != 1:
            raise FeatureError("ped scores one model at a time against exactly one entry of ped.source.")
        (source,) = self.source.values()
        unit, x = _unit(source), moments(samples).x

        def move(x: Tensor, y: Tensor, num_classes: int, rows: Tensor, belief: Tensor) -> Tensor:
            return torch.addmm(rows, belief, self._shift(class_balls(x / unit, y, num_classes)) * unit)

        base = base_score(self.base, self.seed, self.reference)
        if self.reference:
            return score_moved(samples, x, move, base)
        return score_moved_by_halves(samples, x, move, base, self.seed)

    def _shift(self, balls: Balls) -> Tensor:
        """Follow the class centers, which are all that moves; returns the way each has gone, ``[C, D]``."""
        centers, first = balls.centers, 0.0
        for _ in range(_STEPS):
            distances, reach = pairwise(Balls(centers, balls.radii))
            overlap = (self.nsigma * reach - distances).clamp_min(0.0)
            # The force moves no pair farther than their overlap.
            amounts = torch.minimum(0.5 * self.time_step**2 * overlap, overlap)
            delta = push_apart(centers, distances, amounts)
            movement = float(delta.abs().sum())
            first = first or movement
            if movement <= self.exit_ratio * first:  # also where nothing overlaps to begin with
                break
            centers = centers + delta
        return centers - balls.centers


def _unit(source: Features) -> Tensor:
    """Return the standard deviation of each dimension over the source data, ``[D]``."""
    if source.x.numel() == 0 or not torch.isfinite(source.x).all():
        raise FeatureError("ped.source is empty, NaN or infinite for this model; extract it again.")
    return source.x.cpu().double().std(0, correction=0).clamp_min(_LEAST_STD)
