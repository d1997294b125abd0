"""Record of a race: where each model stood in each round, and what the race cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from itm.extraction.candidate import Candidate


@dataclass(frozen=True)
class Standing:
    """One model at the end of one round.

    Args:
        round: Number of the round, from 1.
        images: Images that the round's models have seen.
        model: Its name.
        score: Regularised H-score on the images of the round.
        behind: Distance to the score of the round's best model; 0 for that model.
        error: Standard error of that distance, from paired scores on parts of the images.
        probability: Probability of being behind that model; one half for that model.
        reason: Why the model was dropped; empty where it goes on.
        passes: Image passes of all models up to the end of the round.
    """

    round: int
    images: int
    model: str = ""
    score: float = 0.0
    behind: float = 0.0
    error: float = 0.0
    probability: float = 0.5
    reason: str = ""
    passes: int = 0

    @property
    def when(self) -> str:
        """The round and its images, in words."""
        return f"round {self.round} ({self.images} images)"


@dataclass(frozen=True)
class RaceResult:
    """Result of a race: the dropped models with round and reason, and the cost.

    Args:
        standings: The models of each round, best first.
        passes: Image passes of the race.
        full_passes: Image passes of a run without a race.
        notes: Sentences on rounds that dropped nothing and on settings that were changed.
        candidates: Facts of the dropped models.
    """

    standings: Sequence[Standing]
    passes: int
    full_passes: int
    notes: Sequence[str] = ()
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    @property
    def dropped(self) -> dict[str, Standing]:
        """The last standing of each dropped model; those that went furthest come first."""
        out = [standing for standing in self.standings if standing.reason]
        return {one.model: one for one in sorted(out, key=lambda one: (-one.round, -one.score))}

    def sentences(self) -> list[str]:
        """Return the notes, the reason of each dropped model, and the cost."""
        out = [f"dropped: {model}: {one.when}, {one.reason}" for model, one in self.dropped.items()]
        cost = f"{self.passes:,} of the {self.full_passes:,} image passes of a run without a race"
        return [*self.notes, *out, f"race: {len(out)} models dropped; {cost} ({self.passes / self.full_passes:.0%})"]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "passes": self.passes,
            "full_passes": self.full_passes,
            "notes": list(self.notes),
            "rounds": [asdict(standing) for standing in self.standings],
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per round and model, as in :class:`Standing`."""
        columns = list(Standing.__dataclass_fields__)
        return pd.DataFrame([vars(standing) for standing in self.standings], columns=columns)
