"""Folders of images and masks: which image has which mask, the classes, and the split.

Layouts, with or without split folders (``train/`` and ``val/``, as :func:`itm.data.layout.find_splits` knows them)::

    images/  masks/                          # a seeded fifth of the images is held out
    train/images/  train/masks/  val/...
    images/train/  masks/train/  images/val/ ...
    train/  trainannot/  val/  valannot/     # CamVid, also train_labels/
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from itm.core.errors import DataError
from itm.data.files import display, formats, quoted
from itm.data.folders import Listing, seeded_part
from itm.data.layout import HELD_OUT, TRAIN, find_splits
from itm.data.masks import IGNORE, MOST_CLASSES, Masks, class_counts, stored_values
from itm.data.stored import ORIENTATION_TAG
from itm.data.walk import find_images, subfolders

CLASS_FILES = ("classes.csv", "class_dict.csv")
"""Names of the file that lists classes: columns ``name`` and ``value``, or ``name``, ``r``, ``g`` and ``b``."""
IGNORED_NAMES = ("ignore", "ignored", "void", "unlabelled", "unlabeled")
"""Classes of these names are ignored."""

_IMAGES, _MASKS = ("images", "image", "imgs"), ("masks", "mask", "labels", "annotations")
_BESIDE = ("annot", "_labels", "_masks")  # CamVid's: train/ has its masks in trainannot/ or train_labels/
_SUFFIXES = ("", "_L", "_mask", "_label")  # of a mask's stem, after that of its image
_log = logging.getLogger(__name__)


class _Pair(NamedTuple):
    """A folder of images and that of their masks."""

    images: Path
    masks: Path


class Coding(NamedTuple):
    """Classes and the class of each stored value."""

    classes: tuple[str, ...]
    codes: Mapping[int, int]
    colours: bool


def has_masks(root: Path) -> bool:
    """Return whether a folder has one of the layouts of images and masks."""
    try:
        return bool(_pairs(root))
    except OSError:
        return False


def read_mask_folder(root: Path, split: str, seed: int, coding: Coding | None = None) -> Listing:
    """List one split of a folder of images and masks.

    Args:
        root: The folder.
        split: ``"train"`` or ``"test"``.
        seed: Which fifth is held out, where the folder has no held-out split.
        coding: The classes where the folder has no file of classes; by default one for each value in the masks.

    Returns:
        The listing; an image's label is the class of most of its pixels.

    Raises:
        DataError: If an image has no mask, a mask does not fit its image, a value has no class, or fewer than two
            classes occur in the training masks.
    """
    pairs = _pairs(root)
    train = pairs["train"]
    held_out = next((pairs[name] for name in HELD_OUT if name in pairs), None)
    images, files = _match(train)
    coding = _read_coding(root, files, coding)
    if split == "train" or held_out is None:
        training = listing_of(images, Masks(tuple(files), coding.codes, coding.colours), coding.classes)
        return training if held_out is not None else seeded_part(training, split, seed)
    images, files = _match(held_out)
    return listing_of(images, Masks(tuple(files), coding.codes, coding.colours), coding.classes, training=False)


def listing_of(images: Sequence[Path], masks: Masks, classes: Sequence[str], *, training: bool = True) -> Listing:
    """Check masks against their images and list them; an image's label is the class of most of its pixels.

    Raises:
        DataError: If a mask is wrong, or the masks of a training split show fewer than two classes.
    """
    counts = class_counts(masks, len(classes), [_size(path) for path in images], [display(path) for path in images])
    present = counts.sum(dim=0) > 0
    if training and int(present.sum()) < 2:
        only = quoted(name for name, found in zip(classes, present.tolist(), strict=True) if found)
        raise DataError(
            f"{masks.path(0)}: this and the other {len(masks) - 1} masks show one class only, {only}; a ranking needs "
            f"two. The value {IGNORE} is ignored unless classes.csv lists it."
        )
    return Listing(images, torch.argmax(counts, dim=1).tolist(), classes, masks=masks)


def _pairs(root: Path) -> dict[str, _Pair]:
    """Return the folders of images and masks by split; empty for another layout, ``train`` alone for no split."""
    folders = {folder.name: folder for folder in subfolders(root)}
    outer = _pair(folders)
    if outer is not None:
        names = {folder.name for folder in subfolders(outer.masks)}
        inner = {f.name: _Pair(f, outer.masks / f.name) for f in subfolders(outer.images) if f.name in names}
        return _by_split(inner) or {"train": outer}
    found: dict[str, _Pair] = {}
    for name, folder in folders.items():
        beside = next((folders[name + word] for word in _BESIDE if name + word in folders), None)
        pair = _Pair(folder, beside) if beside is not None else _pair({f.name: f for f in subfolders(folder)})
        if pair is not None:
            found[name] = pair
    return _by_split(found)


def _pair(folders: Mapping[str, Path]) -> _Pair | None:
    images = next((folders[name] for name in _IMAGES if name in folders), None)
    masks = next((folders[name] for name in _MASKS if name in folders), None)
    return None if images is None or masks is None else _Pair(images, masks)


def _by_split(found: Mapping[str, _Pair]) -> dict[str, _Pair]:
    """Rename the folders after their split; empty where none of the names means a training split."""
    splits = find_splits([Path(name) for name in found])
    if splits is None:
        return {}
    named = {TRAIN[0]: found[splits.train.name]}
    for folder in splits.held_out[:1]:
        named[HELD_OUT[0]] = found[folder.name]
    return named


def _match(pair: _Pair) -> tuple[list[Path], list[Path]]:
    """Return the images of a split and the mask of each.

    Raises:
        DataError: If the folder holds no image, or an image has no mask.
    """
    images, _ = find_images(pair.images)
    if not images:
        raise DataError(f"{display(pair.images)}: no image in it.")
    by_stem = {_stem(path, pair.masks): path for path in find_images(pair.masks)[0]}
    found = []
    for image in images:
        stem = _stem(image, pair.images)
        mask = next((by_stem[stem + suffix] for suffix in _SUFFIXES if stem + suffix in by_stem), None)
        if mask is None:
            raise DataError(
                f"{display(image)}: no mask; expected {display(pair.masks / stem)}.png. Add it or remove the image."
            )
        found.append(mask)
    if len(by_stem) > len(found):
        _log.warning("%s: %d masks have no image.", display(pair.masks), len(by_stem) - len(found))
    return images, found


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _size(path: Path) -> tuple[int, int] | None:
    """Return width and height of an image as it is seen; None where its header cannot be read."""
    with suppress(Exception), Image.open(path, formats=formats()) as image:  # decoding reports the file by name
        turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)
    return None


def _read_coding(root: Path, masks: Sequence[Path], default: Coding | None) -> Coding:
    """Read the classes from the folder's file of classes, or from the values of the training masks."""
    path = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if path is not None:
        return read_classes(path)
    if default is not None:
        return default
    values: set[int] = set()
    for mask in masks:
        values |= stored_values(mask)
    indices = sorted(values - {IGNORE})
    if len(indices) > MOST_CLASSES:
        raise DataError(
            f"{display(root)}: the masks hold {len(indices)} values, more than {MOST_CLASSES} classes; store the class "
            "of each pixel, or list the classes in classes.csv."
        )
    classes = tuple(f"class {value}" for value in indices)
    return Coding(classes, {value: index for index, value in enumerate(indices)}, False)


