"""The recommendation of a run: which model to fine-tune, and with which probability it is the best."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.ranking.ranking import Ranking
from itm.ranking.resampling import deviations, random_parts, resampled_scores

RESAMPLES = 30
"""Random parts of the images on which a score is computed again."""
MODEL_ERROR = 0.3
"""Standard deviation of a score's own error, in units of its spread over the models.

More images do not remove it: a score is not the accuracy after fine-tuning. ``benchmarks/calibration.py`` measures how
often statements with this value hold.
"""
FEW_IMAGES = 10
"""Fewer images of a class than these are mentioned."""
_DRAWS = 20_000
_NOISE = 0.25  # a model with this share of the best probability is within the noise
_CLOSE = 0.01  # probabilities that differ by less are equal but for the draws


@dataclass(frozen=True)
class Recommendation:
    """The model to fine-tune, and how sure that is.

    Args:
        model: Its name.
        scorer: Name of the ranking that decides.
        probabilities: P(best), the probability of being the best model, by model, highest first; they sum to 1. Empty
            where no spread is known.
        spread: Standard deviation of each model's score over the resamples; empty likewise.
        parameters: Number of parameters by model, as far as known.
        warnings: Sentences that a reader needs first.
        unknown: Why the probabilities are missing, a sentence; empty where they are known.
    """

    model: str
    scorer: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unknown: str = ""

    @property
    def probability(self) -> float | None:
        """Probability that the recommended model is the best one; None where it is not known."""
        return self.probabilities.get(self.model)

    @property
    def equals(self) -> list[str]:
        """Other models within the noise, most probable first: at least a quarter of the first one's probability."""
        least = _NOISE * (self.probability or 0.0)
        return [name for name, value in self.probabilities.items() if name != self.model and value >= least]

    @property
    def sentence(self) -> str:
        """The recommendation in one or two sentences."""
        if self.probability is None:
            return f"Fine-tune {self.model}, the first by {self.scorer}. {self.unknown}"
        said = f"Fine-tune {self.model} (best with probability {in_words(self.probability)})."
        if not self.equals:
            return said
        size = self.parameters.get(self.model, 0.0)
        smaller = [name for name in self.equals if 0 < self.parameters.get(name, 0.0) < 0.95 * size]
        if not smaller:
            return f"{said} {_within_the_noise(self.equals)}."
        smallest = min(smaller, key=lambda name: self.parameters[name])
        return (
            f"{said} {_within_the_noise([smallest])} at {share_in_words(self.parameters[smallest] / size)} parameters."
        )

    def __str__(self) -> str:
        return self.sentence


def recommend(
    pool: Mapping[str, Features],
    ranking: Ranking,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    controls: Collection[str] = (),
    parameters: Mapping[str, float] | None = None,
    jobs: int = 1,
) -> Recommendation:
    """Recommend a model, with the probability that each one is the best.

    The score is computed again on random halves of the images, from which follows how it would vary over other images
    of the same kind. A scorer that takes too long for that shows its spread over seeds instead, undivided: it stands
    for the images, too. The score's own error comes on top, see :func:`best_probabilities`.

    Args:
        pool: Features of the same images by model name.
        ranking: The ranking that decides, of models of the pool.
        resamples: Number of halves.
        seed: Decides the halves and the draws.
        controls: Names of untrained models, which should come last.
        parameters: Number of parameters by model, to name smaller models within the noise.
        jobs: Processes that share the resamples.

    Returns:
        The recommendation; without probabilities where there is nothing to compare or no spread.
    """
    scores = np.array(list(ranking.scores.values()))
    sizes = dict(parameters or {})
    labels = pool[ranking.order[0]].y
    warnings = [*_control_warnings(ranking, controls), *_image_warnings(labels)]
    try:
        found = _deviations(pool, ranking, resamples, seed, jobs)
    except (SettingError, FeatureError) as error:
        return Recommendation(
            ranking.order[0], ranking.name, parameters=sizes, warnings=tuple(warnings), unknown=str(error)
        )
    chances = best_probabilities(scores, found, seed=seed)
    spread = found.std(axis=0, ddof=1)
    order = sorted(range(len(scores)), key=lambda index: -chances[index])
    # of models with equal probabilities the table's first one
    best = min(index for index in order if chances[index] >= chances[order[0]] - _CLOSE)
    order = [best, *(index for index in order if index != best)]
    warnings += _lead_warnings(scores, found, best, order)
    models = ranking.order
    return Recommendation(
        models[best],
        ranking.name,
        {models[index]: float(chances[index]) for index in order},
        {models[index]: float(spread[index]) for index in order},
        sizes,
        tuple(warnings),
    )


