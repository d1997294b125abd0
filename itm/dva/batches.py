"""Mini-batches of features that lie in memory: plain iterables, since no worker or collation could make them faster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class RandomBatches:
    """Endless mini-batches: shuffled, each row once before any comes again.

    Args:
        x: Features, ``[N, D]``.
        y: Classes, ``[N]``.
        batch_size: ``B``; rows left over at the end of a shuffle are dropped, and ``N`` is the largest batch.
        generator: Source of the order.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
        self.x, self.y, self.generator = x, y, generator
        self.batch_size = min(batch_size, len(x))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                rows = order[start : start + self.batch_size]
                yield self.x.index_select(0, rows), self.y.index_select(0, rows)


@dataclass(frozen=True)
class OrderedBatches:
    """Mini-batches that are always the same; the last one keeps its own size.

    Args:
        x: Features, ``[N, D]``.
        y: Classes, ``[N]``.
        batch_size: ``B``.
    """

    x: Tensor
    y: Tensor
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        return zip(torch.split(self.x, self.batch_size), torch.split(self.y, self.batch_size), strict=True)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)


@dataclass(frozen=True)
class Rounds:
    """Mini-batches in rounds: one item is an iterator over the next ``size`` of them, the last may be shorter.

    Args:
        batches: Where they come from, endless.
        total: Number of mini-batches of all rounds.
        size: Mini-batches of a round.
    """

    batches: Iterable[Batch]
    total: int
    size: int

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        source = iter(self.batches)
        return (islice(source, min(self.size, self.total - start)) for start in range(0, self.total, self.size))

    def __len__(self) -> int:
        return -(-self.total // self.size)
