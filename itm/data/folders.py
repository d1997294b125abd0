"""Image folders: one folder of images per class, with or without a split into training and test images."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from itm.core.errors import DataError
from itm.core.splits import split_indices
from itm.data.decode import SUFFIXES, display

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
"""Names of split folders in either case; the first that exists is taken."""


class Listing(NamedTuple):
    """What a split of a dataset consists of, before anything is decoded.

    Args:
        items: Image files, or pixels, uint8, ``[N, H, W]`` or ``[N, H, W, 3]``.
        labels: Class of each item, an index into ``classes``.
        classes: Names of the classes.
    """

    items: Sequence[Path] | NDArray[np.uint8]
    labels: Sequence[int]
    classes: Sequence[str]

    def take(self, indices: Sequence[int]) -> Listing:
        """The listing of some of the items."""
        items = self.items[indices] if isinstance(self.items, np.ndarray) else [self.items[i] for i in indices]
        return Listing(items, [self.labels[i] for i in indices], self.classes)


def read_folder(root: Path, split: str, seed: int) -> Listing:
    """List one split of an image folder.

    Either ``root`` holds ``train/`` and one of ``test/`` and ``val/`` (``test/`` counts if both are there), each with
    a folder per class, or it holds the class folders themselves, of which a seeded, stratified fifth becomes the test
    split. Images may lie at any depth below their class folder; files that are hidden or no images, and files
    outside class folders, are passed over.

    Args:
        root: The folder.
        split: ``"train"`` or ``"test"``.
        seed: Which of the possible splits, where the folder has none of its own.

    Raises:
        DataError: If there are not two classes with images, a training class is empty, the test images show a class
            that the training images do not, or a folder cannot be read.
    """
    children = {child.name.casefold(): child for child in _folders(root)}
    train, test = (next((children[name] for name in names if name in children), None) for names in (TRAIN, TEST))
    if train is None or test is None:
        return seeded_part(list_classes(root), split, seed)
    training = list_classes(train)
    held_out = _list_test(test, training.classes, train)
    return training if split == "train" else held_out


def list_classes(root: Path, exclude: Collection[str] = ()) -> Listing:
    """List every image below the class folders of ``root``, sorted by path.

    Args:
        root: A folder of class folders.
        exclude: Names of folders that are no class.

    Raises:
        DataError: If there are fewer than two class folders, one holds no image, or one cannot be read.
    """
    folders = [folder for folder in _folders(root) if folder.name not in exclude]
    if not folders:
        raise DataError(f"{display(root)}: no class folder in it; images must lie in one folder per class.")
    files = {folder: _images(folder) for folder in folders}
    if empty := [display(Path(folder.name)) for folder, images in files.items() if not images]:
        raise DataError(
            f"{display(root)}: no image in {_names(empty)}; remove what is no class, or add images "
            f"({', '.join(sorted(SUFFIXES))})."
        )
    if len(folders) == 1:
        raise DataError(
            f"{display(root)}: a ranking needs at least two classes, found only {display(Path(folders[0].name))!r}. "
            f"The folder must hold one folder per class, or train/ and test/ (or val/) with one folder per class each."
        )
    return _listing(files, [display(Path(folder.name)) for folder in folders])


def seeded_part(listing: Listing, split: str, seed: int, train_fraction: float = 0.8) -> Listing:
    """Take the training or the test part of a dataset without an official split; stratified by class."""
    train, test = split_indices(torch.as_tensor(listing.labels), train_fraction, seed)
    return listing.take((train if split == "train" else test).tolist())


def _list_test(root: Path, classes: Sequence[str], train: Path) -> Listing:
    files = {folder: images for folder in _folders(root) if (images := _images(folder))}
    unseen = [name for folder in files if (name := display(Path(folder.name))) not in classes]
    if unseen:
        raise DataError(f"{display(root)}: classes {_names(unseen)} are not in {display(train)}; both need one name.")
    if not files:
        raise DataError(f"{display(root)}: no image in any class folder.")
    return _listing(files, classes)


def _listing(files: dict[Path, list[Path]], classes: Sequence[str]) -> Listing:
    index = {name: label for label, name in enumerate(classes)}
    labels = [index[display(Path(folder.name))] for folder, images in files.items() for _ in images]
    return Listing([image for images in files.values() for image in images], labels, classes)


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise DataError(f"{display(root)}: the folder cannot be read ({error.strerror}).") from error


def _images(folder: Path) -> list[Path]:
    found = []
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            images = (name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
            found += [Path(parent, name) for name in images]
    except OSError as error:
        raise DataError(f"{display(folder)}: the folder cannot be read ({error.strerror}).") from error
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in names[:5]) + more
