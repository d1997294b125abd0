"""Masks: the class of every pixel of an image, stored as indices or as colours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from itm.core.errors import DataError
from itm.data.files import check_regular, check_size, content_digest, display, formats, quoted

IGNORE = 255
"""Class of pixels that neither train nor count."""

_UNKNOWN = 254  # a value without a class
MOST_CLASSES = _UNKNOWN
"""Most classes of a dataset of masks: a byte holds them, :data:`IGNORE` and one mark."""


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of some images, decoded one by one when asked for.

    Args:
        items: Mask files, or classes, uint8, ``[N, H, W]``.
        codes: Class of each stored value, :data:`IGNORE` for values to ignore. A colour counts as one number,
            ``red * 65536 + green * 256 + blue``. A stored 255 that is not listed is ignored.
        colours: Whether the files hold colours, not indices.
    """

    items: tuple[Path, ...] | NDArray[np.uint8]
    codes: Mapping[int, int] = field(default_factory=dict)
    colours: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode one mask.

        Returns:
            The class of each pixel, :data:`IGNORE` where there is none, ``[H, W]``.

        Raises:
            DataError: If the file cannot be read or a value in it has no class; the message names both.
        """
        if isinstance(self.items, np.ndarray):
            given: NDArray[np.uint8] = self.items[index]
            return given
        item = self.items[index]
        stored = _read(item, self.colours)
        classes = self._classify(stored)
        if (classes == _UNKNOWN).any():
            unknown = np.unique(stored[classes == _UNKNOWN]).tolist()
            raise DataError(self._without_class(item, unknown))
        return classes

    def select(self, indices: Sequence[int]) -> Masks:
        """Return the masks of some of the images."""
        items = self.items[list(indices)] if isinstance(self.items, np.ndarray) else [self.items[i] for i in indices]
        return replace(self, items=items if isinstance(items, np.ndarray) else tuple(items))

    def path(self, index: int) -> str:
        """Return the mask's file, or its position, as text for messages."""
        item = self.items[index]
        return display(item) if isinstance(item, Path) else f"mask {index}"

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The sha256 of each mask's file or classes; ``b"unreadable"`` for a file that cannot be read."""
        if isinstance(self.items, np.ndarray):
            return tuple(hashlib.sha256(item.tobytes()).digest() for item in self.items)
        with ThreadPoolExecutor() as pool:
            return tuple(pool.map(content_digest, self.items))

    @cached_property
    def fingerprint(self) -> bytes:
        """Identity of the masks in their order and of the meaning of their values, a sha256."""
        codes = json.dumps([sorted(self.codes.items()), self.colours]).encode()
        return hashlib.sha256(b"".join([*self.digests, codes])).digest()

    @cached_property
    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Stored values in ascending order, and the class of each."""
        codes = {IGNORE: IGNORE, **self.codes} if not self.colours else dict(self.codes)
        values = np.array(sorted(codes), dtype=np.int64)
        return values, np.array([codes[value] for value in values.tolist()], dtype=np.uint8)

    def _classify(self, stored: NDArray[np.int64]) -> NDArray[np.uint8]:
        values, classes = self._table
        place = np.searchsorted(values, stored).clip(max=len(values) - 1)
        found: NDArray[np.uint8] = np.where(values[place] == stored, classes[place], np.uint8(_UNKNOWN))
        return found

    def _without_class(self, path: Path, unknown: Sequence[int]) -> str:
        if self.colours:
            found = quoted(",".join(map(str, (v >> 16, v >> 8 & 255, v & 255))) for v in unknown)
            return f"{display(path)}: the colour {found} (red,green,blue) is not in classes.csv; add a row for it."
        return (
            f"{display(path)}: the value {quoted(map(str, unknown))} has no class; list it in classes.csv "
            f"(columns name,value), or store {IGNORE} for pixels to ignore."
        )


def stored_values(path: Path) -> set[int]:
    """Return the distinct values of an index mask.

    Raises:
        DataError: If the file cannot be read or holds colours.
    """
    return set(np.unique(_read(path, colours=False)).tolist())


def class_counts(
    masks: Masks, num_classes: int, sizes: Sequence[tuple[int, int] | None], names: Sequence[str]
) -> Tensor:
    """Read every mask, check it against its image and count its pixels.

    Args:
        masks: The masks.
        num_classes: Number of classes, ``C``.
        sizes: Width and height of each image; None where its header cannot be read, which decoding reports.
        names: Name of each image, for messages.

    Returns:
        Pixels of each class in each mask, int64, ``[N, C]``.

    Raises:
        DataError: If a mask has another size than its image, a value without a class, or only ignored pixels.
    """

    def count(index: int) -> NDArray[np.int64]:
        mask = masks.read(index)
        height, width = mask.shape
        size = sizes[index]
        if size is not None and (width, height) != size:
            raise DataError(
                f"{masks.path(index)}: the mask has {width} x {height} pixels, its image {names[index]} has "
                f"{size[0]} x {size[1]}; give it the size of the image (nearest neighbour)."
            )
        counts = np.bincount(mask.ravel(), minlength=256)[:num_classes]
        if not counts.any():
            raise DataError(
                f"{masks.path(index)}: every pixel is ignored; remove {names[index]} with its mask, or label pixels."
            )
        return counts.astype(np.int64)

    with ThreadPoolExecutor() as pool:
        return torch.from_numpy(np.stack(list(pool.map(count, range(len(masks))))))


def _read(path: Path, colours: bool) -> NDArray[np.int64]:
    """Read the stored values of a mask, ``[H, W]``; a colour becomes one number."""
    try:
        check_regular(path)
        with Image.open(path, formats=formats()) as image:
            check_size(image.width, image.height)
            image.load()
            if colours:
                red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
                return np.asarray(red << 16 | green << 8 | blue)
            values = np.asarray(image)
    except DataError as error:
        raise DataError(f"{display(path)}: {error}.") from error
    except Exception as error:
        raise DataError(f"{display(path)}: the mask cannot be read ({error}); replace the file.") from error
    if values.ndim != 2:
        raise DataError(
            f"{display(path)}: the mask holds colours; list them in classes.csv (columns name,r,g,b), or store the "
            "class of each pixel as an index."
        )
    return values.astype(np.int64)
