"""Transferability scores, one paper per file."""

from collections.abc import Mapping

from itm.scorers.base import Score, Scorer
from itm.scorers.combined import Combined
from itm.scorers.dcd import DCD
from itm.scorers.emms import EMMS
from itm.scorers.etran import ETran
from itm.scorers.gbc import GBC
from itm.scorers.hscore import HScore, RegularizedHScore
from itm.scorers.itm import ITM
from itm.scorers.knn import KNN
from itm.scorers.lead import LEAD
from itm.scorers.leep import LEEP
from itm.scorers.linear_probe import LinearProbe
from itm.scorers.logme import LogME
from itm.scorers.nce import NCE
from itm.scorers.ncti import NCTI
from itm.scorers.nleep import NLEEP
from itm.scorers.parc import PARC
from itm.scorers.ped import PED
from itm.scorers.sa import SA
from itm.scorers.sfda import SFDA
from itm.scorers.transrate import TransRate

BY_NAME: Mapping[str, type[Scorer]] = {
    cls.name: cls
    for cls in (
        ITM,
        LogME,
        NLEEP,
        LEEP,
        NCE,
        HScore,
        RegularizedHScore,
        TransRate,
        GBC,
        EMMS,
        PARC,
        SFDA,
        ETran,
        PED,
        SA,
        NCTI,
        LEAD,
        KNN,
        LinearProbe,
        Combined,
        DCD,
    )
}
"""Every scorer by the name that configs, tables and ``itm.rank`` use."""

__all__ = [
    "BY_NAME",
    "DCD",
    "EMMS",
    "GBC",
    "ITM",
    "KNN",
    "LEAD",
    "LEEP",
    "NCE",
    "NCTI",
    "NLEEP",
    "PARC",
    "PED",
    "SA",
    "SFDA",
    "Combined",
    "ETran",
    "HScore",
    "LinearProbe",
    "LogME",
    "RegularizedHScore",
    "Score",
    "Scorer",
    "TransRate",
]
