"""Random views of a batch of small images, on the batch's own device; each image draws its own.

Nothing is mirrored: a mirrored letter is another letter or none. What a glyph keeps when ink and paper change places is
its shape, so views may swap them.
"""

from __future__ import annotations

from typing import cast

import kornia.augmentation as K
from torch import Tensor, nn

MEAN, STD = 0.5, 0.5
"""What networks see is ``(pixel / 255 - MEAN) / STD``: values in [-1, 1]."""


def normalize(images: Tensor) -> Tensor:
    """Bring uint8 images ``[B, 3, H, W]`` to the range that networks are trained on."""
    return (images.float() / 255 - MEAN) / STD


class RandomViews(nn.Module):
    """Views of a batch: crops in other colours, at the images' own size. Draws from torch's generator.

    Args:
        size: Side of the images, pixels.
        scale: Share of the area that a crop takes.
        brightness: Largest change of the brightness, a share of it.
        contrast: Largest change of the contrast, a share of it.
        saturation: Largest change of the saturation, a share of it; with ``hue``, as costly as all the rest together.
        hue: Largest turn of the colour circle, in turns.
        grayscale: Probability of losing the colours.
        blur: Probability of a slight blur.
        invert: Probability of the negative.
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
        """Make one view of each image.

        Args:
            images: uint8, ``[B, 3, H, W]``.

        Returns:
            float32 in [-1, 1], ``[B, 3, size, size]``.
        """
        views = cast(Tensor, self.steps(images.float() / 255))
        return (views - MEAN) / STD
