"""Labelled images of one split of a dataset."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from itm.core.errors import DataError, SettingError, unknown
from itm.core.files import home_folder
from itm.core.settings import OnError
from itm.core.splits import stratified_sample
from itm.data.catalog import CATALOG, CATALOG_PREFIX
from itm.data.dataset_range import choose_pixels
from itm.data.decode import as_rgb, decode
from itm.data.files import UNREADABLE
from itm.data.folders import describe_left_out
from itm.data.items import Item, digests, label
from itm.data.mask_folders import has_masks
from itm.data.masks import Masks
from itm.data.sources import Reading, find_folder, find_source
from itm.data.tables import ColumnSettings
from itm.data.value_range import PLAIN, PixelSettings

SPLITS = ("train", "test")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Image.Image, int]]):
    """One split of one dataset: labels at once, images decoded one by one when asked for.

    Args:
        name: Name of the dataset, or of its folder.
        split: ``"train"`` or ``"test"``.
        classes: Names of the classes.
        labels: Class of each image, int64, ``[N]``.
        items: Images one by one, such as files; or pixels, uint8, ``[N, H, W]`` or ``[N, H, W, 3]``.
        license: Licence or terms of the images.
        groups: Group of each image, int64, ``[N]``; images of one group stay together when a split is drawn.
        pixels: The range of values and the bands that are shown; nothing set for plain 8-bit images.
        masks: The class of each pixel, for segmentation; an image's label is then the class of most of its pixels.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: Tensor
    items: tuple[Item, ...] | NDArray[np.uint8]
    license: str = "not stated"
    groups: Tensor | None = None
    pixels: PixelSettings = PLAIN
    masks: Masks | None = None

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
            DataError: If its file is missing, truncated, too large or not an image; the message names it.
        """
        item = self.items[index]
        return as_rgb(Image.fromarray(item)) if isinstance(item, np.ndarray) else decode(item, self.pixels)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode the mask of one image.

        Returns:
            The class of each pixel, 255 for pixels to ignore, ``[H, W]`` with the size of the image.

        Raises:
            DataError: If the images have no masks or the file cannot be read; the message names it.
        """
        if self.masks is None:
            raise DataError(f"data={self.name}: the images have labels, not masks; segmentation needs masks.")
        return self.masks.read(index)

    def path(self, index: int) -> str:
        """Return the image's file, or its place in a dataset without files, as text for messages."""
        item = self.items[index]
        return f"{self.name}/{self.split}[{index}]" if isinstance(item, np.ndarray) else label(item)

    def select(self, indices: Sequence[int] | Tensor) -> ImageSet:
        """Return the set of some of the images, in the order of ``indices``; the classes do not change."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        items = self.items
        return replace(
            self,
            labels=self.labels[chosen],
            items=items[chosen.numpy()] if isinstance(items, np.ndarray) else tuple(items[i] for i in chosen.tolist()),
            groups=None if self.groups is None else self.groups[chosen],
            masks=None if self.masks is None else self.masks.select(chosen.tolist()),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the images, labels, groups and masks in their order: a sha256 in hexadecimal.

        The content of every file counts, its name, folder and time do not, so a dataset that was moved or copied keeps
        its fingerprint and one altered byte changes it. A range of values and bands count where they are set. Every
        file is read once. A file that cannot be read counts as such; :meth:`image` names it.
        """
        digest = hashlib.sha256()
        for values in (self.labels, torch.empty(0) if self.groups is None else self.groups):
            digest.update(f"{len(values)};".encode() + values.numpy().tobytes())
        if isinstance(self.items, np.ndarray):
            digest.update(str(self.items.shape).encode() + np.ascontiguousarray(self.items).tobytes())
        else:
            for part in self.digests:
                digest.update(part)
        if self.pixels != PLAIN:  # fingerprints of 8-bit images are older than these settings
            digest.update(json.dumps([self.pixels.range, self.pixels.bands]).encode())
        if self.masks is not None:
            digest.update(self.masks.fingerprint)
        return digest.hexdigest()

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The sha256 of each image's file or pixels; ``b"unreadable"`` for a file that cannot be read."""
        if isinstance(self.items, np.ndarray):
            return tuple(hashlib.sha256(item.tobytes()).digest() for item in self.items)
        return tuple(digests(self.items))


def count_shared(train: ImageSet, test: ImageSet) -> int:
    """Count the test images that are identical, byte by byte, to a training image."""
    known = set(train.digests) - {UNREADABLE}
    return sum(digest in known for digest in test.digests)


