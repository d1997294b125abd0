"""The order and the random views of a training set in each epoch; both depend on the seed and the epoch alone.

Interrupted training therefore resumes with the same batches, for any number of decoding processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, Sampler

from itm.core.seeding import derive_seed


class LabelledImages(Protocol):
    """Labelled images by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


class EpochSampler(Sampler[int]):
    """Rows of a training set in a new order in every epoch.

    Args:
        rows: The training set.
        seed: Decides the orders, together with the epoch's number.
        epoch: Number of the first epoch that is drawn; Lightning passes the later ones to :meth:`set_epoch`.
    """

    def __init__(self, rows: Sized, seed: int, epoch: int = 0) -> None:
        self.size, self.seed, self.epoch = len(rows), seed, epoch
        self.views = isinstance(rows, SeededViews)

    def set_epoch(self, epoch: int) -> None:
        """Switch to the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        # SeededViews takes epoch and image from one number
        first = self.epoch * self.size if self.views else 0
        return iter((first + torch.randperm(self.size, generator=generator)).tolist())


class SeededViews(Dataset[tuple[Any, int]]):
    """Images after a random transform: item ``epoch * N + i`` is the view of image ``i`` in that epoch.

    A view depends on the seed, the epoch and the image alone, so every process makes the same one. The transform draws
    from torch's generator, as torchvision's do; the caller's generator state is restored.

    Args:
        images: Labelled images.
        transform: Turns an image into a tensor, or an image with its mask into two.
        seed: Decides the views.
    """

    def __init__(self, images: LabelledImages, transform: Callable[[Any], Any], seed: int = 0) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        epoch, index = divmod(item, len(self.images))
        image, label = self.images[index]
        before = torch.get_rng_state()
        # not torch.manual_seed, which would reseed the accelerators as well
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        try:
            return self.transform(image), label
        finally:
            torch.set_rng_state(before)
