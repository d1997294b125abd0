"""A zoo's models on one dataset: features of each, and what there is to say of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from itm.core.errors import DataError, FeatureError, ItmError, StoreError, WorkerError
from itm.core.features import Features
from itm.data.image_set import ImageSet, load_images
from itm.extraction.extract import Extraction, extract
from itm.extraction.store import FeatureStore
from itm.models.backbone import Backbone, load_backbone

SETTINGS = ("data", "zoo", "trainer", "store", "seed")
"""Settings of a run that decide its features: what :func:`features_of_zoo` takes, and remembers by."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """What a report says of one model beside its score.

    Args:
        parameters: Number of parameters without the source head.
        input_size: Side of the network's input, pixels.
        dim: Width of its features.
        pooling: How patches or positions become one feature.
        transform: The transform in words.
        pretraining: What it was trained on before.
        license: Licence of its weights.
        source_accuracy: ImageNet top-1, percent, where known.
        seconds: Seconds of extraction, of the original one where the features were stored.
        images_per_second: Speed of that extraction.
        cached: Whether the features came from the store.
        skipped: Images that could not be read, with the reason.
    """

    parameters: int
    input_size: int
    dim: int
    pooling: str
    transform: str
    pretraining: str
    license: str
    source_accuracy: float | None
    seconds: float
    images_per_second: float
    cached: bool
    skipped: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        """The name by which the priors know :attr:`parameters`."""
        return self.parameters

    @classmethod
    def of(cls, backbone: Backbone, extraction: Extraction) -> Candidate:
        """The facts of a backbone and of the extraction through it."""
        return cls(
            parameters=backbone.num_parameters,
            input_size=backbone.input_size,
            dim=backbone.dim,
            pooling=backbone.pooling,
            transform=backbone.transform_text,
            pretraining=backbone.pretraining,
            license=backbone.license,
            source_accuracy=backbone.source_accuracy,
            seconds=extraction.seconds,
            images_per_second=extraction.images_per_second,
            cached=extraction.cached,
            skipped=extraction.skipped,
        )


@lru_cache(maxsize=2)  # the jobs of a multirun share one extraction, and one of source data
def features_of_zoo(settings: str) -> tuple[ImageSet, dict[str, Features], dict[str, Candidate], dict[str, str]]:
    """Features of every model of a zoo; a model that fails is named with its reason, and the others go on.

    Args:
        settings: JSON of a run's :data:`SETTINGS`, in their order.

    Returns:
        The images, and by model its features, its facts, or the reason why it has none.

    Raises:
        DataError: If an image cannot be read and ``data.on_error`` is ``stop``.
        FeatureError: If no model gave features.
        StoreError: If the store cannot be read or written.
        WorkerError: If decoding processes died twice in the extraction of a model.
    """
    cfg = json.loads(settings)
    data = cfg["data"]
    root = None if data["root"] is None else Path(str(data["root"]))
    pixels = {"range": data.get("range"), "bands": data.get("bands")}
    images = load_images(str(data["name"]), root=root, seed=cfg["seed"], limit=data["limit"], **pixels)
    pool, candidates, failed = {}, {}, {}
    for name, spec in cfg["zoo"].items():
        try:
            backbone = load_backbone(name, **(spec or {}))
            _log.info("%s: %s", name, backbone.transform_text)
            done = _extract(backbone, images, cfg)
        except (DataError, StoreError, WorkerError):
            raise  # every other model would stumble on the same image, disk or lack of memory
        except (ItmError, RuntimeError) as error:  # bad weights, or a forward pass that fails
            _log.error("%s: %s", name, error)
            failed[name] = f"{type(error).__name__}: {error}" if isinstance(error, RuntimeError) else str(error)
        else:
            pool[name] = done.features
            candidates[name] = Candidate.of(backbone, done)
    if not pool:
        reasons = " ".join(dict.fromkeys(failed.values()))
        raise FeatureError(f"zoo: none of {len(failed)} models gave features. {reasons}")
    return images, pool, candidates, failed


def _extract(backbone: Backbone, images: ImageSet, cfg: Mapping[str, Any]) -> Extraction:
    trainer = cfg["trainer"]
    return extract(
        backbone,
        images,
        FeatureStore(str(cfg["store"])),
        batch_size=trainer["batch_size"],
        workers=trainer["workers"],
        device=trainer["accelerator"],
        precision=trainer["precision"],
        on_error=cfg["data"]["on_error"],
    )