def read_classes(path: Path) -> Coding:
    """Read a file of classes: columns ``name`` and ``value``, or ``name``, ``r``, ``g`` and ``b``.

    Raises:
        DataError: If a column or a number is missing; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [_plain_row(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{display(path)}: cannot be read ({error}).") from error
    classes: list[str] = []
    codes: dict[int, int] = {}
    colours = bool(rows) and "value" not in rows[0]
    for number, row in enumerate(rows, start=2):
        value, name = _value(path, number, row, colours), row.get("name", "")
        if name.lower() in IGNORED_NAMES:
            codes[value] = IGNORE
            continue
        if name not in classes:  # several values may share a class
            classes.append(name)
        codes[value] = classes.index(name)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(f"{display(path)}: {len(classes)} classes; expected 2 to {MOST_CLASSES}, one a line.")
    return Coding(tuple(classes), codes, colours)


def _plain_row(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return a row with its columns in lower case and all texts stripped; cells beyond the header count as empty."""
    return {str(name).strip().lower(): text.strip() if isinstance(text, str) else "" for name, text in row.items()}


def _value(path: Path, number: int, row: Mapping[str, str], colours: bool) -> int:
    """Return the stored value of a row, or its colour as one number."""
    keys = ("r", "g", "b") if colours else ("value",)
    texts = [row.get(key, "") for key in keys]
    if not row.get("name") or not all(text.isdigit() and int(text) < (256 if colours else 65536) for text in texts):
        raise DataError(
            f"{display(path)}: line {number} has no name, value or colour; expected the columns name,value or "
            "name,r,g,b with whole numbers, as in road,128,64,128."
        )
    value = 0
    for text in texts:
        value = value << 8 | int(text)
    return value
