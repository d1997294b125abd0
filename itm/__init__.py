"""Implicit Transferability Modeling: which pre-trained vision model to fine-tune on your images."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm import data, dva, groundtruth, metrics, scorers
    from itm.cli.api import estimate
    from itm.core.errors import CheckpointError, DataError, FeatureError, ItmError, SettingError, StoreError
    from itm.core.features import Features
    from itm.data.image_set import load_images
    from itm.extraction.extract import extract
    from itm.extraction.store import FeatureStore
    from itm.groundtruth.finetuned import load_finetuned
    from itm.models.backbone import load_backbone
    from itm.ranking.ranking import Ranking, rank

__version__ = "0.1.0"

# Loaded on first use: torch alone takes longer to import than `import itm` may take.
_HOME = {
    "CheckpointError": "itm.core.errors",
    "DataError": "itm.core.errors",
    "FeatureError": "itm.core.errors",
    "FeatureStore": "itm.extraction.store",
    "Features": "itm.core.features",
    "ItmError": "itm.core.errors",
    "Ranking": "itm.ranking.ranking",
    "SettingError": "itm.core.errors",
    "StoreError": "itm.core.errors",
    "estimate": "itm.cli.api",
    "extract": "itm.extraction.extract",
    "load_backbone": "itm.models.backbone",
    "load_finetuned": "itm.groundtruth.finetuned",
    "load_images": "itm.data.image_set",
    "rank": "itm.ranking.ranking",
}
_PACKAGES = ("data", "dva", "groundtruth", "metrics", "scorers")

__all__ = [
    "CheckpointError",
    "DataError",
    "FeatureError",
    "FeatureStore",
    "Features",
    "ItmError",
    "Ranking",
    "SettingError",
    "StoreError",
    "data",
    "dva",
    "estimate",
    "extract",
    "groundtruth",
    "load_backbone",
    "load_finetuned",
    "load_images",
    "metrics",
    "rank",
    "scorers",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name in _PACKAGES:
        return importlib.import_module(f"itm.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'itm' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
