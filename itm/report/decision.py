"""Sentences that follow from a run's rankings: alternatives to the recommended model, verdicts of other scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from itm.extraction.candidate import Candidate
from itm.metrics.single import kendall_tau
from itm.models.pretraining import TIERS, tier_of
from itm.ranking.ranking import Ranking
from itm.ranking.recommend import Recommendation, share_in_words

_EQUAL = 1e-9  # relative; scores that differ by less are equal but for rounding
_GAIN = 0.9  # a model that needs more than this share of the other one's size or time saves nothing worth a sentence


@dataclass(frozen=True)
class Alternative:
    """A model within the noise of the recommended one that is cheaper to run or freer to use.

    Args:
        model: Its name.
        probability: Probability that it is the best model.
        gains: What it saves, such as "half the parameters".
    """

    model: str
    probability: float
    gains: tuple[str, ...]


def alternatives(recommendation: Recommendation, candidates: Mapping[str, Candidate]) -> list[Alternative]:
    """Return the models within the noise that are smaller, faster or under a freer licence, most probable first.

    Args:
        recommendation: The recommendation.
        candidates: Facts by model.
    """
    best = candidates[recommendation.model]
    found = []
    for name in recommendation.equals:
        gains = tuple(_gains(candidates[name], best))
        if gains and not candidates[name].untrained:
            found.append(Alternative(name, recommendation.probabilities[name], gains))
    return found


def _gains(model: Candidate, best: Candidate) -> list[str]:
    gains = []
    if model.parameters < _GAIN * best.parameters:
        gains.append(f"{share_in_words(model.parameters / best.parameters)} parameters")
    if model.images_per_second * _GAIN > best.images_per_second > 0:
        gains.append(f"{model.images_per_second / best.images_per_second:.1f} times as fast")
    if not best.untrained and TIERS.index(tier_of(model.license)) < TIERS.index(tier_of(best.license)):
        gains.append(f"licence {model.license} instead of {best.license}")
    return gains


def verdict(ranking: Ranking) -> str:
    """Return one sentence on the winner of a further ranking and how clear its lead is."""
    if len(ranking.entries) < 2:
        return f"{ranking.name}: {len(ranking.entries)} model with a score, so there is nothing to compare."
    best = ranking.entries[0].model
    if equal := ties(ranking):
        return f"{ranking.name}: {_joined([best, *equal], 'and')} share the first place."
    return f"{ranking.name}: {best} {_lead(ranking)}."


def ties(ranking: Ranking) -> list[str]:
    """Return the models that share the first place with the first one, but for rounding."""
    first, *others = ranking.entries
    return [entry.model for entry in others if math.isclose(entry.score, first.score, rel_tol=_EQUAL, abs_tol=1e-12)]


def _lead(ranking: Ranking) -> str:
    best, second = ranking.entries[:2]
    margin = best.score - second.score
    said = f"leads {second.model} by {margin:.3g}"
    deviation = max(best.std or 0.0, second.std or 0.0)
    if deviation <= _EQUAL * abs(best.score):  # one seed, or seeds that do not matter
        return f"{said} (no spread over seeds to compare with)"
    clear = "a clear lead" if margin > 2 * deviation else "too close to call"
    return f"{said}, {margin / deviation:.1f} times the spread over seeds: {clear}"


def agreement(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Return Kendall's tau between the orders of every two scorers, over the models that both scored.

    Returns:
        Index and columns: the scorers' names. NaN where a scorer does not order the shared models.
    """
    names = [ranking.name for ranking in rankings]
    frame = pd.DataFrame(1.0, index=names, columns=names)
    for a in rankings:
        for b in rankings:
            shared = [model for model in a.scores if model in b.scores]
            if a is not b:
                first, second = [a.scores[m] for m in shared], [b.scores[m] for m in shared]
                known = len(set(first)) > 1 and len(set(second)) > 1
                frame.loc[a.name, b.name] = kendall_tau(first, second) if known else float("nan")
    return frame


def _joined(names: Sequence[str], word: str) -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last
