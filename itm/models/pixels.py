"""The colours of an image as features: a baseline without a network, above all for segmentation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from itm.models.pretraining import NO_WEIGHTS

RAW_RGB = "raw_rgb"
"""Name of the model."""


class RawRgb:
    """The model ``raw_rgb``: its feature map is the image itself, its features are the mean colour.

    Args:
        model: Its name.
        setting: The setting as the user typed it, for messages.
    """

    name = RAW_RGB
    resizable = False
    size_argument = "img_size"
    hub = "no weight file"
    license = NO_WEIGHTS
    pretraining = "none (the colours themselves)"
    pooling: str | None = None
    classifiers: tuple[str, ...] = ()

    def __init__(self, model: str, setting: str) -> None:
        self.preprocessing: dict[str, Any] = {
            "input_size": (3, 128, 128),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }

    def pretrained(self) -> dict[str, Tensor]:
        """Return no weights: there are none."""
        return {}

    def build(self, num_classes: int, **arguments: Any) -> nn.Module:
        """Build the module without weights."""
        return Colours()

    def finish(self, net: nn.Module, has_head: bool) -> nn.Module:
        """Return the module."""
        return net


class Colours(nn.Module):
    """A network that hands its input on, with timm's interface."""

    global_pool = "avg"
    num_features = 3

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the images ``[B, 3, H, W]``."""
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the mean colour, ``[B, 3]``."""
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean colour, ``[B, 3]``."""
        return self.forward_head(images)

    def get_classifier(self) -> nn.Module:
        """Return a layer without weights."""
        return nn.Identity()
