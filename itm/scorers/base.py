"""The contract of every score, and the one place where features and labels are checked."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from itm.core.errors import FeatureError, ItmError
from itm.core.features import Features
from itm.core.settings import settings


@dataclass(frozen=True)
class Score:
    """One model's score, with what a report shows beside it.

    Args:
        value: The score; higher is better.
        seconds: Wall-clock time it took.
        details: Plain values by name (ITM: ``n``, ``distance``, ``curve``, ...).
    """

    value: float
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Samples:
    """Features that passed the checks: finite, at least two classes, labels renumbered ``0..C-1`` without gaps.

    Args:
        x: Features, floating point as they were given, ``[N, D]``.
        y: Dense class of each row, int64, ``[N]``.
        num_classes: ``C``, the number of classes that occur.
        logits: Source logits ``[N, K]`` or None.
        groups: Group of each row ``[N]`` or None.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    logits: Tensor | None = None
    groups: Tensor | None = None


class Subpool(Mapping[str, Features]):
    """Some models of a pool; their features are read from the pool at each access and not kept.

    Args:
        pool: Features by model.
        models: Names of the models.
    """

    def __init__(self, pool: Mapping[str, Features], models: Sequence[str]) -> None:
        self.pool, self.models = pool, dict.fromkeys(models)

    def __getitem__(self, model: str) -> Features:
        if model not in self.models:
            raise KeyError(model)
        return self.pool[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


_CHECKED: WeakKeyDictionary[Features, Samples] = WeakKeyDictionary()


def check(name: str, features: Features) -> Samples:
    """Check one model's features; the result is remembered for as long as the features live.

    Args:
        name: The model, named in every error.
        features: What is to be scored.

    Raises:
        FeatureError: If a dimension is empty, a value is not finite, or fewer than two classes occur.
    """
    if features not in _CHECKED:
        _CHECKED[features] = _check(name, features)
    return _CHECKED[features]


def _check(name: str, features: Features) -> Samples:
    x, y = features.x, features.y
    if x.numel() == 0:
        raise FeatureError(f"{name}: features of shape {tuple(x.shape)} hold no value; extract them again.")
    for part, values in (("features", x), ("source logits", features.logits)):
        # A NaN passes through both extremes, in an eighth of the time that a mask takes.
        if values is not None and not all(math.isfinite(extreme) for extreme in torch.aminmax(values)):
            bad = int((~torch.isfinite(values)).any(dim=1).sum())
            raise FeatureError(f"{name}: {part} are NaN or infinite in {bad} of {len(x)} rows; it gets no score.")
    classes, dense = torch.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise FeatureError(f"{name}: only class {int(classes[0])} among {len(y)} labels; a score needs two or more.")
    return Samples(x, dense, len(classes), features.logits, features.groups)


@settings("scorer")
class Scorer(ABC):
    """A transferability score: from features of a pool of models to one number each, higher is better.

    A scorer is a frozen dataclass of its settings; :func:`itm.core.settings.settings` makes it one and checks each
    setting against its annotation. Subclasses implement :meth:`evaluate_one`; those whose score depends on the other
    models of the pool set ``relative`` and override :meth:`evaluate`.
    """

    name: ClassVar[str]
    """The name in configs, tables and ``itm.rank``."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields that the features need besides ``x`` and ``y``: ``"logits"`` or none."""
    relative: ClassVar[bool] = False
    """Whether one model's score depends on the others in the pool."""
    resampled: ClassVar[bool] = True
    """Whether it is quick enough to be computed on dozens of random parts of the images."""

    def score(self, pool: Mapping[str, Features]) -> dict[str, float]:
        """Score every model of the pool.

        Args:
            pool: Features by model name, all of the same dataset and split.

        Returns:
            A finite score by model name; higher is better. Compare scores on one dataset only.

        Raises:
            FeatureError: If a model's features cannot be scored; the message names the model.
        """
        return {name: score.value for name, score in self.evaluate(pool).items()}

    def evaluate(self, pool: Mapping[str, Features]) -> dict[str, Score]:
        """Score every model like :meth:`score`, with seconds and details."""
        return {name: self.evaluate_model(name, features)[0] for name, features in pool.items()}

    def evaluate_sound(
        self, pool: Mapping[str, Features], seeds: Sequence[int] = ()
    ) -> tuple[dict[str, list[Score]], dict[str, str]]:
        """Score the models that can be scored, once for each seed.

        Args:
            pool: Features by model name.
            seeds: As in :meth:`evaluate_model`.

        Returns:
            The scores by model, and by model the reason of each one that has none.
        """
        runs: dict[str, list[Score]] = {}
        failed: dict[str, str] = {}
        for name, features in pool.items():
            try:
                if self.relative:
                    self.checked(name, features)
                else:
                    runs[name] = self.evaluate_model(name, features, seeds)
            except ItmError as error:
                failed[name] = reason(name, error)
        sound = Subpool(pool, [name for name in pool if name not in failed])
        if self.relative and sound:
            variants = [replace(self, **{"seed": seed}) for seed in seeds] or [self]
            for variant in variants:
                for name, score in variant.evaluate(sound).items():
                    runs.setdefault(name, []).append(score)
        return runs, failed

    def evaluate_model(self, name: str, features: Features, seeds: Sequence[int] = ()) -> list[Score]:
        """Score one model, once for each seed.

        Args:
            name: The model, named in every error.
            features: Its features.
            seeds: Seeds of a scorer with randomness; none for the scorer's own.

        Returns:
            A finite score for each seed; they share the seconds equally.

        Raises:
            FeatureError: If the features cannot be scored.
        """
        samples = self.checked(name, features)
        start = time.perf_counter()
        try:
            scores = self.evaluate_seeds(samples, seeds) if seeds else [self.evaluate_one(samples)]
        except FeatureError as error:
            raise FeatureError(f"{name}: {error}") from error
        seconds = (time.perf_counter() - start) / len(scores)
        for score in scores:
            if not math.isfinite(score.value):
                raise FeatureError(f"{name}: {self.name} is {score.value} on these features; the model gets no score.")
        return [replace(score, seconds=seconds) for score in scores]

    def evaluate_seeds(self, samples: Samples, seeds: Sequence[int]) -> list[Score]:
        """Score one model under each seed; scorers that can train several seeds at once override it."""
        return [replace(self, **{"seed": seed}).evaluate_one(samples) for seed in seeds]

    @abstractmethod
    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model's checked features."""

    def checked(self, name: str, features: Features) -> Samples:
        """Check one model's features, and that they carry what this scorer needs.

        Raises:
            FeatureError: If they cannot be scored; the message names the model.
        """
        samples = check(name, features)
        if "logits" in self.needs and samples.logits is None:
            raise FeatureError(f"{name}: {self.name} needs the logits of a source head, and these features have none.")
        return samples


@settings("scorer")
class PoolScorer(Scorer):
    """A score of a whole pool, since it depends on the other models or on facts by the models' names.

    Subclasses implement :meth:`evaluate_sound` or :meth:`evaluate`.
    """

    relative: ClassVar[bool] = True

    def evaluate(self, pool: Mapping[str, Features]) -> dict[str, Score]:
        """Score every model of the pool, with seconds and details.

        Raises:
            FeatureError: If a model cannot be scored; the message names the model.
        """
        runs, failed = self.evaluate_sound(pool)
        if failed:
            name, why = next(iter(failed.items()))
            raise FeatureError(f"{name}: {why}")
        return {name: scores[0] for name, scores in runs.items()}

    def evaluate_model(self, name: str, features: Features, seeds: Sequence[int] = ()) -> list[Score]:
        """Score a pool of one, once for each seed, see :meth:`Scorer.evaluate_model`."""
        runs, failed = self.evaluate_sound({name: features}, seeds)
        if name in failed:
            raise FeatureError(f"{name}: {failed[name]}")
        return runs[name]

    def evaluate_one(self, samples: Samples) -> Score:
        """Refuse: a pool's score needs the models' names.

        Raises:
            FeatureError: Always.
        """
        raise FeatureError(f"{self.name} scores a pool by the models' names; call score(pool).")


def reason(name: str, error: Exception) -> str:
    """Return an error's text without the name of the model in front."""
    return str(error).removeprefix(f"{name}: ")
