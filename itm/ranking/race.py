"""A race of many models: all on a few images, the weak ones dropped, more images for the others, until all images.

Extraction is the cost, and most models need not see all images to lose. Dropping the worse part of the models while
the data grow, so that every round costs about the same, is successive halving (Jamieson and Talwalkar, AISTATS 2016).
Here a round may drop more models than that: those that the paired resamples show to be behind. Rounds are decided by
the regularised H-score, which orders models by ten images of a class, where ITM does not. The models that see all
images get the scores that were asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from itm.core.errors import FeatureError, SettingError
from itm.core.seeding import derive_seed
from itm.core.settings import Count, Share, settings
from itm.data.image_set import ImageSet
from itm.extraction.candidate import Candidate
from itm.extraction.extract import Extraction
from itm.extraction.parts import GrowingSample
from itm.extraction.pool import ExtractedPool, ExtractionSettings, PoolExtractor
from itm.extraction.stored_features import StoredFeatures
from itm.ranking.race_result import RaceResult, Standing
from itm.ranking.resampling import random_parts, spread_factor
from itm.scorers import RegularizedHScore

IMAGES_PER_CLASS = 10
"""Images of a class, on average, below which no round drops a model."""

_log = logging.getLogger(__name__)


@settings("race")
class Race:
    """Settings of a race.

    Args:
        start: Images of the first round; raised to ten per class where it is less. Every round doubles them, and the
            last one, which begins where the next would take more than half, has all images.
        share: Largest share of its models that a round passes on where the images double, in proportion fewer where
            they grow more: with at most one half, no round after the first costs more than the one before.
        keep_at_least: Models that see all images, at the least; a comparison with true accuracies needs three.
        confidence: Probability of being behind the leader from which a round drops a model also within the share. It
            saves images beyond what the share saves, so only clear cases are dropped.
        resamples: Random parts of a round's images, halves up to 2,000 images; their spread is the error of the
            distance between two models.
    """

    start: Annotated[int, Field(ge=4)] = 100
    share: Share = 0.45
    keep_at_least: Count = 3
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    resamples: Annotated[int, Field(ge=5)] = 20

    @classmethod
    def from_setting(cls, value: Any) -> Race | None:
        """Return the settings as a config or a caller gives them, or None for no race.

        Args:
            value: True, False or None; settings by name, with ``enabled`` where they come from a config; or an object
                of this class.

        Raises:
            SettingError: If a setting is wrong.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            given = {str(name): setting for name, setting in value.items() if name != "enabled"}
            enabled = value.get("enabled", True)
            if not isinstance(enabled, bool):
                raise SettingError(f"race={enabled}: expected true or false.")
            rules = cls(**given)  # a wrong setting is an error also where the race is off
            return rules if enabled else None
        if not isinstance(value, bool | None):
            raise SettingError(f"race={value}: expected true or false, or settings by name.")
        return cls() if value else None


def race(extraction: ExtractionSettings, rules: Race, seed: int | None = None) -> tuple[ExtractedPool, RaceResult]:
    """Run a race and return the pool of the models that saw all images.

    An interrupted race continues with the features that it has stored, and comes to the same result.

    Args:
        extraction: Images and models.
        rules: Settings of the race.
        seed: Seed of the samples of images; that of the extraction where not given.

    Returns:
        Features and facts of the models that were not dropped, and the race's result.

    Raises:
        ItmError: As :func:`itm.extraction.pool.extract_pool` does.
    """
    extractor = PoolExtractor(extraction)
    sizes, notes = plan(extractor.images, rules)
    for note in notes:
        _log.warning("%s", note)
    sample = GrowingSample(extractor.images, sizes, extraction.seed if seed is None else seed)
    left, passes, seen = list(extraction.zoo), 0, 0
    standings: list[Standing] = []
    facts: dict[str, Candidate] = {}
    for number, size in enumerate(sizes[:-1]):
        if len(left) <= rules.keep_at_least:
            break
        parts, factor = _parts(sample, number, rules.resamples)
        scores: dict[str, RoundScore] = {}
        for name, candidate, values in _scored(extractor, left, sample, number, parts):
            scores[name], facts[name] = values, candidate
        passes, seen = passes + len(left) * (size - seen), size
        scores = {name: scores[name] for name in left if name in scores}  # workers come by them in any order
        done = judge(scores, Standing(number + 1, size, passes=passes), rules, factor, sizes[number + 1] / size)
        standings += done
        left = [one.model for one in done if not one.reason]
        _log_round(done, passes, len(extraction.zoo) * sizes[-1])
    passes += len(left) * (sizes[-1] - seen)
    dropped = {one.model: facts[one.model] for one in standings if one.reason}
    result = RaceResult(standings, passes, len(extraction.zoo) * sizes[-1], notes, dropped)
    return _last_round(extractor, left, sample), result


def _last_round(extractor: PoolExtractor, models: Sequence[str], sample: GrowingSample) -> ExtractedPool:
    """Extract the features of all images for the models that are left."""
    features = StoredFeatures(extractor.images, extractor.store)
    candidates: dict[str, Candidate] = {}
    for name, candidate, found in extractor.run(models, extractor.of_sample(sample, len(sample.sizes) - 1)):
        candidates[name] = candidate
        features.add(name, found)
    return extractor.pool(features, candidates)


