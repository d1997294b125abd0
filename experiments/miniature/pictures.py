"""The corpus as a file, its images in memory, and the order in which training reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from itm.core.errors import DataError
from itm.core.files import write_atomic
from itm.core.sampling import EpochSampler

CORPUS_FILE = Path("miniature", "corpus.safetensors")
"""Path of the corpus below the folder of the datasets."""

BUILD = "python -m experiments.miniature.corpus"
"""The command that builds the corpus."""

_HELD_OUT = 2000  # images held out from all pre-training, to measure what each model learned


@dataclass(frozen=True, eq=False)
class Corpus:
    """Labelled images with their sources.

    Args:
        images: uint8, ``[N, 32, 32, 3]``.
        labels: Class of each image, int64, ``[N]``.
        classes: Names of the classes: ``<source>/<name in the source>``.
        sources: Version, licence and number of images, by package.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sources: dict[str, str]

    @property
    def digest(self) -> str:
        """The sha256 of images, labels and classes, in hexadecimal."""
        sha = hashlib.sha256(json.dumps([self.images.shape, self.classes]).encode())
        for values in (self.images, self.labels):
            sha.update(np.ascontiguousarray(values).data)
        return sha.hexdigest()

    def save(self, file: Path) -> None:
        """Write the corpus atomically as one safetensors file.

        Raises:
            OSError: If it cannot be written.
        """
        metadata = {"classes": json.dumps(self.classes), "sources": json.dumps(self.sources)}
        metadata["checksum"] = self._checksum()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, to_bytes({"images": self.images, "labels": self.labels}, metadata=metadata))

    @classmethod
    def load(cls, file: Path) -> Corpus:
        """Read a file that :meth:`save` wrote, and verify its checksum.

        Raises:
            DataError: If the file is missing, damaged or not a corpus.
        """
        try:
            with safe_open(file, framework="numpy") as content:
                metadata = content.metadata() or {}
                classes, sources = tuple(json.loads(metadata["classes"])), json.loads(metadata["sources"])
                corpus = cls(content.get_tensor("images"), content.get_tensor("labels"), classes, sources)
        except FileNotFoundError:
            raise DataError(f"{file}: no such file; `{BUILD}` builds the corpus.") from None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{file}: not readable as a corpus ({error}); delete it and run `{BUILD}`.") from error
        if corpus._checksum() != metadata.get("checksum"):
            raise DataError(f"{file}: damaged, the checksum does not match; delete it and run `{BUILD}`.")
        return corpus

    def _checksum(self) -> str:
        return hashlib.sha256(json.dumps([self.digest, self.sources]).encode()).hexdigest()


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images in memory; a batch is read by one index operation.

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
        """Return the training and the held-out images: 2,000 held out, or a tenth of a small set."""
        train_with, held_out = held_out_rows(len(self), seed)
        return self.take(train_with), self.take(held_out)

    def take(self, rows: Tensor) -> Pictures:
        """Return some of the images, by their indices, int64."""
        part = object.__new__(Pictures)
        part.images, part.labels = self.images[rows], self.labels[rows]
        return part


def held_out_rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the training and the held-out rows: 2,000 held out, or a tenth of a small set."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = min(_HELD_OUT, count // 10)
    return order[held_out:], order[:held_out]


class RoundSampler(Sampler[int]):
    """Split an endless sequence of shuffles of the rows into rounds of equal length.

    Args:
        rows: Number of rows.
        length: Rows per round.
        seed: Seed of the shuffles.
    """

    def __init__(self, rows: int, length: int, seed: int) -> None:
        self.rows, self.length, self.seed, self.round = rows, length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Select a round, counted from 0."""
        self.round = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        position, end = self.round * self.length, (self.round + 1) * self.length
        while position < end:
            shuffle, offset = divmod(position, self.rows)
            part = list(EpochSampler(range(self.rows), self.seed, shuffle))[offset : offset + end - position]
            yield from part
            position += len(part)
