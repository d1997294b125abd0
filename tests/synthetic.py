"""Random features for the tests of the scorers, and images with masks."""

from __future__ import annotations

import numpy as np
import torch

from itm.core.features import Features
from itm.data.image_set import ImageSet
from itm.data.masks import IGNORE, Masks
from itm.scorers import Scorer


def noise(n: int, d: int, c: int, seed: int = 0) -> Features:
    """Features that know nothing of their labels; classes of nearly equal size."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n)[torch.randperm(n, generator=generator)] % c
    return Features(torch.randn(n, d, generator=generator, dtype=torch.float64), y)


def clusters(n: int, d: int, c: int, spread: float = 1.0, seed: int = 0) -> Features:
    """Gaussian classes around centers that lie ``spread`` apart per dimension."""
    blank = noise(n, d, c, seed)
    centers = spread * torch.randn(c, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return Features(blank.x + centers[blank.y], blank.y)


def one(scorer: Scorer, features: Features) -> float:
    """Score of a single model."""
    return scorer.score({"model": features})["model"]


def striped(count: int = 6, side: int = 24, seed: int = 0) -> ImageSet:
    """Images whose left part is dark and of class 0, whose right part is bright and of class 1, with ignored rows."""
    generator = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(count):
        border = int(generator.integers(6, side - 6))
        mask = np.zeros((side, side), dtype=np.uint8)
        mask[:, border:] = 1
        image = np.where(mask[..., None] == 1, 200, 40) + generator.integers(0, 30, (side, side, 3))
        mask[:2] = IGNORE
        images.append(image.astype(np.uint8))
        masks.append(mask)
    labels = torch.tensor([int((mask == 1).sum() > (mask == 0).sum()) for mask in masks])
    return ImageSet("striped", "train", ("dark", "bright"), labels, np.stack(images), masks=Masks(np.stack(masks)))
