"""Implicit Transferability Modeling: which pre-trained vision model to fine-tune on your images."""

from itm.core.errors import ItmError
from itm.core.features import Features
from itm.ranking.ranking import Ranking, rank

__all__ = ["Features", "ItmError", "Ranking", "rank"]
__version__ = "0.1.0"
