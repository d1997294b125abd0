"""Masks that a linear probe of frozen features predicts for images whose pixels it was not fitted to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from itm.core.errors import FeatureError, ItmError
from itm.core.features import Features
from itm.core.splits import split_indices
from itm.data.masks import IGNORE
from itm.extraction.readouts.dense import whole_image
from itm.models.backbone import Backbone, load_backbone

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet

SHOWN = 4
"""Images with predicted masks."""
MOST_MODELS = 12
"""Models with predicted masks: the best ones."""

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties of which the probe takes the best."""

_ROWS_AT_ONCE = 2048
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MaskExamples:
    """Some images with their masks, and the masks that a probe of each model predicts.

    Args:
        images: The images, of which no pixel trained a probe.
        true: The mask of each, uint8 ``[H, W]``; :data:`itm.data.masks.IGNORE` marks pixels without a class.
        predicted: Masks by model, of the same sizes.
    """

    images: ImageSet
    true: Sequence[NDArray[np.uint8]]
    predicted: Mapping[str, Sequence[NDArray[np.uint8]]] = field(default_factory=dict)

    @property
    def classes(self) -> dict[int, str]:
        """Names of the classes in these masks, by number."""
        masks = [*self.true, *(mask for masks in self.predicted.values() for mask in masks)]
        present = sorted({int(label) for mask in masks for label in np.unique(mask)} - {IGNORE})
        return {label: self.images.classes[label] for label in present}


