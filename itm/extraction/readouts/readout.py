"""The contract of a readout, and the readout of pooled features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet
    from itm.models.backbone import Backbone


class Rows(NamedTuple):
    """Rows of a batch.

    Args:
        indices: Image of each row, int64, ``[n]``, ascending, each image of the batch at least once.
        x: Features, float, ``[n, D]``.
        y: Class of each row, int64, ``[n]``.
        logits: Output of the source head, ``[n, K]``, or None.
    """

    indices: Tensor
    x: Tensor
    y: Tensor
    logits: Tensor | None = None


class Readout(Protocol):
    """A readout with its settings."""

    @property
    def key(self) -> str:
        """The readout with its settings, part of the key of stored features; empty for pooled features."""

    def transform(self, backbone: Backbone) -> Callable[[Image.Image], Tensor]:
        """Return the transform from an image to the network's input, uint8 ``[3, H, W]``."""

    def transform_text(self, backbone: Backbone) -> str:
        """Return that transform in one line, also part of the key."""

    def read(self, backbone: Backbone, pixels: Tensor, images: ImageSet, indices: Sequence[int]) -> Rows:
        """Compute the rows of a batch.

        Args:
            backbone: The network, on the device of ``pixels``.
            pixels: The transformed images, uint8, ``[B, 3, H, W]``.
            images: The data set that the images are of.
            indices: Place of each image in it.
        """


@dataclass(frozen=True)
class Pooled:
    """One row per image: the features before the head, and the source logits."""

    @property
    def key(self) -> str:
        """Empty: keys of pooled features are older than the other readouts."""
        return ""

    def transform(self, backbone: Backbone) -> Callable[[Image.Image], Tensor]:
        """Return the network's own transform."""
        return backbone.transform

    def transform_text(self, backbone: Backbone) -> str:
        """Return the network's own transform in one line."""
        return backbone.transform_text

    def read(self, backbone: Backbone, pixels: Tensor, images: ImageSet, indices: Sequence[int]) -> Rows:
        """Compute features and source logits."""
        features, logits = backbone(pixels)
        rows = torch.tensor(indices, dtype=torch.int64)
        return Rows(rows, features, images.labels[rows], logits)


POOLED = Pooled()
"""The readout for classification."""
