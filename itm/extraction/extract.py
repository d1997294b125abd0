"""From images to features through one backbone: resumable shard by shard, and nothing that is stored is done again."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from itm.core.devices import DTYPES, Precision, check_device
from itm.core.errors import DataError, SettingError, StoreError, WorkerError, unknown
from itm.core.features import Features
from itm.core.parallel import default_workers
from itm.core.progress import show_progress
from itm.core.settings import OnError
from itm.extraction.loader import DecodedBatch, decode_batches, worker_errors
from itm.extraction.readouts.readout import POOLED, Readout, Rows
from itm.extraction.store import FeatureKey, FeatureStore, Shard

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet
    from itm.models.backbone import Backbone

Span = tuple[int, int]  # first image of a shard, one past its last

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Extraction:
    """Features of one backbone on one dataset, and what it took to get them.

    Args:
        features: Rows of the images that could be read, in the dataset's order: one each, or its sampled pixels.
        seconds: Wall-clock time of the extraction; of the original one where the features come from the store.
        images_per_second: Speed of that extraction.
        cached: Whether the store held everything, so that no image was read.
        key: Key of the features in the store.
        rows: Image of each row, int64, ``[N]``.
        skipped: File and reason of each image that could not be read.
    """

    features: Features
    seconds: float
    images_per_second: float
    cached: bool
    key: FeatureKey
    rows: Tensor
    skipped: tuple[str, ...] = ()


def extract(
    backbone: Backbone,
    images: ImageSet,
    store: FeatureStore,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "cpu",
    precision: Precision = "32",
    on_error: OnError = "stop",
    progress: bool = True,
    readout: Readout = POOLED,
) -> Extraction:
    """Compute the features of every image, or read them from the store.

    What the store holds is not computed again: after a kill, an error or damage to a file only the missing shards are.
    The backbone is put into evaluation mode and moved to the device, its convolutions to the channels-last layout.

    Args:
        backbone: The network with its own transform.
        images: One split of one dataset.
        store: Where the features are kept.
        batch_size: Images per forward pass; a batch does not reach over the end of a shard.
        workers: Processes that decode images while the network runs; 0 decodes each batch before its forward pass, on
            one thread per core. None takes 0 on the CPU, where a network beside other processes waits for them more
            than it gains, and with a GPU one per core but one, at most 16.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:<number>"`` or ``"mps"`` (Apple's GPUs).
        precision: ``"32"``, or mixed precision with ``"bf16"`` or ``"16"``. Features are float32 in any case.
        on_error: What an image that cannot be read does: ``"stop"`` the extraction, or ``"skip"`` its row.
        progress: Whether to show a progress bar; without a terminal the log has lines instead.
        readout: What is read off the network.

    Raises:
        SettingError: If a setting cannot take its value on this machine.
        WorkerError: If decoding processes died twice; finished shards are kept.
        DataError: If an image cannot be read and ``on_error`` is ``"stop"``, or if none can be read.
        StoreError: If the store cannot be read or written.
    """
    precision = str(precision)  # type: ignore[assignment]  # YAML and command lines give the number 32
    if workers is None:
        workers = default_workers(device)
    _check_settings(batch_size, workers, device, precision, on_error)
    key, total = feature_key(backbone, images, precision, readout), len(images)
    shards = store.read(key, total)
    if on_error == "stop":  # an image that was skipped once must be read now, or stop this extraction
        shards = {start: shard for start, shard in shards.items() if not shard.skipped}
    spans = store.spans(total)
    cached = all(start in shards for start, _ in spans)
    if not cached:
        store.prepare(key, total, shards.values())
        run = _Run(backbone, images, batch_size, workers, device, precision, on_error, progress, readout)
        lost = ""
        try:
            run.fill(shards, spans, store, key)
        except WorkerError as error:
            lost = str(error)
        if lost:
            _log.warning("%s: %s The missing images are read once more.", backbone.name, lost)
            gc.collect()  # ends the old loader; torch would report its dead worker again
            run.fill(shards, spans, store, key)
    return _assemble(backbone, images, key, [shards[start] for start, _ in spans], cached=cached)


def feature_key(backbone: Backbone, images: ImageSet, precision: str, readout: Readout = POOLED) -> FeatureKey:
    """Return the key under which the store keeps the features of a backbone on some images."""
    return FeatureKey(
        model=backbone.model,
        weights=backbone.weights_digest,
        transform=readout.transform_text(backbone),
        pooling=backbone.pooling,
        precision=precision,
        fingerprint=images.fingerprint,
        name=backbone.name,
        dataset=images.name,
        split=images.split,
        readout=readout.key,
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """The extraction of what is missing, with the settings of :func:`extract`."""

    backbone: Backbone
    images: ImageSet
    batch_size: int
    workers: int
    device: str
    precision: str
    on_error: str
    progress: bool
    readout: Readout

    def fill(self, shards: dict[int, Shard], spans: Sequence[Span], store: FeatureStore, key: FeatureKey) -> None:
        """Extract the shards that are missing, write each one and add it to ``shards``.

        Raises:
            WorkerError: If a decoding process died; the shards that were written are kept.
        """
        missing = [span for span in spans if span[0] not in shards]
        # closing ends the progress bar also when a write fails
        with worker_errors(self.workers), closing(self.shards(missing)) as extracted:
            for shard in extracted:
                shards[shard.start] = store.write(key, shard)
                store.describe(key, len(self.images), shards.values())

    def shards(self, spans: Sequence[Span]) -> Generator[Shard, None, None]:
        """Extract the shards one after the other."""
        clock, size = time.perf_counter(), self.batch_size
        rows = [range(i, min(i + size, stop)) for start, stop in spans for i in range(start, stop, size)]
        # The workers start before the progress bar does: its thread is better not there when processes fork.
        batches = decode_batches(
            self.images,
            self.readout.transform(self.backbone),
            rows,
            workers=self.workers,
            pin_memory=self.device != "cpu",
        )
        self.backbone.eval().to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        total, name = len(self.images), f"{self.backbone.name}, {self.images.name}"
        with show_progress(name, total, self.progress) as advance:
            advance(total - sum(stop - start for start, stop in spans))
            for start, stop in spans:
                own = islice(batches, math.ceil((stop - start) / size))
                shard = self._shard(start, stop, own, advance)
                now = time.perf_counter()
                yield replace(shard, seconds=now - clock)
                clock = now

    def _shard(self, start: int, stop: int, batches: Iterator[DecodedBatch], advance: Callable[[int], None]) -> Shard:
        skipped: dict[int, str] = {}
        read: list[Rows] = []
        for batch in batches:
            if batch.errors and self.on_error == "stop":
                reason = next(iter(batch.errors.values()))
                raise DataError(f"{reason} Fix or remove the file, or leave such images out: data.on_error=skip.")
            if batch.indices:
                rows = partial(self.readout.read, self.backbone, images=self.images, indices=batch.indices)
                read.append(forward(rows, batch.images, self.device, self.precision))
            skipped |= batch.errors
            advance(len(batch.indices) + len(batch.errors))
        # Outside inference mode, so that autograd may use the result; and one copy from the device per shard.
        logits = [rows.logits for rows in read if rows.logits is not None]
        none = torch.empty(0, dtype=torch.int64)
        return Shard(
            start,
            stop,
            torch.cat([none, *(rows.indices for rows in read)]),
            torch.cat([rows.x for rows in read]).cpu() if read else torch.empty(0, self.backbone.dim),
            torch.cat([none, *(rows.y for rows in read)]),
            torch.cat(logits).cpu() if logits else None,
            skipped,
        )


def forward(read: Callable[[Tensor], Rows], images: Tensor, device: str, precision: str) -> Rows:
    """Return what a readout reads off some decoded images, on the device, float32.

    Args:
        read: The readout of a network that is on the device.
        images: The decoded images, uint8, ``[B, 3, H, W]``.
        device: The device.
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
    """
    autocast = torch.autocast(torch.device(device).type, dtype=DTYPES.get(precision), enabled=precision in DTYPES)
    with torch.inference_mode(), autocast:
        rows = read(images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last))
        return rows._replace(x=rows.x.float(), logits=None if rows.logits is None else rows.logits.float())


def is_stored(images: ImageSet, store: FeatureStore, key: FeatureKey) -> bool:
    """Return whether the store holds all features of a key, undamaged."""
    return len(store.read(key, len(images))) == len(store.spans(len(images)))


def read_features(images: ImageSet, store: FeatureStore, key: FeatureKey) -> Features:
    """Read features that an earlier :func:`extract` stored.

    Raises:
        StoreError: If some were removed or damaged since.
    """
    shards = store.read(key, len(images))
    if len(shards) < len(store.spans(len(images))):
        raise StoreError(
            f"store={store.root}: {store.folder(key).name} was removed or damaged during the run; repeat the command."
        )
    return _gather(images, list(shards.values()))[0]


def _gather(images: ImageSet, shards: Sequence[Shard]) -> tuple[Features, Tensor]:
    """Return the features of all shards, and the image of each row."""
    filled = [shard for shard in shards if len(shard.indices)]
    if not filled:
        skipped = [reason for shard in shards for reason in shard.skipped.values()]
        found = f"{len(images)} images, and none can be read; the first: {skipped[0]}" if skipped else "no image"
        raise DataError(f"data={images.name}: the {images.split} split holds {found}")
    rows = torch.cat([shard.indices for shard in filled])
    logits = [shard.logits for shard in filled if shard.logits is not None]
    groups = images.groups
    if groups is None and images.masks is not None:  # the pixels of one image stay together
        groups = torch.arange(len(images))
    features = Features(
        torch.cat([shard.features for shard in filled]),
        torch.cat([shard.labels for shard in filled]),
        torch.cat(logits) if logits else None,
        None if groups is None else groups[rows],
    )
    return features, rows


def _assemble(
    backbone: Backbone, images: ImageSet, key: FeatureKey, shards: Sequence[Shard], *, cached: bool
) -> Extraction:
    features, rows = _gather(images, shards)
    x = features.x
    if not cached and (broken := int((~torch.isfinite(x)).any(dim=1).sum())):
        _log.warning(
            "%s: features are NaN or infinite in %d of %d rows of %s.", backbone.name, broken, len(x), images.name
        )
    seconds = sum(shard.seconds for shard in shards)
    speed = len(images) / seconds
    done = "from the store" if cached else "extracted"
    _log.info(
        "%s: %d images of %s %s (%.1f s, %.0f images/s).",
        *(backbone.name, len(torch.unique(rows)), images.name, done, seconds, speed),
    )
    skipped = tuple(reason for shard in shards for reason in shard.skipped.values())
    return Extraction(features, seconds, speed, cached, key, rows, skipped)


def _check_settings(batch_size: int, workers: int, device: str, precision: str, on_error: str) -> None:
    if batch_size < 1:
        raise SettingError(f"batch_size={batch_size}: expected 1 image or more.")
    if workers < 0:
        raise SettingError(f"workers={workers}: expected 0 or more processes.")
    if on_error not in get_args(OnError):
        raise unknown("data.on_error", on_error, get_args(OnError))
    check_device(device, precision)
