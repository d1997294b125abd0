"""Transferability scores, one paper per file."""

from itm.scorers.base import Score, Scorer
from itm.scorers.itm import ITM

__all__ = ["ITM", "Score", "Scorer"]
