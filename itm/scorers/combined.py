"""A fixed mean of a few scores and of a prior, without fitted weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from itm.core.errors import SettingError
from itm.core.features import Features
from itm.core.settings import settings
from itm.scorers.base import PoolScorer, Score, Scorer
from itm.scorers.common.names import by_name

Runs = dict[str, list[Score]]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@settings("scorer.combined")
class Combined(PoolScorer):
    """Unfitted mean, over its members, of the ranks or of the z-scores that each gives the models of the pool.

    Ranks run from 1 for the best model to 0 for the last one; equal models share the mean of their places. Z-scores
    have mean 0 and standard deviation 1 over the pool. A single member keeps its own scores, since a rank drops the
    distances between models. A model that one member cannot score gets no combined score.

    The regularised H-score is right with few images; the prior adds the models' results on other datasets.

    Args:
        members: Scorers, or names of scorers with their default settings.
        form: ``"ranks"`` or ``"zscores"``.
        prior: Scores of the models that do not use these images, higher is better, by name: a further member.
            ``"elsewhere"`` lets ``estimate.py`` and :func:`itm.estimate` look up the mean rank on other datasets, where
            a table of accuracies knows every model; elsewhere it is the same as None, no prior.

    Raises:
        SettingError: If a member is not known or named twice, or there is none.
    """

    name: ClassVar[str] = "combined"

    members: Annotated[tuple[str | Scorer, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (
        "regularized_hscore",
    )
    form: Literal["ranks", "zscores"] = "ranks"
    prior: Mapping[str, float] | Literal["elsewhere"] | None = field(default="elsewhere", hash=False)

    def __post_init__(self) -> None:
        names = [member.name for member in self.scorers]
        if len(set(names)) < len(names):
            raise SettingError(f"scorer.combined.members={', '.join(names)}: expected each member once.")

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """The members as scorers."""
        setting = "scorer.combined.members"
        return tuple(by_name(member, setting) if isinstance(member, str) else member for member in self.members)

    @property
    def seed(self) -> int | None:
        """First seed of the members with randomness; None where no member has any."""
        seeds = (getattr(scorer, "seed", None) for scorer in self.scorers)
        return next((seed for seed in seeds if seed is not None), None)

    @property
    def resampled(self) -> bool:  # type: ignore[override]
        """Whether every member is quick enough to be computed on resampled images."""
        return all(scorer.resampled for scorer in self.scorers)

    def evaluate_sound(self, pool: Mapping[str, Features], seeds: Sequence[int] = ()) -> tuple[Runs, dict[str, str]]:
        """Score the models that every member can score.

        Args:
            pool: Features by model name.
            seeds: Seeds of the members with randomness; a member without randomness counts with one score in each.

        Returns:
            One score per seed by model, whose details hold the members' scores by name, and the reasons of the models
            that have none.
        """
        members: dict[str, Runs] = {}
        failed: dict[str, str] = {}
        for scorer in self.scorers:
            seeded = seeds if getattr(scorer, "seed", None) is not None else ()
            members[scorer.name], refused = scorer.evaluate_sound(pool, seeded)
            failed = {**refused, **failed}
        if isinstance(self.prior, Mapping):
            unknown = [name for name in pool if not math.isfinite(self.prior.get(name, math.nan))]
            failed = {**dict.fromkeys(unknown, "the prior has no value"), **failed}
        sound = [name for name in pool if name not in failed]
        if not sound:
            return {}, failed
        by_seed = [self._combine(members, sound, place) for place in range(max(1, len(seeds)))]
        by_model = map(list, zip(*by_seed, strict=True))
        return dict(zip(sound, by_model, strict=True)), failed

    def combine(self, members: Mapping[str, Sequence[float]], models: Sequence[str]) -> NDArray[np.float64]:
        """Combine the members' scores of the same models.

        Args:
            members: Scores in the order of the models, by the member's name; without the prior.
            models: The models.

        Returns:
            The combined scores, ``[M]``.
        """
        rows = [np.asarray(values, dtype=np.float64) for values in members.values()]
        if isinstance(self.prior, Mapping):
            rows.append(np.array([self.prior[model] for model in models], dtype=np.float64))
        if len(rows) == 1:
            return rows[0]
        scaled = _ranks if self.form == "ranks" else _zscores
        return np.asarray(np.mean([scaled(row) for row in rows], axis=0))

    def _combine(self, members: Mapping[str, Runs], models: Sequence[str], seed: int) -> list[Score]:
        """Combine the members' scores of one seed, given by its place."""
        values: dict[str, list[float]] = {}
        seconds = dict.fromkeys(models, 0.0)
        for member, runs in members.items():
            chosen = [runs[model][seed if len(runs[model]) > 1 else 0] for model in models]
            values[member] = [score.value for score in chosen]
            for model, score in zip(models, chosen, strict=True):
                seconds[model] += score.seconds
        combined = []
        for index, (model, value) in enumerate(zip(models, self.combine(values, models).tolist(), strict=True)):
            details = {member: own[index] for member, own in values.items()}
            if isinstance(self.prior, Mapping):
                details["prior"] = float(self.prior[model])
            combined.append(Score(value, seconds[model], details))
        return combined


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return places from 1 for the highest value to 0 for the lowest; one half for all where they are equal."""
    below = (values[:, None] > values[None, :]).sum(axis=1)
    above = (values[:, None] < values[None, :]).sum(axis=1)
    return np.asarray(0.5 + 0.5 * (below - above) / max(len(values) - 1, 1))


def _zscores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of mean 0 and standard deviation 1; 0 where they are equal but for rounding."""
    centered = values - values.mean()
    deviation = centered.std()
    if deviation <= 1e-12 * np.abs(values).max():
        return np.zeros_like(values)
    return np.asarray(centered / deviation)
