"""Transferability scores, one paper per file."""

from itm.scorers.base import Score, Scorer
from itm.scorers.emms import EMMS
from itm.scorers.gbc import GBC
from itm.scorers.hscore import HScore, RegularizedHScore
from itm.scorers.itm import ITM
from itm.scorers.leep import LEEP
from itm.scorers.logme import LogME
from itm.scorers.nce import NCE
from itm.scorers.nleep import NLEEP
from itm.scorers.parc import PARC
from itm.scorers.transrate import TransRate

__all__ = [
    "EMMS",
    "GBC",
    "ITM",
    "LEEP",
    "NCE",
    "NLEEP",
    "PARC",
    "HScore",
    "LogME",
    "RegularizedHScore",
    "Score",
    "Scorer",
    "TransRate",
]