def best_probabilities(
    scores: NDArray[np.float64], deviations: NDArray[np.float64], model_error: float = MODEL_ERROR, *, seed: int = 0
) -> NDArray[np.float64]:
    """Return the probability that each model is the best.

    Many times, a row of the deviations and an independent normal error per model are added to the scores, and the
    highest wins. The error's standard deviation is ``model_error`` times that of the scores over the models, which few
    models show badly: each draw takes it from its sampling distribution (chi-squared, M - 1 degrees of freedom).

    Args:
        scores: Score of each model, ``[M]``.
        deviations: Deviations of the scores over other images, ``[R, M]``; models of one row go together.
        model_error: Standard deviation of the scores' own error, in units of their spread over the models.
        seed: Decides the draws.

    Returns:
        ``[M]``, sum 1; equal best models share a draw.
    """
    generator = np.random.default_rng(seed)
    drawn = scores + deviations[generator.integers(len(deviations), size=_DRAWS)]
    freedom = max(len(scores) - 1, 1)
    unit = scores.std(ddof=1) * np.sqrt(freedom / generator.chisquare(freedom, size=(_DRAWS, 1)))
    drawn += model_error * unit * generator.standard_normal(drawn.shape)
    best = drawn == drawn.max(axis=1, keepdims=True)
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))


def in_words(probability: float) -> str:
    """Return a probability with two digits; one that would round to certainty as a bound."""
    if probability > 0.99:
        return "above 0.99"
    return f"{probability:.2f}"


def share_in_words(share: float) -> str:
    """Return a share of a number of things in words, such as "half the" or "62 % of the"."""
    words = {1 / 4: "a quarter of the", 1 / 3: "a third of the", 1 / 2: "half the"}
    for value, word in words.items():
        if abs(share - value) <= 0.06 * value:
            return word
    return f"{100 * share:.0f} % of the"


def _deviations(
    pool: Mapping[str, Features], ranking: Ranking, resamples: int, seed: int, jobs: int
) -> NDArray[np.float64]:
    """Return deviations of the ranking's scores, ``[R, M]``.

    Raises:
        SettingError: If there is nothing to compare, or no spread; the message is a sentence of the recommendation.
    """
    models, seeds = ranking.order, len(ranking.entries[0].runs)
    if len(models) < 2:
        raise SettingError("It is the only model with a score: there is nothing to compare.")
    if ranking.scorer.resampled and resamples > 1:
        first = pool[models[0]]
        parts = random_parts(first.y, resamples, seed=seed, groups=first.groups)
        scores = resampled_scores(pool, ranking.scorer, parts, models=models, seed=seed, jobs=jobs)
        return deviations(scores, len(first.y), len(parts[0]))
    if seeds > 1:
        runs = np.array([entry.values for entry in ranking.entries]).T
        return np.asarray(runs - runs.mean(axis=0))
    if not ranking.scorer.resampled and getattr(ranking.scorer, "seed", None) is None:
        raise SettingError(
            f"P(best) is not known: {ranking.name} does not use these images' labels and has no spread; put combined "
            "first, as in scorer=[combined,...]."
        )
    if not ranking.scorer.resampled:
        raise SettingError(
            f"P(best) is not known: {ranking.name} ran with one seed and takes too long to be resampled; set seeds=3, "
            "or put combined first, as in scorer=[combined,...]."
        )
    raise SettingError(
        f"P(best) is not known: resamples={resamples} and one seed show no spread; set resamples={RESAMPLES}."
    )


def _control_warnings(ranking: Ranking, controls: Collection[str]) -> list[str]:
    median = statistics.median(ranking.scores.values())
    high = [name for name, score in ranking.scores.items() if name in controls and score > median]
    if not high:
        return []
    return [f"An untrained control is in the upper half ({', '.join(high)}): do not trust {ranking.name} here."]


def _image_warnings(labels: torch.Tensor) -> list[str]:
    counts = torch.unique(labels, return_counts=True)[1]
    few = int((counts < FEW_IMAGES).sum())
    if not few:
        return []
    return [
        f"{few} of {len(counts)} classes have fewer than {FEW_IMAGES} images (the smallest {int(counts.min())}): "
        "scores of so few images vary much."
    ]


def _lead_warnings(
    scores: NDArray[np.float64], deviations: NDArray[np.float64], best: int, order: Sequence[int]
) -> list[str]:
    """Return a sentence if the lead over the next model is smaller than its spread over the resamples."""
    lead = scores[best] - scores[order[1]]
    spread = float((deviations[:, best] - deviations[:, order[1]]).std(ddof=1))
    if lead > spread:
        return []
    if lead == 0:
        return ["The first two models have the same score."]
    return [f"The lead of the first model is smaller than its spread over resamples ({lead:.2g} against {spread:.2g})."]


def _within_the_noise(names: Sequence[str]) -> str:
    """Return "a is within the noise", with the first three names of several."""
    shown = list(names[:3])
    if len(names) > 3:
        shown.append(f"{len(names) - 3} more models")
    *others, last = shown
    subject = f"{', '.join(others)} and {last}" if others else last
    return f"{subject} {'is' if len(names) == 1 else 'are'} within the noise"