def default_root() -> Path:
    """Return where datasets are kept unless ``data.root`` is set: ``$ITM_HOME/data``, or ``~/.cache/itm/data``."""
    return home_folder() / "data"


def load_images(
    data: Any,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
    range: Sequence[float] | None = None,
    bands: Sequence[int] | None = None,
    columns: Mapping[str, str | None] | None = None,
    config: str | None = None,
    on_error: OnError = "stop",
) -> ImageSet:
    """Find the labelled images of one split of a dataset.

    Only images with values wider than 8 bits are decoded here, a seeded sample of the training split: both splits
    share the range that it gives (:func:`itm.data.value_range.choose_range`).

    Args:
        data: One of

            * a dataset's name (:data:`itm.data.catalog.CATALOG`),
            * a folder: a training folder beside a held-out one with a folder per class each, or the class folders
              themselves (:func:`itm.data.folders.read_folder`), or images and masks
              (:func:`itm.data.mask_folders.read_mask_folder`),
            * a table of images and labels: a CSV or Parquet file (:func:`itm.data.tables.read_table`), or a pandas
              DataFrame,
            * ``hf:`` and a dataset of Hugging Face, or a folder of its ``save_to_disk``
              (:func:`itm.data.hub.read_hub`), or such a dataset itself,
            * a sequence of pairs of image and label, such as a dataset of torchvision
              (:func:`itm.data.sequences.read_sequence`).

            An :class:`ImageSet` is taken as it is.
            ``./name`` means the folder and ``catalog:name`` the dataset where both exist.
        split: ``"train"`` or ``"test"``.
        root: Folder of the downloaded datasets, in torchvision's layout; by default :func:`default_root`.
        seed: Decides the split where the dataset has no official one, and which images ``limit`` keeps.
        limit: Keep this many images, drawn in proportion to the classes with one of each at least, two where they fit.
        range: The values that appear as black and as white in images wider than 8 bits; None chooses them.
        bands: The bands of multi-band images that appear as red, green and blue, or one as grey, counted from 1.
        columns: Names of the columns ``image``, ``label`` and ``split``; those not given are found by common names.
        config: Configuration of a Hugging Face dataset.
        on_error: ``"stop"`` refuses a table with missing files or labels; ``"skip"`` leaves out rows without a label
            and keeps missing files, which decoding then reports.

    Raises:
        SettingError: If the name, the split, the range, the bands or the columns are invalid, the name means both a
            dataset and a folder, or ``limit`` is smaller than the number of classes.
        DataError: If the images are missing and cannot be fetched, or do not show two classes.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if isinstance(data, ImageSet):
        return _limit(data, limit, seed)
    pixels = PixelSettings(range, bands)
    base = default_root() if root is None else Path(root).expanduser()
    reading = Reading(base, seed, ColumnSettings(**(columns or {})), config, on_error)
    source = find_source(data, reading)
    if source.known and pixels != PLAIN:
        raise SettingError(f"data.range and data.bands are for folders; the images of data={data} need neither.")
    listing = source.read(split)
    if split == "train" and listing.left_out:
        _log.warning("data=%s: %s", source.name, describe_left_out(listing.left_out))
    if not source.known:
        training = listing if split == "train" else source.read("train")
        pixels = choose_pixels(source.name, training, pixels, seed, announce=split == "train")
    items = listing.items if isinstance(listing.items, np.ndarray) else tuple(listing.items)
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    classes = tuple(listing.classes)
    images = ImageSet(source.name, split, classes, labels, items, source.license, pixels=pixels, masks=listing.masks)
    return _limit(images, limit, seed)


def load_from_settings(data: Mapping[str, Any], seed: int, split: str = "train", limit: int | None = None) -> ImageSet:
    """Load the images that the settings ``data`` of a command describe.

    Args:
        data: Settings ``name``, ``root``, ``on_error``, ``range``, ``bands``, ``columns`` and ``config``; only the name
            is required.
        seed: As in :func:`load_images`.
        split: As in :func:`load_images`.
        limit: As in :func:`load_images`.

    Raises:
        ItmError: As in :func:`load_images`.
    """
    names = ("root", "range", "bands", "columns", "config", "on_error")
    given = {name: data[name] for name in names if data.get(name) is not None}
    return load_images(str(data["name"]), split, seed=seed, limit=limit, **given)


def is_segmentation(data: str | os.PathLike[str]) -> bool:
    """Return whether a dataset's name or folder has masks, by its catalogue entry or its layout."""
    name = os.fspath(data).removeprefix(CATALOG_PREFIX)
    folder = find_folder(data)
    return CATALOG[name].masks if name in CATALOG else folder is not None and has_masks(folder)


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
