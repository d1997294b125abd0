"""Labelled images by name or folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from itm.core.errors import DataError, SettingError, unknown
from itm.core.splits import stratified_sample
from itm.data.catalog import CATALOG
from itm.data.decode import as_rgb, content, decode, display
from itm.data.folders import read_folder

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

    Nothing is decoded here. A name of the table (:data:`itm.data.catalog.CATALOG`) goes before a folder of the same
    name; ``./name`` means the folder.

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
