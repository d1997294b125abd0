"""Labelled images in memory, and the order in which a training sees them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from itm.epochs import Shuffled

_HELD_OUT = 2000  # images that no model sees, so that it can be told what each learned


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images in memory; a batch is cut out in one piece.

    Args:
        images: uint8, ``[N, H, W, 3]``.
        labels: int64, ``[N]``.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.images[row], self.labels[row]

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.images[rows], self.labels[rows]

    def split(self, seed: int = 0) -> tuple[Pictures, Pictures]:
        """Images to train with, and those that no model sees: 2,000, or a tenth where there are few."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held_out = min(_HELD_OUT, len(self) // 10)
        return self._rows(order[held_out:]), self._rows(order[:held_out])

    def _rows(self, rows: Tensor) -> Pictures:
        part = object.__new__(Pictures)
        part.images, part.labels = self.images[rows], self.labels[rows]
        return part


class Rounds(Sampler[int]):
    """An endless sequence of shuffles of the rows, a stretch of it in each round.

    Args:
        rows: Number of rows.
        length: Rows of a round.
        seed: Decides the shuffles.
    """

    def __init__(self, rows: int, length: int, seed: int) -> None:
        self.rows, self.length, self.seed, self.round = rows, length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Turn to a round, counted from 0."""
        self.round = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        position, end = self.round * self.length, (self.round + 1) * self.length
        while position < end:
            shuffle, offset = divmod(position, self.rows)
            part = list(Shuffled(range(self.rows), self.seed, shuffle))[offset : offset + end - position]
            yield from part
            position += len(part)
