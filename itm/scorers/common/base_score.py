"""Scores that other scores take after they have moved the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from itm.scorers.base import Samples, Score
from itm.scorers.logme import LogME
from itm.scorers.nleep import NLEEP
from itm.scorers.sfda import SFDA

Base = Literal["sfda", "logme", "nleep"]

_SEEDED: Mapping[str, type[SFDA | NLEEP]] = {"sfda": SFDA, "nleep": NLEEP}


def base_score(base: Base, seed: int, reference: bool) -> Callable[[Samples], Score]:
    """Return the function that scores moved rows.

    Args:
        base: Name of the score.
        seed: Of its folds or its mixture; LogME draws nothing.
        reference: Whether it reproduces the published code.
    """
    scorer = LogME(reference=reference) if base == "logme" else _SEEDED[base](seed=seed, reference=reference)
    return scorer.evaluate_one
