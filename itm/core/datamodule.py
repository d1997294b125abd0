"""Training and held-out batches of one dataset, from cached features or from raw images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from itm.core.batches import BatchChunks, OrderedBatches, RandomBatches, Transform, unchanged
from itm.core.features import Features
from itm.core.sampling import EpochSampler, LabelledImages, SeededViews


class TransferData(LightningDataModule):
    """Batches of a dataset's training part, in a new order in every epoch, and of its held-out parts, in one order.

    :meth:`from_features` serves the simulation of fine-tuning, :meth:`from_images` fine-tuning itself. Every batch
    depends on the seed and its place alone, so interrupted training continues with the batches it would have had.

    Args:
        train: Makes the loader of the training part, which begins with the epoch of a given number.
        *held_out: Make the loaders of the parts to evaluate on after each epoch; the last one is the test part.
        batch_size: Rows of a training batch.
    """

    def __init__(
        self, train: Callable[[int], Iterable[Any]], *held_out: Callable[[], Iterable[Any]], batch_size: int
    ) -> None:
        super().__init__()
        self._train, self._held_out, self.batch_size = train, held_out, batch_size
        self._epoch = 0

    @classmethod
    def from_features(
        cls,
        features: Features,
        train: Tensor,
        held_out: Tensor,
        *,
        seeds: Sequence[int] = (0,),
        batch_size: int = 256,
        iterations: int = 500,
        evaluate_every: int = 100,
        transform: Transform = unchanged,
    ) -> TransferData:
        """Return batches of cached features for ``S`` seeds at once, ``x [S, B, D]`` and ``y [S, B]``.

        One item of a loader is a chunk, an iterator over batches (:class:`itm.core.batches.BatchChunks`): a step on
        features takes about as long as a Trainer's bookkeeping for its batch. The held-out rows are shuffled once, so
        that their batches mix the classes; their loader has one chunk.

        Args:
            features: The features, stored once for all seeds.
            train: Indices of each seed's training rows, int64, ``[S, n]``, on the device of the features.
            held_out: Indices of each seed's held-out rows, int64, ``[S, m]``, likewise.
            seeds: Decide the order of the rows, one for each split.
            batch_size: ``B``; at most the number of training rows.
            iterations: Number of training batches in all.
            evaluate_every: Batches of a chunk, after which a Trainer can validate.
            transform: Applied to the features of each batch; may change them in place.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        orders = torch.stack([torch.randperm(held_out.shape[1], generator=generator) for generator in generators])
        shuffled = held_out.gather(1, orders.to(held_out.device))
        x, y = features.x, features.y
        batches = RandomBatches(x, y, train, batch_size, generators, transform)
        held_out_batches = OrderedBatches(x, y, shuffled, batch_size, transform)
        total = len(held_out_batches)
        return cls(
            lambda _: BatchChunks(batches, iterations, evaluate_every),
            lambda: BatchChunks(held_out_batches, total, total),
            batch_size=batches.batch_size,
        )

    @classmethod
    def from_images(
        cls,
        train: LabelledImages,
        test: LabelledImages,
        *,
        train_transform: Callable[[Any], Any],
        eval_transform: Callable[[Any], Any],
        validation: LabelledImages | None = None,
        collate: Callable[[Any], Any] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        pin: bool = False,
        seed: int = 0,
    ) -> TransferData:
        """Return batches of images, decoded and transformed on demand, ``[B, 3, H, W]`` and ``[B]``.

        An incomplete last batch of the training part is left out, unless it is the only one.

        Args:
            train: Images to train on.
            test: Images to test on.
            train_transform: Makes a training image a tensor. Its random numbers come from torch's generator, which is
                seeded for each image of each epoch (see :mod:`itm.core.sampling`).
            eval_transform: Makes a held-out image a tensor.
            validation: Images that choose the best epoch; the first of two held-out parts where given.
            collate: Makes a batch of transformed images with their labels; None stacks them.
            batch_size: Images of a batch.
            workers: Processes that load images; 0 loads them in this process.
            pin: Keep batches in pinned memory, from which a GPU copies them while it computes.
            seed: Decides the order of the training images and the transforms' random numbers.
        """

        def loader(views: SeededViews, **settings: Any) -> DataLoader[Any]:
            return DataLoader(
                views,
                batch_size=batch_size,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=pin,
                collate_fn=collate,
                generator=torch.Generator().manual_seed(seed),
                **settings,
            )

        views = SeededViews(train, train_transform, seed)
        parts = [test] if validation is None else [validation, test]
        held_out = [partial(loader, SeededViews(part, eval_transform, seed)) for part in parts]
        complete = len(views) >= batch_size
        return cls(
            lambda epoch: loader(views, sampler=EpochSampler(views, seed, epoch), drop_last=complete),
            *held_out,
            batch_size=batch_size,
        )

    def train_dataloader(self) -> Iterable[Any]:
        """Make the loader of the training part."""
        return self._train(self._epoch)

    def val_dataloader(self) -> Any:
        """Make the loader of the held-out part, or the loaders of all parts with the test part last."""
        loaders = [make() for make in self._held_out]
        return loaders if len(loaders) > 1 else loaders[0]

    def test_dataloader(self) -> Iterable[Any]:
        """Make the loader of the test part."""
        return self._held_out[-1]()

    def state_dict(self) -> dict[str, int]:
        """Return the epoch to continue with: workers load its batches before Lightning announces it."""
        progress: Any = self.trainer and self.trainer.fit_loop.epoch_progress.current
        return {"epoch": progress.processed if progress else self._epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin with the epoch of a checkpoint."""
        self._epoch = state_dict["epoch"]
