"""Features of a growing sample of the images: each image goes through a network once, and the last sample is stored
as the features of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itm.core.features import Features
from itm.core.splits import stratified_order
from itm.extraction.extract import Extraction, feature_key, is_stored
from itm.extraction.readouts.readout import POOLED, Readout
from itm.extraction.store import FeatureKey, FeatureStore, Shard

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet
    from itm.models.backbone import Backbone


@dataclass(frozen=True, eq=False)
class GrowingSample:
    """Stratified samples of one set of images, each of which contains the one before.

    Args:
        images: All images.
        sizes: Images of each sample, ascending; the last sample is all images.
        seed: Decides the samples.
    """

    images: ImageSet
    sizes: tuple[int, ...]
    seed: int

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        """Images that each sample adds, ascending, int64."""
        order = stratified_order(self.images.labels, self.seed)
        return tuple(order[start:stop].sort().values for start, stop in zip((0, *self.sizes), self.sizes, strict=False))

    @cached_property
    def parts(self) -> tuple[ImageSet, ...]:
        """The images that each sample adds."""
        return tuple(self.images.select(rows) for rows in self.rows)


def extract_sample(
    backbone: Backbone,
    sample: GrowingSample,
    number: int,
    store: FeatureStore,
    precision: str,
    run: Callable[[ImageSet], Extraction],
    readout: Readout = POOLED,
) -> Extraction:
    """Return the features of one of the samples, in the order of the images.

    Args:
        backbone: The network.
        sample: The samples.
        number: Number of the sample, from 0.
        store: Where the features are kept: those of the last sample as any extraction of all images would keep them,
            those of the others part by part.
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
        run: Extracts some images with the backbone into the store, or reads them from it.
        readout: What is read off the network.

    Raises:
        ItmError: As ``run`` does, and if the store cannot be written.
    """
    key, images = feature_key(backbone, sample.images, precision, readout), sample.images
    last = number == len(sample.sizes) - 1
    if is_stored(images, store, key):
        return run(images) if last else _restrict(run(images), torch.cat(sample.rows[: number + 1]))
    extractions = [run(part) for part in sample.parts[: number + 1]]
    if not last:
        return _join(extractions, sample.rows, key)
    _merge(store, key, len(images), [one.key for one in extractions], sample.rows)
    return replace(run(images), cached=all(one.cached for one in extractions))


def _restrict(whole: Extraction, images: Tensor) -> Extraction:
    """Return the part of an extraction that belongs to some of its images."""
    chosen = torch.isin(whole.rows, images)
    return replace(whole, features=whole.features.take(chosen), rows=whole.rows[chosen])


def _join(parts: Sequence[Extraction], rows: Sequence[Tensor], key: FeatureKey) -> Extraction:
    """Return the extraction of the union of the parts."""
    images = torch.cat([own[part.rows] for part, own in zip(parts, rows, strict=False)])
    order = torch.argsort(images, stable=True)
    features = Features(
        torch.cat([part.features.x for part in parts]),
        torch.cat([part.features.y for part in parts]),
        _joined([part.features.logits for part in parts]),
        _joined([part.features.groups for part in parts]),
    )
    seconds = sum(part.seconds for part in parts)
    return Extraction(
        features.take(order),
        seconds,
        sum(part.seconds * part.images_per_second for part in parts) / seconds,
        all(part.cached for part in parts),
        key,
        images[order],
        tuple(reason for part in parts for reason in part.skipped),
    )


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def _merge(
    store: FeatureStore, key: FeatureKey, total: int, parts: Sequence[FeatureKey], rows: Sequence[Tensor]
) -> None:
    """Write the stored parts as the features of all images, and remove them."""
    shards = [
        _renumber(shard, own)
        for part, own in zip(parts, rows, strict=True)
        for shard in store.read(part, len(own)).values()
    ]
    images = torch.cat([shard.indices for shard in shards])
    order = torch.argsort(images, stable=True)
    images = images[order]
    x, y = (torch.cat([getattr(shard, name) for shard in shards])[order] for name in ("features", "labels"))
    logits = _joined([shard.logits for shard in shards])
    logits = None if logits is None else logits[order]
    skipped = {image: reason for shard in shards for image, reason in shard.skipped.items()}
    seconds = sum(shard.seconds for shard in shards) / total
    written: list[Shard] = []
    store.prepare(key, total)
    for start, stop in store.spans(total):
        a, b = torch.searchsorted(images, torch.tensor([start, stop])).tolist()
        shard = Shard(
            start,
            stop,
            images[a:b],
            x[a:b],
            y[a:b],
            None if logits is None else logits[a:b],
            {image: reason for image, reason in skipped.items() if start <= image < stop},
            seconds * (stop - start),
        )
        written.append(store.write(key, shard))
    store.describe(key, total, written)
    for part in parts:
        store.remove(part)


def _renumber(shard: Shard, images: Tensor) -> Shard:
    """Return a shard of a part with the numbers of its images in the whole set."""
    skipped = {int(images[index]): reason for index, reason in shard.skipped.items()}
    return replace(shard, indices=images[shard.indices], skipped=skipped)
