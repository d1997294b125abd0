"""Random views of a batch of small images, drawn per image on the device of the batch.

Views are not mirrored: a mirrored letter is another letter, or not a letter. Views may be inverted: a glyph keeps its
shape when ink and paper are swapped.
"""

from __future__ import annotations

from typing import cast

import kornia.augmentation as K
from torch import Tensor, nn

MEAN, STD = 0.5, 0.5
"""The input of networks is ``(pixel / 255 - MEAN) / STD``, in [-1, 1]."""


def normalize(images: Tensor) -> Tensor:
    """Scale uint8 images ``[B, 3, H, W]`` to the range of the networks' input."""
    return (images.float() / 255 - MEAN) / STD


class RandomViews(nn.Module):
    """Random crops and colour changes at the original size; uses torch's global generator.

    Args:
        size: Side of the images, pixels.
        scale: Range of the crop's share of the area.
        brightness: Largest relative change of the brightness.
        contrast: Largest relative change of the contrast.
        saturation: Largest relative change of the saturation; with ``hue`` as slow as all other changes together.
        hue: Largest rotation of the hue, in turns.
        grayscale: Probability of a grey view.
        blur: Probability of a slight blur.
        invert: Probability of an inverted view.
    """

    def __init__(
        self,
        size: int = 32,
        *,
        scale: tuple[float, float] = (0.3, 1.0),
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.0,
        hue: float = 0.0,
        grayscale: float = 0.0,
        blur: float = 0.0,
        invert: float = 0.2,
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = [K.RandomResizedCrop((size, size), scale=tuple(scale), ratio=(0.8, 1.25))]
        if brightness or contrast or saturation or hue:
            steps.append(K.ColorJitter(brightness, contrast, saturation, hue, p=0.8))
        steps += [K.RandomGrayscale(p=grayscale)] if grayscale else []
        steps += [K.RandomGaussianBlur((3, 3), (0.1, 1.0), p=blur)] if blur else []
        steps += [K.RandomInvert(p=invert)] if invert else []
        self.steps = nn.Sequential(*steps)

    def forward(self, images: Tensor) -> Tensor:
        """Return one view of each image.

        Args:
            images: uint8, ``[B, 3, H, W]``.

        Returns:
            float32 in [-1, 1], ``[B, 3, size, size]``.
        """
        views = cast(Tensor, self.steps(images.float() / 255))
        return (views - MEAN) / STD
