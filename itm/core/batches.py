"""Mini-batches of cached features, for several seeds at once.

Plain iterables: the rows lie in memory, so worker processes and collation would only cost time. Every batch carries a
leading axis of ``S`` seeds, and the features are stored once for all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
Transform = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """Return a batch as it is: the transform of features that need none."""
    return x


class RandomBatches:
    """Endless mini-batches in random order: each seed takes each of its rows once before any comes again.

    The features of a batch are written into one buffer, which the next batch overwrites: allocating it anew takes
    several times as long as filling it.

    Args:
        x: Features, ``[N, D]``.
        y: Classes, ``[N]``.
        rows: Indices of the rows that each seed draws from, int64, ``[S, n]``.
        batch_size: ``B``, at most ``n``. Rows left over at the end of a shuffle are dropped.
        generators: Source of each seed's order.
        transform: Applied to the features of each batch, ``[S, B, D]``; may change them in place.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        batch_size: int,
        generators: Sequence[torch.Generator],
        transform: Transform = unchanged,
    ) -> None:
        self.x, self.y, self.rows, self.generators, self.transform = x, y, rows, generators, transform
        self.batch_size = min(batch_size, rows.shape[1])

    def __iter__(self) -> Iterator[Batch]:
        seeds, size = self.rows.shape
        shape = seeds, self.batch_size, self.x.shape[1]
        buffer = self.x.new_empty(seeds * self.batch_size, self.x.shape[1])
        while True:
            orders = torch.stack([torch.randperm(size, generator=generator) for generator in self.generators])
            shuffled = self.rows.gather(1, orders.to(self.rows.device))
            for start in range(0, size - self.batch_size + 1, self.batch_size):
                rows = shuffled[:, start : start + self.batch_size].flatten()
                torch.index_select(self.x, 0, rows, out=buffer)
                yield self.transform(buffer.view(shape)), self.y.index_select(0, rows).view(shape[:2])


@dataclass(frozen=True)
class OrderedBatches:
    """The same mini-batches in every pass; the last one keeps its own size.

    As in :class:`RandomBatches`, each batch overwrites the features of the one before.

    Args:
        x: Features, ``[N, D]``.
        y: Classes, ``[N]``.
        rows: Indices of each seed's rows, int64, ``[S, n]``.
        batch_size: ``B``.
        transform: Applied to the features of each batch, ``[S, B, D]``; may change them in place.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    batch_size: int
    transform: Transform = unchanged

    def __iter__(self) -> Iterator[Batch]:
        buffer = self.x.new_empty(len(self.rows) * min(self.batch_size, self.rows.shape[1]), self.x.shape[1])
        for rows in torch.split(self.rows, self.batch_size, dim=1):
            flat = rows.flatten()
            x = torch.index_select(self.x, 0, flat, out=buffer[: len(flat)])
            yield self.transform(x.view(*rows.shape, -1)), self.y.index_select(0, flat).view(rows.shape)

    def __len__(self) -> int:
        return -(-self.rows.shape[1] // self.batch_size)


@dataclass(frozen=True)
class BatchChunks:
    """Mini-batches in chunks: one item is an iterator over the next ``size`` batches; the last chunk may be shorter.

    A Trainer that takes a chunk as its batch pays for its own bookkeeping once in ``size`` steps.

    Args:
        batches: The source of the mini-batches, at least ``total``.
        total: Number of mini-batches in all chunks.
        size: Mini-batches of a chunk.
    """

    batches: Iterable[Batch]
    total: int
    size: int

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        source = iter(self.batches)
        for start in range(0, self.total, self.size):
            yield islice(source, min(self.size, self.total - start))

    def __len__(self) -> int:
        return -(-self.total // self.size)
