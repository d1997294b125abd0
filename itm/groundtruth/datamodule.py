"""Batches of images or of cached features for training and evaluation."""

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
    """Batches of one dataset's training part, shuffled in every epoch, and of its held-out parts.

    The order and the random views of an epoch depend on the seed and the epoch alone (see
    :mod:`itm.groundtruth.sampling`), so interrupted training resumes with the same batches. An incomplete last batch
    of the training part is dropped unless it is the only one; the held-out parts are complete and in a fixed order.

    Args:
        train: Pairs of input and class to train on.
        *held_out: Parts of pairs to evaluate on after each epoch; the last one is the test part.
        batch_size: Rows of a batch.
        workers: Processes that load images; 0 loads them in this process.
        pin: Keep batches in pinned memory, which speeds up copies to a GPU.
        seed: Decides the order of the training rows and the transforms' random numbers.
    """

    def __init__(
        self,
        train: Dataset[Any],
        *held_out: Dataset[Any],
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
        """Build from cached features, split by :func:`itm.core.splits.split_indices`: ``x [B, D]`` and ``y [B]``.

        The held-out rows are shuffled once, so that their batches mix the classes.

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
        validation: ImageSet | None = None,
        batch_size: int = 64,
        workers: int = 0,
        pin: bool = False,
        seed: int = 0,
    ) -> TransferData:
        """Build from images, decoded and transformed on demand: ``[B, 3, H, W]`` and ``[B]``.

        Random transforms draw from torch's generator, which is seeded for each image of each epoch. Where
        ``validation`` is given, it is the first held-out part and ``test`` the second.
        """
        held_out = [test] if validation is None else [validation, test]
        parts = [
            SeededViews(train, train_transform, seed),
            *(SeededViews(part, eval_transform, seed) for part in held_out),
        ]
        return cls(*parts, batch_size=batch_size, workers=workers, pin=pin, seed=seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the training part."""
        order = EpochSampler(self.train, self.seed, self._epoch)  # type: ignore[arg-type]
        return self._loader(self.train, sampler=order, drop_last=len(order) >= self.batch_size)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return the loader of the held-out part, or the loaders of all parts with the test part last."""
        loaders = [self._loader(part) for part in self.held_out]
        return loaders if len(loaders) > 1 else loaders[0]

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test part."""
        return self._loader(self.held_out[-1])

    def state_dict(self) -> dict[str, int]:
        """Return the epoch that a checkpoint resumes with: workers load its batches before Lightning sets the epoch."""
        progress: Any = self.trainer and self.trainer.fit_loop.epoch_progress.current
        return {"epoch": progress.processed if progress else self._epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start from the epoch of a checkpoint."""
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
    """Rows of tensors, indexed a batch at a time, which is about a hundred times faster than row by row."""

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
