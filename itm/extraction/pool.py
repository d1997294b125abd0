"""All models of a zoo on one dataset: their features, and facts of each for reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from itm.core.errors import DataError, FeatureError, ItmError, StoreError, WorkerError
from itm.core.features import Features
from itm.core.files import json_digest
from itm.core.progress import duration
from itm.data.image_set import ImageSet, load_images
from itm.extraction.extract import Extraction, extract
from itm.extraction.store import FeatureStore
from itm.models.backbone import Backbone, load_backbone

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ExtractionSettings:
    """Settings of a run that decide its features. Equal settings are equal and have one hash.

    Args:
        data: Settings ``data`` of ``configs/estimate.yaml``.
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by the model's name.
        trainer: Settings ``trainer``: accelerator, precision, batch_size, workers.
        store: Folder of the feature store.
        seed: Seed of the split and of the sample.
    """

    data: Mapping[str, Any]
    zoo: Mapping[str, Mapping[str, Any] | None]
    trainer: Mapping[str, Any]
    store: str
    seed: int

    @classmethod
    def from_run(cls, run: Mapping[str, Any]) -> ExtractionSettings:
        """Take them from the resolved settings of a run."""
        return cls(run["data"], run["zoo"], run["trainer"], str(run["store"]), run["seed"])

    @cached_property
    def digest(self) -> str:
        """The sha256 of the settings, in hexadecimal."""
        return json_digest([asdict(self), list(self.zoo)])  # the order of the models decides that of the result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtractionSettings) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True)
class Candidate:
    """Facts of one model that a report shows beside its score.

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

    @classmethod
    def from_backbone(cls, backbone: Backbone, extraction: Extraction) -> Candidate:
        """Collect the facts of a backbone and of its extraction."""
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


@dataclass(frozen=True, eq=False)
class ExtractedPool:
    """Result of :func:`extract_pool`.

    Args:
        images: The images.
        features: Features by model.
        candidates: Facts by model.
        failed: Reason by model, for each model without features.
    """

    images: ImageSet
    features: Mapping[str, Features]
    candidates: Mapping[str, Candidate]
    failed: Mapping[str, str]


@lru_cache(maxsize=2)  # the jobs of a multirun share one extraction, and one of source data
def extract_pool(settings: ExtractionSettings) -> ExtractedPool:
    """Extract the features of every model of a zoo; a model that fails is named with its reason, and the others go on.

    Raises:
        DataError: If an image cannot be read and ``data.on_error`` is ``stop``.
        FeatureError: If no model gave features.
        StoreError: If the store cannot be read or written.
        WorkerError: If decoding processes died twice in the extraction of a model.
    """
    data = settings.data
    images = load_images(
        str(data["name"]),
        root=None if data["root"] is None else Path(str(data["root"])),
        seed=settings.seed,
        limit=data["limit"],
        range=data.get("range"),
        bands=data.get("bands"),
    )
    features: dict[str, Features] = {}
    candidates: dict[str, Candidate] = {}
    failed: dict[str, str] = {}
    start = time.monotonic()
    for number, (name, entry) in enumerate(settings.zoo.items(), start=1):
        try:
            backbone = load_backbone(name, **(entry or {}))
            _log.info("%s: %s", name, backbone.transform_text)
            done = _extract(backbone, images, settings)
        except (DataError, StoreError, WorkerError):
            raise  # every other model would fail on the same image, disk or lack of memory
        except (ItmError, RuntimeError) as error:  # bad weights, or a forward pass that fails
            _log.error("%s: %s", name, error)
            failed[name] = f"{type(error).__name__}: {error}" if isinstance(error, RuntimeError) else str(error)
        else:
            features[name] = done.features
            candidates[name] = Candidate.from_backbone(backbone, done)
        _log_progress(number, len(settings.zoo), time.monotonic() - start)
    if not features:
        reasons = " ".join(dict.fromkeys(failed.values()))
        raise FeatureError(f"zoo: none of {len(failed)} models gave features. {reasons}")
    return ExtractedPool(images, features, candidates, failed)


def _log_progress(number: int, total: int, seconds: float) -> None:
    """Log how many models are done and the time that the others will take at this speed."""
    if number < total:
        left = seconds / number * (total - number)
        _log.info("Model %d of %d extracted; about %s left.", number, total, duration(left))


def _extract(backbone: Backbone, images: ImageSet, settings: ExtractionSettings) -> Extraction:
    trainer = settings.trainer
    return extract(
        backbone,
        images,
        FeatureStore(settings.store),
        batch_size=trainer["batch_size"],
        workers=trainer["workers"],
        device=trainer["accelerator"],
        precision=trainer["precision"],
        on_error=settings.data["on_error"],
    )
