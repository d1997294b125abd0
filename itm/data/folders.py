"""Image folders: one folder of images per class, with or without a split into training and test images."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from itm.core.errors import DataError
from itm.core.splits import split_indices
from itm.data.files import SUFFIXES, display, quoted
from itm.data.items import Item
from itm.data.layout import Splits, find_splits
from itm.data.walk import find_images, subfolders

if TYPE_CHECKING:
    from itm.data.masks import Masks

_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_LABEL_FILES = (*_TABLES, ".json", ".jsonl", ".xlsx")
_log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """Items, labels and classes of a split, before anything is decoded.

    Args:
        items: Images one by one, or pixels, uint8, ``[N, H, W]`` or ``[N, H, W, 3]``.
        labels: Class of each item, an index into ``classes``.
        classes: Names of the classes.
        left_out: Number of files that are not images, by their ending.
        masks: The mask of each item, for segmentation.
    """

    items: Sequence[Item] | NDArray[np.uint8]
    labels: Sequence[int]
    classes: Sequence[str]
    left_out: Mapping[str, int] = Counter()
    masks: Masks | None = None

    def take(self, indices: Sequence[int]) -> Listing:
        """Return the listing of some of the items."""
        items = self.items[indices] if isinstance(self.items, np.ndarray) else [self.items[i] for i in indices]
        masks = None if self.masks is None else self.masks.select(indices)
        return self._replace(items=items, labels=[self.labels[i] for i in indices], masks=masks)


class _Classes(NamedTuple):
    """Image files by class; folders whose names differ in Unicode normalisation alone are one class."""

    files: Mapping[str, list[Path]]
    left_out: Counter[str]


def read_folder(root: Path, split: str, seed: int) -> Listing:
    """List one split of an image folder.

    Either ``root`` holds a training folder and a held-out one, each with a folder per class, or it holds the class
    folders themselves, of which a seeded, stratified fifth becomes the test split. Split folders are recognised by
    their names (:func:`itm.data.layout.find_splits`); of several held-out ones, ``test/`` is preferred, and one
    without labels is passed over. If none has labels, a seeded fifth of the training folder is held out.

    Images may lie at any depth below their class folder, also behind links to folders. Hidden files, those of the
    system and files outside class folders are left out.

    Args:
        root: The folder.
        split: ``"train"`` or ``"test"``.
        seed: Which of the possible splits, where the folder has none of its own.

    Raises:
        DataError: If there are not two classes with images, a training class is empty, the test images show a class
            that the training images do not, or a folder cannot be read.
    """
    splits = find_splits(subfolders(root))
    if splits is None or (not splits.held_out and not _is_split(root, splits.train)):
        return seeded_part(list_classes(root), split, seed)
    training = list_classes(splits.train)
    held_out = _held_out(splits, training.classes)
    if held_out is None:
        return seeded_part(training, split, seed)
    left_out = Counter(training.left_out) + held_out.left_out
    if split == "train":
        return training._replace(left_out=left_out)
    return _listing(held_out, training.classes)._replace(left_out=left_out)


def list_classes(root: Path, exclude: Collection[str] = ()) -> Listing:
    """List every image below the class folders of ``root``, sorted by path.

    Args:
        root: A folder of class folders.
        exclude: Names of folders that are not classes.

    Raises:
        DataError: If there are fewer than two class folders, one holds no image, or one cannot be read.
    """
    found = _classes(root, exclude)
    if not found.files:
        raise DataError(
            f"{display(root)}: no class folder in it; images must lie in one folder per class.{_label_files(root)}"
        )
    if empty := [name for name, images in found.files.items() if not images]:
        raise DataError(
            f"{display(root)}: no image in {quoted(empty)}; remove folders that are not classes, or add images "
            f"({', '.join(sorted(SUFFIXES))})." + (f" {describe_left_out(found.left_out)}" if found.left_out else "")
        )
    if missing := [name for name in found.files if name.strip().casefold() in ("", "nan")]:
        raise DataError(
            f"{display(root)}: the class folder {quoted(missing)} is named as a missing label; rename it, or remove it "
            "if its images have no label."
        )
    if len(found.files) == 1:
        raise _one_class(root, next(iter(found.files)))
    return _listing(found, list(found.files))


def seeded_part(listing: Listing, split: str, seed: int, train_fraction: float = 0.8) -> Listing:
    """Take the training or the test part of a dataset without an official split; stratified by class."""
    train, test = split_indices(torch.as_tensor(listing.labels), train_fraction, seed)
    return listing.take((train if split == "train" else test).tolist())


def _is_split(root: Path, train: Path) -> bool:
    """Return whether a training folder without a held-out one beside it is a split, not a class of trains.

    Raises:
        DataError: If it looks as a split does, and other folders lie beside it.
    """
    if len(subfolders(train)) < 2 or any(path.suffix.lower() in SUFFIXES for path in train.iterdir()):
        return False
    others = [display(Path(folder.name)) for folder in subfolders(root) if folder != train]
    if others:
        raise DataError(
            f"{display(root)}: {display(Path(train.name))}/ holds class folders as a training split does, but none of "
            f"{quoted(others)} is named as a held-out split. Rename the held-out one to val or test, or give "
            f"data={display(train)}; if it is a class of trains, rename it."
        )
    return True


def _held_out(splits: Splits, classes: Sequence[str]) -> _Classes | None:
    """Return the images of the first held-out folder with labels; None if their images have none.

    Raises:
        DataError: If a held-out class is unknown, or no held-out folder holds an image.
    """
    unlabelled = False
    for folder in splits.held_out:
        found = _classes(folder, ())
        files = {name: images for name, images in found.files.items() if images}
        unseen = [name for name in files if name not in classes]
        if len(files) == 1 and unseen:  # test/images/ or test/unknown/, as competitions give it
            unlabelled = True
        elif files and unseen:
            raise DataError(
                f"{display(folder)}: classes {quoted(unseen)} are not in {display(splits.train)}; both need one name."
            )
        elif files:
            return _Classes(files, found.left_out)
        unlabelled |= any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    names = quoted(display(Path(folder.name)) for folder in splits.held_out)
    if splits.held_out and not unlabelled:
        raise DataError(f"{display(splits.held_out[0])}: no image in any class folder.")
    if splits.held_out:
        _log.warning(
            "%s: %s has no class folders; a seeded fifth of %s is held out.",
            display(splits.train.parent), names, display(Path(splits.train.name)),
        )  # fmt: skip
    return None


def _classes(root: Path, exclude: Collection[str]) -> _Classes:
    files: dict[str, list[Path]] = {}
    left_out: Counter[str] = Counter()
    for folder in subfolders(root):
        if folder.name in exclude:
            continue
        images, others = find_images(folder)
        # macOS writes é as two characters, other systems as one
        name = unicodedata.normalize("NFC", display(Path(folder.name)))
        files[name] = files.get(name, []) + images
        left_out += others
    return _Classes(files, left_out)


def _listing(found: _Classes, classes: Sequence[str]) -> Listing:
    index = {name: label for label, name in enumerate(classes)}
    labels = [index[name] for name, images in found.files.items() for _ in images]
    return Listing([image for images in found.files.values() for image in images], labels, classes, found.left_out)


def _one_class(root: Path, name: str) -> DataError:
    inner = root / name
    deeper = len(subfolders(inner)) >= 2 if inner.is_dir() else False
    advice = (
        f"If the classes are one folder deeper, give data={display(inner)}."
        if deeper
        else "The folder must hold one folder per class, or train/ and test/ (or val/) with one folder per class each."
    )
    labels = _label_files(root) or (_label_files(inner) if inner.is_dir() else "")
    return DataError(f"{display(root)}: a ranking needs at least two classes, found only {name!r}. {advice}{labels}")


def _label_files(folder: Path) -> str:
    """Return advice on a file of labels beside the images, or an empty text."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _LABEL_FILES)
    table = next((path for path in found if path.suffix.lower() in _TABLES), None)
    if table is not None:
        return f" To read the labels from {display(Path(table.name))}, give data={display(table)}."
    if found:
        name = display(Path(found[0].name))
        return f" Labels are not read from {name}: save them as CSV with columns image and label, and give data=<file>."
    return ""


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Return one sentence on the files that are not read as images, by their ending: ``left out: 12 .heic ...``."""
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(left_out.items(), key=lambda item: -item[1]))
    heif = not {".heic", ".heif"}.isdisjoint(left_out)
    advice = "; pip install 'itm[heif]' reads .heic and .heif" if heif else ""
    return f"left out: {counts} (not read as images{advice})."
