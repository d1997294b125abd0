"""The decision that a run leads to, in sentences: which model, how clear its lead is, and what to be careful of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from itm.data.image_set import ImageSet
from itm.extraction.pool import Candidate
from itm.metrics.single import kendall_tau
from itm.ranking.ranking import Ranking

FEW_IMAGES = 10
"""Fewer images of a class than these are mentioned."""
_CONTROL = "none (randomly initialised"  # beginning of the pre-training text of an untrained model
_EQUAL = 1e-9  # relative; scores that differ by less are equal but for rounding


def decision(ranking: Ranking) -> str:
    """Return one sentence on which model to fine-tune and how clear its lead is.

    Args:
        ranking: The ranking that decides.
    """
    if not ranking.entries:
        return f"No decision: {ranking.name} has no score of any model."
    best = ranking.entries[0].model
    equal = ties(ranking)
    if len(ranking.entries) == 1:
        return f"Fine-tune {best}: the only model with a score of {ranking.name}; nothing to compare it with."
    if equal:
        return f"Fine-tune {_joined([best, *equal], 'or')}: by {ranking.name} they share the first place."
    return f"Fine-tune {best}: by {ranking.name} it {_lead(ranking)}."


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


def warnings(images: ImageSet, ranking: Ranking, candidates: Mapping[str, Candidate]) -> list[str]:
    """Return what a reader has to know before the decision, one sentence each.

    Args:
        images: The images that the features are of.
        ranking: The ranking that decides.
        candidates: Facts by model.
    """
    said = []
    upper = ranking.order[: len(ranking.order) // 2]
    controls = [name for name in upper if candidates[name].pretraining.startswith(_CONTROL)]
    if controls:
        said.append(f"An untrained control is in the upper half ({', '.join(controls)}): do not trust this score here.")
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    few = [name for name, count in zip(images.classes, counts.tolist(), strict=True) if count < FEW_IMAGES]
    if few:
        least = int(counts.min())
        said.append(
            f"{len(few)} of {len(images.classes)} classes have fewer than {FEW_IMAGES} images (the smallest {least}): "
            "scores of so few images vary much."
        )
    skipped = {item for candidate in candidates.values() for item in candidate.skipped}
    if skipped:
        said.append(f"{len(skipped)} image(s) could not be read and were skipped: {min(skipped)}")
    return said


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
