"""Random features for the tests of the scorers."""

from __future__ import annotations

import torch

from itm.core.features import Features
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
