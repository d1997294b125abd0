"""Which classes are hard, by a linear probe that never saw the rows it judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from itm.core.errors import FeatureError
from itm.core.features import Features
from itm.core.splits import stratified_sample
from itm.scorers import LinearProbe
from itm.scorers.base import check

MOST_ROWS = 2000
"""Images of a seeded, stratified sample that the probe sees."""
MOST_PAIRS = 5


@dataclass(frozen=True)
class Confusion:
    """Images of one class that the probe takes for another one.

    Args:
        true: Name of their class.
        predicted: Name of the other class.
        images: Their number.
        share: Their share of the images of their class, 0 to 1.
    """

    true: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class Difficulty:
    """How well frozen features separate the classes.

    Args:
        model: The model whose features were judged.
        accuracy: Held-out accuracy in per cent by class, hardest first.
        images: Number of images by class.
        confused: Most confused pairs of classes, by number of images.
    """

    model: str
    accuracy: Mapping[str, float]
    images: Mapping[str, int]
    confused: Sequence[Confusion]

    @property
    def overall(self) -> float:
        """Held-out accuracy over all images, per cent."""
        hits = sum(self.accuracy[name] * count for name, count in self.images.items())
        return hits / sum(self.images.values())


def class_difficulty(model: str, features: Features, classes: Sequence[str], seed: int = 0) -> Difficulty | None:
    """Judge every image by a linear probe of the other folds.

    Args:
        model: Name of the model.
        features: Its features, with labels that index ``classes``.
        classes: Names of the classes.
        seed: Decides sample and folds.

    Returns:
        The accuracy by class; None where the probe cannot be fitted, as with one image of each class.
    """
    present = torch.unique(features.y)
    size = max(MOST_ROWS, len(present))
    rows = stratified_sample(features.y, size, seed)
    part = features if len(rows) == len(features.y) else features.take(rows)
    try:
        samples = check(model, part)
        predicted, _ = LinearProbe(seed=seed).out_of_fold(samples)
    except FeatureError:
        return None
    names = [classes[label] for label in present.tolist()]
    pairs = Counter(zip(samples.y.tolist(), predicted.tolist(), strict=True))
    counts = torch.bincount(samples.y, minlength=len(names)).tolist()
    accuracy = {name: 100 * pairs[label, label] / counts[label] for label, name in enumerate(names)}
    wrong = [(true, other, count) for (true, other), count in pairs.items() if true != other]
    wrong.sort(key=lambda one: (-one[2], one[0], one[1]))
    confused = [
        Confusion(names[true], names[other], count, count / counts[true]) for true, other, count in wrong[:MOST_PAIRS]
    ]
    hardest_first = dict(sorted(accuracy.items(), key=lambda item: item[1]))
    return Difficulty(model, hardest_first, dict(zip(names, counts, strict=True)), confused)
