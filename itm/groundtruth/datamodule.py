"""Batches that training takes from images or from cached features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from itm.core.features import Features
from itm.core.splits import split_indices
from itm.data.image_set import ImageSet
from itm.groundtruth.sampling import EpochSampler, SeededViews


class TransferData(LightningDataModule):
    """Batches of one dataset's training part, shuffled anew in every epoch, and of its held-out part.

    The order and the random views of an epoch depend on the seed and the epoch's number alone (see
    :mod:`itm.groundtruth.sampling`),
    so training that was interrupted goes on with the batches it would have had. An incomplete last batch of the
    training part is left out where there is a complete one; of the held-out part every row is shown, in the same order
    each time.

    Args:
        train: Pairs of input and class to train on.
        held_out: Pairs to validate and test on.
        batch_size: Rows of a batch.
        workers: Processes that load images; 0 loads them in this process.
        pin: Keep batches in pinned memory, from which a GPU fetches them while it computes.
        seed: Decides the order of the training rows and the transforms' random numbers.
    """

    def __init__(
        self,
        train: Dataset[Any],
        held_out: Dataset[Any],
        *,
        batch_size: int,
        workers: int = 0,
        pin: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.held_out = train, held_out
        self.batch_size, self.workers, self.pin, self.seed = batch_size, workers, pin, seed
        self._epoch = 0

    @classmethod
    def from_features(
        cls, features: Features, *, train_fraction: float = 0.8, batch_size: int = 256, seed: int = 0
    ) -> TransferData:
        """Batches of cached features: ``x [B, D]`` and ``y [B]``, split as in :func:`itm.core.splits.split_indices`.

        The held-out rows are shuffled once, so that their batches show the classes mixed.

        Raises:
            SettingError: If ``train_fraction`` is not between 0 and 1.
            FeatureError: If there are fewer than two rows or fewer than two groups.
        """
        train, held_out = split_indices(features.y, train_fraction, seed, features.groups)
        held_out = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed))]
        parts = (_Rows(features.x[rows], features.y[rows]) for rows in (train, held_out))
        return cls(*parts, batch_size=batch_size, seed=seed)

    @classmethod
    def from_images(
        cls,
        train: ImageSet,
        test: ImageSet,
        *,
        train_transform: Callable[[Image.Image], Tensor],
        eval_transform: Callable[[Image.Image], Tensor],
        batch_size: int = 64,
        workers: int = 0,
        pin: bool = False,
        seed: int = 0,
    ) -> TransferData:
        """Batches of images, each decoded and transformed when its turn comes: ``[B, 3, H, W]`` and ``[B]``.

        Random transforms draw from torch's generator, which is seeded for each image of each epoch.
        """
        parts = (SeededViews(train, train_transform, seed), SeededViews(test, eval_transform, seed))
        return cls(*parts, batch_size=batch_size, workers=workers, pin=pin, seed=seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Loader of the training part."""
        order = EpochSampler(self.train, self.seed, self._epoch)  # type: ignore[arg-type]
        return self._loader(self.train, sampler=order, drop_last=len(order) >= self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Loader of the held-out part."""
        return self._loader(self.held_out)

    def test_dataloader(self) -> DataLoader[Any]:
        """Loader of the held-out part, as for validation."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, int]:
        """The epoch that a checkpoint goes on with: workers fetch its batches before Lightning tells it."""
        progress: Any = self.trainer and self.trainer.fit_loop.epoch_progress.current
        return {"epoch": progress.processed if progress else self._epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin with the epoch of a checkpoint."""
        self._epoch = state_dict["epoch"]

    def _loader(self, dataset: Dataset[Any], **settings: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.pin,
            collate_fn=_as_is if isinstance(dataset, _Rows) else None,
            generator=torch.Generator().manual_seed(self.seed),
            **settings,
        )


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of tensors that a loader takes a batch at a time, which is some hundred times faster than row by row."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]


def _as_is(batch: Any) -> Any:
    return batch
