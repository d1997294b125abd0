"""Seeds that are derived from other seeds."""

from __future__ import annotations

import numpy as np

_WORD = 2**64


def derive_seed(*numbers: int) -> int:
    """Mix integers, such as a seed and an epoch, into one seed; neighbouring integers give unrelated streams."""
    words = [number % _WORD for number in numbers]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
