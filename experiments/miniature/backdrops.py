"""Random backgrounds for drawings: a gradient of two colours with enough contrast to the drawing."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIZE = 32
"""Width and height of every image, in pixels."""

CONTRAST = 70.0
"""Smallest difference in luminance between backdrop and drawing, on a scale of 0 to 255."""

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_NOISE = 4.0


def generator_of(seed: int, key: str) -> np.random.Generator:
    """Return a generator that depends only on the seed and the key, not on the images drawn before."""
    return np.random.default_rng([seed, zlib.crc32(key.encode())])


def compose(colour: ArrayLike, opacity: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Compose a drawing and a random backdrop.

    Args:
        colour: Colour of the drawing, 0 to 255, ``[3]`` or ``[SIZE, SIZE, 3]``.
        opacity: Opacity of the drawing, 0 to 1, ``[SIZE, SIZE]``; above 0 somewhere.
        generator: Draws the backdrop.

    Returns:
        The image, uint8, ``[SIZE, SIZE, 3]``.
    """
    alpha = opacity[..., None]
    drawing = np.broadcast_to(np.asarray(colour, float), (SIZE, SIZE, 3))
    mean = (alpha * drawing).sum((0, 1)) / alpha.sum()
    image: NDArray[np.float64] = np.rint(alpha * drawing + (1 - alpha) * _backdrop(mean, generator))
    return image.astype(np.uint8)


def _backdrop(colour: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return a noisy gradient, darker than a bright drawing and brighter than a dark one, ``[SIZE, SIZE, 3]``."""
    luminance = float(colour @ _LUMINANCE)
    candidates = generator.uniform(0, 255, (128, 3))
    distance = candidates @ _LUMINANCE - luminance
    if luminance >= 127.5:
        distance = -distance
    order = np.argsort(distance < CONTRAST, kind="stable")  # those with enough contrast first, in random order
    first, second = candidates[order[:2]]
    angle = generator.uniform(0, 2 * np.pi)
    place = np.linspace(-0.5, 0.5, SIZE)
    along = place[:, None] * np.sin(angle) + place[None, :] * np.cos(angle)
    share = (along - along.min()) / np.ptp(along)
    ground = first + share[..., None] * (second - first)
    noisy: NDArray[np.float64] = np.clip(ground + generator.normal(0, _NOISE, ground.shape), 0, 255)
    return noisy