def plan(images: ImageSet, rules: Race) -> tuple[tuple[int, ...], list[str]]:
    """Return the images of each round, the last round having all images, and sentences on what the plan changed."""
    total, classes = len(images), len(torch.unique(images.labels))
    least = IMAGES_PER_CLASS * classes
    notes = []
    start = max(rules.start, least)
    if total < least:
        notes.append(
            f"race: {total} images of {classes} classes are fewer than {IMAGES_PER_CLASS} per class; "
            "no model is dropped."
        )
    elif start >= total:
        notes.append(f"race: the first round of {start} images takes all {total}; no model is dropped.")
    elif start > rules.start:
        notes.append(f"race.start={rules.start}: raised to {start}, {IMAGES_PER_CLASS} images for each class.")
    if start >= total:
        return (total,), notes
    sizes = [start]
    while 4 * sizes[-1] <= total:
        sizes.append(2 * sizes[-1])
    return (*sizes, total), notes


class RoundScore(NamedTuple):
    """Regularised H-score of one model in one round.

    Args:
        value: On all images of the round.
        parts: On the same parts of them for every model, float64, ``[R]``.
    """

    value: float
    parts: Tensor


def judge(
    scores: Mapping[str, RoundScore], after: Standing, rules: Race, factor: float = 1.0, growth: float = 2.0
) -> list[Standing]:
    """Decide which models of a round go on.

    A model is behind with the probability that the normal distribution gives to its distance to the leader, in standard
    errors. The parts decide the error alone: they have half of the images, and a score of all images is surer.

    Args:
        scores: Scores by model.
        after: Number, images and passes of the round.
        rules: Settings of the race.
        factor: Standard error of all images of the round, in standard deviations over the parts.
        growth: Images of the next round, as a multiple of the round's.

    Returns:
        The models, best first.
    """
    order = sorted(scores, key=lambda name: -scores[name].value)
    most = max(rules.keep_at_least, int(rules.share * 2 / growth * len(order)))
    standings = []
    for place, name in enumerate(order):
        leader = order[0]
        behind = scores[leader].value - scores[name].value
        error = factor * float((scores[leader].parts - scores[name].parts).std())
        probability = NormalDist().cdf(behind / error) if error > 0 else (1.0 if behind > 0 else 0.5)
        reason = ""
        if place >= rules.keep_at_least and probability >= rules.confidence:
            reason = f"behind {leader} with probability {probability:.3f}"
        elif place >= most:
            reason = f"not among the best {most} of {len(order)}; behind {leader} with probability {probability:.2f}"
        one = replace(after, model=name, score=scores[name].value, behind=behind, error=error)
        standings.append(replace(one, probability=probability, reason=reason))
    return standings


def _scored(
    extractor: PoolExtractor, models: Sequence[str], sample: GrowingSample, number: int, parts: Sequence[Tensor]
) -> Iterator[tuple[str, Candidate, RoundScore]]:
    """Extract one round's features and score each model; a model that cannot be scored has failed."""
    for name, candidate, extraction in extractor.run(models, extractor.of_sample(sample, number)):
        try:
            yield name, candidate, _score(name, extraction, parts)
        except FeatureError as error:
            _log.error("%s", error)
            extractor.failed[name] = str(error).removeprefix(f"{name}: ")


def _parts(sample: GrowingSample, number: int, resamples: int) -> tuple[list[Tensor], float]:
    """Return random parts of a round's images, and the factor from the spread over them to a standard error.

    Returns:
        Images of each part as masks over all images, and the factor that :func:`itm.ranking.resampling.deviations`
        explains; 1 for halves.
    """
    images = torch.cat(sample.rows[: number + 1]).sort().values
    labels, groups = sample.images.labels[images], sample.images.groups
    own = None if groups is None else groups[images]
    masks = []
    for part in random_parts(labels, resamples, seed=derive_seed(sample.seed, number), groups=own):
        mask = torch.zeros(len(sample.images), dtype=torch.bool)
        mask[images[part]] = True
        masks.append(mask)
    size = int(masks[0].sum())
    return masks, spread_factor(len(images), size)


def _score(name: str, extraction: Extraction, parts: Sequence[Tensor]) -> RoundScore:
    scorer, features = RegularizedHScore(), extraction.features
    values = []
    for part in parts:  # by image, as a model may lack rows of images that it could not read
        rows = torch.nonzero(part[extraction.rows]).flatten()
        values.append(scorer.evaluate_model(name, features.take(rows))[0].value)
    value = scorer.evaluate_model(name, features)[0].value
    return RoundScore(value, torch.tensor(values, dtype=torch.float64))


def _log_round(standings: Sequence[Standing], passes: int, full: int) -> None:
    out = [one for one in standings if one.reason]
    number, images = (standings[0].round, standings[0].images) if standings else (0, 0)
    _log.info(
        "Race, round %d, %d images: %d of %d models go on; %d image passes so far, %.0f %% of all.",
        *(number, images, len(standings) - len(out), len(standings), passes, 100 * passes / full),
    )
    for one in out:
        _log.info("Dropped %s: %s.", one.model, one.reason)
