"""Labelled images by name or folder, and the batches that training takes from images or from cached features."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from itm.core.errors import DataError, SettingError, unknown
from itm.core.features import Features
from itm.core.splits import split_indices, stratified_sample
from itm.data.catalog import CATALOG
from itm.data.decode import as_rgb, content, decode, display
from itm.data.folders import read_folder
from itm.groundtruth.sampling import Shuffled, Views

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Image.Image, int]]):
    """One split of one dataset: labels at once, images decoded one by one when asked for.

    Args:
        name: Name of the dataset, or of its folder.
        split: ``"train"`` or ``"test"``.
        classes: Names of the classes.
        labels: Class of each image, int64, ``[N]``.
        items: Image files, or pixels, uint8, ``[N, H, W]`` or ``[N, H, W, 3]``.
        license: Licence or terms of the images.
        groups: Group of each image, int64, ``[N]``; images of one group stay together when a split is drawn.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: Tensor
    items: tuple[Path, ...] | NDArray[np.uint8]
    license: str = "not stated"
    groups: Tensor | None = None

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {self.split!r}, {len(self)} images, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.image(index), int(self.labels[index])

    def image(self, index: int) -> Image.Image:
        """Decode one image as a person sees it (see :func:`itm.data.decode.decode`).

        Returns:
            The image, mode ``"RGB"``, its own size.

        Raises:
            DataError: If its file is missing, truncated, too large or no image; the message names it.
        """
        item = self.items[index]
        return decode(item) if isinstance(item, Path) else as_rgb(Image.fromarray(item))

    def path(self, index: int) -> str:
        """The image's file, or where it stands in a dataset without files, as text for messages."""
        item = self.items[index]
        return display(item) if isinstance(item, Path) else f"{self.name}/{self.split}[{index}]"

    def select(self, indices: Sequence[int] | Tensor) -> ImageSet:
        """The set of some of the images, in the order of ``indices``; the classes stay as they are."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        items = self.items
        return replace(
            self,
            labels=self.labels[chosen],
            items=items[chosen.numpy()] if isinstance(items, np.ndarray) else tuple(items[i] for i in chosen.tolist()),
            groups=None if self.groups is None else self.groups[chosen],
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the images, labels and groups in their order: a sha256 in hexadecimal.

        The content of every file counts, its name, folder and time do not, so a dataset that was moved or copied keeps
        its fingerprint and one altered byte changes it. Every file is read once, which takes as long as the disk takes.
        A file that cannot be read counts as such; :meth:`image` names it.
        """
        digest = hashlib.sha256()
        for values in (self.labels, torch.empty(0) if self.groups is None else self.groups):
            digest.update(f"{len(values)};".encode() + values.numpy().tobytes())
        if isinstance(self.items, np.ndarray):
            digest.update(str(self.items.shape).encode() + np.ascontiguousarray(self.items).tobytes())
        else:
            with ThreadPoolExecutor() as pool:
                for part in pool.map(content, self.items):
                    digest.update(part)
        return digest.hexdigest()


def default_root() -> Path:
    """Where datasets are kept unless ``data.root`` says otherwise: ``$ITM_HOME/data``, or ``~/.cache/itm/data``."""
    return Path(os.environ.get("ITM_HOME", "~/.cache/itm")).expanduser() / "data"


def load_images(
    data: str | os.PathLike[str],
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> ImageSet:
    """Find the labelled images of one split of a dataset.

    Nothing is decoded here. A name of the table (:data:`itm.data.catalog.CATALOG`) goes before a folder of the same name;
    ``./name`` means the folder.

    Args:
        data: A dataset's name, or a folder: ``train/`` beside ``test/`` or ``val/`` with a folder per class each, or
            the class folders themselves (see :func:`itm.data.folders.read_folder`).
        split: ``"train"`` or ``"test"``.
        root: Folder of the downloaded datasets, in torchvision's layout; by default :func:`default_root`.
        seed: Decides the split where the dataset has no official one, and which images ``limit`` keeps.
        limit: Keep this many images, drawn in proportion to the classes with one of each at least, two where they fit.

    Raises:
        SettingError: If the name or the split is unknown, or ``limit`` is smaller than the number of classes.
        DataError: If the images are not there and cannot be fetched, or do not show two classes.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    name, folder = os.fspath(data), Path(data).expanduser()
    if name in CATALOG:
        license_ = CATALOG[name].license
        try:
            listing = CATALOG[name].read(default_root() if root is None else Path(root).expanduser(), split, seed)
        except DataError as error:
            raise DataError(f"data={name}: {error}") from error
    elif name and folder.is_dir():
        name, license_ = display(Path(folder.resolve().name)), "not stated"
        listing = read_folder(folder, split, seed)
    else:
        raise _not_found(name, folder)
    items = listing.items if isinstance(listing.items, np.ndarray) else tuple(listing.items)
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    return _limit(ImageSet(name, split, tuple(listing.classes), labels, items, license_), limit, seed)


def _limit(images: ImageSet, limit: int | None, seed: int) -> ImageSet:
    if limit is None:
        return images
    num_classes = len(torch.unique(images.labels))
    if not isinstance(limit, int) or limit < num_classes:
        raise SettingError(
            f"data.limit={limit}: expected a whole number of images, {num_classes} or more, so that each of the "
            f"{num_classes} classes of {images.name} is shown."
        )
    return images if limit >= len(images) else images.select(stratified_sample(images.labels, limit, seed))


def _not_found(name: str, folder: Path) -> SettingError | DataError:
    if folder.is_file():
        return DataError(f"data={name}: this is a file; expected a folder with one folder of images per class.")
    if os.sep in name or "/" in name:
        return DataError(f"data={name}: no such folder. Expected a folder of images, or one of {', '.join(CATALOG)}.")
    return SettingError(f"{unknown('data', name, CATALOG)} There is no folder of that name either.")


class TransferData(LightningDataModule):
    """Batches of one dataset's training part, shuffled anew in every epoch, and of its held-out part.

    The order and the random views of an epoch depend on the seed and the epoch's number alone (see :mod:`itm.groundtruth.sampling`),
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
        parts = (Views(train, train_transform, seed), Views(test, eval_transform, seed))
        return cls(*parts, batch_size=batch_size, workers=workers, pin=pin, seed=seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Loader of the training part."""
        order = Shuffled(self.train, self.seed, self._epoch)  # type: ignore[arg-type]
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
