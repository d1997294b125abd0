"""Rankings and candidates by hand, for the tests of reports."""

from __future__ import annotations

from itm.extraction.candidate import Candidate
from itm.ranking.ranking import Entry, Ranking
from itm.ranking.recommend import Recommendation
from itm.scorers import ITM
from itm.scorers.base import Score


def ranking(scorer=None, failed=None, curve=False, **runs) -> Ranking:
    """A ranking with these scores by model, one per seed."""
    details = {"n": 3, "curve": {5: 0.2, 10: 0.4}, "losses": {5: 1.0, 10: 0.5}} if curve else {}
    entries = [Entry(model, tuple(Score(value, 0.5, details) for value in values)) for model, values in runs.items()]
    return Ranking(scorer or ITM(), tuple(sorted(entries, key=lambda entry: -entry.score)), failed or {})


def recommended(one: Ranking, warnings: tuple[str, ...] = (), **chances) -> Recommendation:
    """The first model of a ranking as the recommendation, with these probabilities."""
    return Recommendation(one.order[0], one.name, chances, warnings=warnings, unknown="" if chances else "No spread.")


def candidate(**facts) -> Candidate:
    known = {
        "parameters": 1_000_000, "input_size": 32, "dim": 8, "pooling": "gap", "transform": "crop", "license": "MIT",
        "pretraining": "none", "source_accuracy": None, "seconds": 1.0, "images_per_second": 9.0, "cached": False,
    }  # fmt: skip
    return Candidate(**{**known, **facts})
