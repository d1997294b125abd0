"""All models of a zoo on one dataset: their features, and facts of each for reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

from itm.core.devices import Precision
from itm.core.errors import DataError, FeatureError, ItmError, StoreError, WorkerError
from itm.core.features import Features
from itm.core.files import json_digest
from itm.core.progress import duration
from itm.data.image_set import ImageSet, load_from_settings
from itm.extraction.candidate import Candidate
from itm.extraction.extract import Extraction, extract
from itm.extraction.parts import GrowingSample, extract_sample
from itm.extraction.precision import choose_precision
from itm.extraction.readouts.conductance import Conductances
from itm.extraction.readouts.dense import Dense, MaskSettings
from itm.extraction.readouts.readout import POOLED, Readout
from itm.extraction.store import FeatureStore
from itm.extraction.stored_features import StoredFeatures
from itm.models.backbone import Backbone, load_backbone

ROWS = 20_000
"""Sampled pixels of all images together."""
PATIENCE = 2.0
"""Seconds between two checks of the models that other workers hold."""

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
        worker: Number of this worker, of several that share the models; None where no other one is expected. It does
            not decide the features, and equal settings may differ in it.
        images: The images in place of those that ``data`` names, where a Python program gives them.
        masks: Settings of :class:`itm.extraction.readouts.dense.MaskSettings`.
        conductance: Whether the conductance of each block is read off the networks, in place of features.
    """

    data: Mapping[str, Any]
    zoo: Mapping[str, Mapping[str, Any] | None]
    trainer: Mapping[str, Any]
    store: str
    seed: int
    worker: int | None = None
    images: ImageSet | None = None
    masks: Mapping[str, Any] = field(default_factory=dict)
    conductance: bool = False

    @classmethod
    def from_run(cls, run: Mapping[str, Any], images: ImageSet | None = None) -> ExtractionSettings:
        """Take them from the resolved settings of a run, and the images where these are loaded."""
        return cls(
            run["data"], run["zoo"], run["trainer"], str(run["store"]), run["seed"], run.get("worker"), images,
            run.get("masks") or {},
        )  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """The sha256 of the settings, in hexadecimal."""
        values: dict[str, Any] = {**asdict(replace(self, images=None)), "worker": None}
        if self.images is not None:
            values["images"] = self.images.fingerprint
        return json_digest([values, list(self.zoo)])  # the order of the models decides that of the result

    def load_images(self) -> ImageSet:
        """Load the images.

        Raises:
            DataError: If they are missing.
            SettingError: If a setting is wrong.
        """
        if self.images is not None:
            return self.images
        return load_from_settings(self.data, self.seed, limit=self.data["limit"])

    def readout(self, images: ImageSet) -> Readout:
        """Return what is read off a network: pooled features, or sampled pixels where the images have masks."""
        if self.conductance:
            return Conductances()
        if images.masks is None:
            return POOLED
        return Dense.for_images(images, self.data.get("rows") or ROWS, self.seed, MaskSettings(**self.masks))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtractionSettings) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


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
    extractor = PoolExtractor(settings)
    features = StoredFeatures(extractor.images, extractor.store)
    candidates: dict[str, Candidate] = {}
    for name, candidate, extraction in extractor.run(settings.zoo, extractor.all_images):
        candidates[name] = candidate
        features.add(name, extraction)
    return extractor.pool(features, candidates)