class _Products(NamedTuple):
    """Products of centred rows ``x`` and one-hot targets ``t``, float64.

    Args:
        mean: Mean of the features, ``[D]``.
        shares: Share of each class, ``[C]``.
        gram: ``x'x``, ``[D, D]``.
        moments: ``x't``, ``[D, C]``.
    """

    mean: Tensor
    shares: Tensor
    gram: Tensor
    moments: Tensor

    @classmethod
    def of(cls, features: Features, num_classes: int) -> _Products:
        """Add up the products of some rows at a time."""
        x, rows = features.x, len(features.y)
        chunks = torch.split(x, _ROWS_AT_ONCE)
        mean = torch.stack([part.double().sum(0) for part in chunks]).sum(0) / rows
        targets = F.one_hot(features.y, num_classes).double()
        shares = targets.mean(0)
        gram, moments = x.new_zeros(x.shape[1], x.shape[1]).double(), x.new_zeros(x.shape[1], num_classes).double()
        for part, wanted in zip(chunks, torch.split(targets, _ROWS_AT_ONCE), strict=True):
            centred = part.double() - mean
            gram += centred.T @ centred
            moments += centred.T @ (wanted - shares)
        return cls(mean, shares, gram, moments)


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """Ridge regression from features to one-hot classes.

    Args:
        weights: ``[C, D]``.
        bias: ``[C]``.
    """

    weights: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, features: Features, num_classes: int, penalty: float | None = None) -> RidgeProbe:
        """Fit the probe.

        Args:
            features: Rows with classes ``0..C-1``; a class without a row is not predicted.
            num_classes: Number of classes, ``C``.
            penalty: Weight of the squared weights of standardised features, per row; None takes the one of
                :data:`PENALTIES` that is right most often on a held-out fifth of the groups.
        """
        if penalty is None:
            penalty = _best_penalty(features, num_classes)
        return cls.solve(_Products.of(features, num_classes), penalty)

    @classmethod
    def solve(cls, products: _Products, penalty: float) -> RidgeProbe:
        """Solve the regression from the products of its rows."""
        variance = products.gram.diagonal()
        scale = variance.clamp_min(torch.finfo(torch.float64).eps * (1 + variance.max()))
        weights = torch.linalg.solve(products.gram + torch.diag(penalty * scale), products.moments).T
        absent = torch.where(products.shares > 0, 0.0, -torch.inf)
        return cls(weights.float(), (products.shares + absent - weights @ products.mean).float())

    def predict_masks(self, backbone: Backbone, images: ImageSet, layers: int = 1) -> list[NDArray[np.uint8]]:
        """Predict the class of every pixel of some images.

        The scores are computed at the cells of the feature maps and read between them by bilinear interpolation, which
        is the same as the probe of interpolated features.

        Args:
            backbone: The network that the features are of.
            images: Images with masks.
            layers: Layers whose features stand side by side, see :class:`itm.extraction.readouts.dense.Dense`.

        Returns:
            The classes at the size of each mask, uint8 ``[H, W]``.
        """
        transform, masks = whole_image(backbone), []
        with torch.inference_mode():
            for index in range(len(images)):
                pixels = transform(images.image(index))[None].to(backbone.mean.device)
                maps = backbone.feature_maps(pixels, layers)
                scores = self.score_maps([one.float().cpu() for one in maps], images.mask(index).shape)
                masks.append(scores.argmax(1)[0].to(torch.uint8).numpy())
        return masks

    def score_maps(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return the scores ``[B, C, H, W]`` of feature maps ``[B, D, h, w]``, whose features stand side by side."""
        widths = [one.shape[1] for one in maps]
        scores = self.bias.nan_to_num(neginf=torch.finfo(torch.float32).min / 4)[:, None, None]
        for weights, one in zip(torch.split(self.weights, widths, dim=1), maps, strict=True):
            own = torch.einsum("cd,bdhw->bchw", weights, one)
            scores = scores + F.interpolate(own, size=tuple(size), mode="bilinear", align_corners=False)
        return scores


def _best_penalty(features: Features, num_classes: int) -> float:
    """Return the penalty that is right most often on a held-out fifth of the groups."""
    try:
        train, held = split_indices(features.y, 0.8, 0, features.groups)
    except FeatureError:  # a single image
        return PENALTIES[0]
    products, rest = _Products.of(features.take(train), num_classes), features.take(held)

    def hits(penalty: float) -> int:
        probe = RidgeProbe.solve(products, penalty)
        return int(((rest.x.float() @ probe.weights.T + probe.bias).argmax(1) == rest.y).sum())

    return max(PENALTIES, key=hits)


def predict_examples(
    features: Mapping[str, Features],
    order: Sequence[str],
    images: ImageSet,
    zoo: Mapping[str, Mapping[str, Any] | None],
    layers: int = 1,
) -> MaskExamples | None:
    """Predict the masks of a few images by a probe of each model that is fitted to the pixels of the others.

    A model whose network or probe fails has no masks, with a warning in the log.

    Args:
        features: Sampled pixels by model, of ``images``.
        order: Names of the models, best first; the first :data:`MOST_MODELS` are shown.
        images: All images, with masks.
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by the model's name.
        layers: Layers whose features stand side by side.

    Returns:
        The examples; None where there are fewer than two images.
    """
    sampled = features[order[0]]
    groups = images.groups if images.groups is not None else torch.arange(len(images))
    shown = varied_groups(sampled, min(SHOWN, len(torch.unique(groups)) - 1))
    if not len(shown):
        return None
    chosen = images.select([int(torch.nonzero(groups == group)[0]) for group in shown.tolist()])
    predicted = {}
    for name in order[:MOST_MODELS]:
        try:
            known = features[name]
            assert known.groups is not None
            probe = RidgeProbe.fit(known.take(~torch.isin(known.groups, shown)), len(images.classes))
            predicted[name] = probe.predict_masks(load_backbone(name, **(zoo[name] or {})), chosen, layers)
        except (ItmError, RuntimeError) as error:
            _log.warning("%s: no predicted masks (%s).", name, error)
    return MaskExamples(chosen, [chosen.mask(index) for index in range(len(chosen))], predicted)


def varied_groups(features: Features, count: int) -> Tensor:
    """Choose groups that together show as many classes as they can: each adds the most classes, or else has the most.

    Args:
        features: Rows with groups.
        count: Number of groups.

    Returns:
        The groups, int64 ``[count]``.
    """
    assert features.groups is not None
    groups, members = torch.unique(features.groups, return_inverse=True)
    present = torch.zeros(len(groups), int(features.y.max()) + 1, dtype=torch.bool)
    present[members, features.y] = True
    shown, left = torch.zeros(present.shape[1], dtype=torch.bool), present.sum(1).float()
    chosen: list[int] = []
    for _ in range(min(count, len(groups))):
        added = (present & ~shown).sum(1) * (present.shape[1] + 1) + left
        best = int(added.argmax())
        chosen.append(best)
        shown |= present[best]
        present[best], left[best] = False, -torch.inf
    shown_groups: Tensor = groups[torch.tensor(chosen, dtype=torch.int64)]
    return shown_groups