class PoolExtractor:
    """Extracts features model by model; a model that fails is named with its reason, and the others go on.

    Args:
        settings: What to extract.

    Attributes:
        images: The images.
        store: The store.
        readout: What is read off each network.
        failed: Reason by model, for each model without features.
    """

    def __init__(self, settings: ExtractionSettings) -> None:
        self.settings = settings
        self.images = settings.load_images()
        self.store = FeatureStore(settings.store)
        self.readout = settings.readout(self.images)
        self.failed: dict[str, str] = {}

    def run(
        self, models: Iterable[str], extract_model: Callable[[Backbone], Extraction]
    ) -> Iterator[tuple[str, Candidate, Extraction]]:
        """Load each model and extract its features; with workers, those that another worker extracts come last.

        Args:
            models: Names in the zoo.
            extract_model: Extracts the features of a backbone.

        Yields:
            Name, facts and extraction of each model that did not fail.
        """
        pending, total, done = list(models), len(list(models)), 0
        start = time.monotonic()
        while pending:
            held: list[str] = []
            for name in pending:
                with self._claim(name) as claimed:
                    found = self._extract(name, extract_model) if claimed else None
                if not claimed:
                    held.append(name)
                    continue
                done += 1
                if found is not None:
                    yield name, *found
                _log_progress(done, total, time.monotonic() - start)
            if held and len(held) == len(pending):
                time.sleep(PATIENCE)
            elif held:
                _log.info("Other workers hold %d of the models.", len(held))
            pending = held

    def all_images(self, backbone: Backbone) -> Extraction:
        """Extract the features of all images."""
        return self.extract(backbone, self.images, self._precision(backbone))

    def of_sample(self, sample: GrowingSample, number: int) -> Callable[[Backbone], Extraction]:
        """Return a function that extracts one of the growing samples, as :func:`extract_sample` does."""

        def extract_model(backbone: Backbone) -> Extraction:
            precision = self._precision(backbone)
            run = partial(self.extract, backbone, precision=precision)
            return extract_sample(backbone, sample, number, self.store, precision, run, self.readout)

        return extract_model

    def extract(self, backbone: Backbone, images: ImageSet, precision: Precision) -> Extraction:
        """Extract the features of some images with the settings of the run."""
        trainer = self.settings.trainer
        return extract(
            backbone,
            images,
            self.store,
            batch_size=trainer["batch_size"],
            workers=trainer["workers"],
            device=trainer["accelerator"],
            precision=precision,
            on_error=self.settings.data["on_error"],
            readout=self.readout,
        )

    def pool(self, features: StoredFeatures, candidates: Mapping[str, Candidate]) -> ExtractedPool:
        """Return the result in the order of the zoo.

        Raises:
            FeatureError: If no model gave features.
        """
        if not features:
            reasons = " ".join(dict.fromkeys(self.failed.values()))
            raise FeatureError(f"zoo: none of {len(self.failed)} models gave features. {reasons}")
        features.sort(self.settings.zoo)
        if count := len(features.leave_out_incomplete()):
            _log.warning("data.on_error=skip: %d image(s) that only some models could read are left out.", count)
        ordered = {name: candidates[name] for name in features}
        return ExtractedPool(self.images, features, ordered, self.failed)

    def _precision(self, backbone: Backbone) -> Precision:
        """Return the precision of a model's extraction, the same for all parts of the images."""
        chosen = str(self.settings.trainer["precision"])  # a command line gives the number 32
        if chosen == "auto":
            return choose_precision(
                backbone, self.images, self.store, self.settings.trainer["accelerator"], self.readout
            )
        return chosen  # type: ignore[return-value]  # extract refuses other words

    def _claim(self, name: str) -> AbstractContextManager[bool]:
        """Claim a model against the other workers; a single worker has every model."""
        settings = self.settings
        if settings.worker is None:
            return nullcontext(True)
        entry = settings.zoo[name] or {}
        return self.store.claim(
            json_digest([name, dict(entry), settings.trainer["precision"], self.images.fingerprint])
        )

    def _extract(
        self, name: str, extract_model: Callable[[Backbone], Extraction]
    ) -> tuple[Candidate, Extraction] | None:
        try:
            backbone = load_backbone(name, **(self.settings.zoo[name] or {}))
            _log.info("%s: %s", name, self.readout.transform_text(backbone))
            extraction = extract_model(backbone)
        except (DataError, StoreError, WorkerError):
            raise  # every other model would fail on the same image, disk or lack of memory
        except (ItmError, RuntimeError) as error:  # bad weights, or a forward pass that fails
            _log.error("%s: %s", name, error)
            self.failed[name] = f"{type(error).__name__}: {error}" if isinstance(error, RuntimeError) else str(error)
            return None
        return Candidate.from_backbone(backbone, extraction, self.readout), extraction


def _log_progress(number: int, total: int, seconds: float) -> None:
    """Log how many models are done and the time that the others will take at this speed."""
    if number < total:
        left = seconds / number * (total - number)
        _log.info("Model %d of %d extracted; about %s left.", number, total, duration(left))
