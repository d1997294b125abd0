"""Images that are not files of their own: in the rows of a table, in a dataset, or in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from itm.core.errors import DataError
from itm.data.files import UNREADABLE, content_digest, display
from itm.data.stored import Stored, holds_wide

Picture = Path | bytes | Image.Image | Stored
"""An image as a dataset holds it: a file, the content of one, a decoded image, or values wider than 8 bits."""

_CHANNELS = (1, 3, 4)
_LOCK = Lock()  # a dataset may read from one file handle, which threads must not share


class ImageRows(Protocol):
    """A dataset that gives an image for a row number."""

    def __len__(self) -> int: ...
    def picture(self, row: int) -> Picture:
        """Return the image of a row."""


class HeldImage(NamedTuple):
    """An image in memory, such as the content of a file in a row of a table.

    Args:
        name: Its name in messages.
        value: The image.
    """

    name: str
    value: bytes | Image.Image | Stored

    def fetch(self) -> Picture:
        """Return the image; one of Pillow reads its file now, if it has not before."""
        if isinstance(self.value, Image.Image):
            with _LOCK:
                self.value.load()
        return self.value


class DatasetImage(NamedTuple):
    """An image that its dataset reads when asked for.

    Args:
        name: Its name in messages.
        rows: The dataset.
        number: The row, from 0.
    """

    name: str
    rows: ImageRows
    number: int

    def fetch(self) -> Picture:
        """Read the image."""
        with _LOCK:
            return self.rows.picture(self.number)


Item = Path | HeldImage | DatasetImage
"""An image of a dataset."""


def label(item: Item) -> str:
    """Return an item's file or name as text for messages."""
    return display(item) if isinstance(item, Path) else item.name


def fetch(item: Item) -> Picture:
    """Return the image of an item as its dataset holds it.

    Raises:
        Exception: Any that the dataset raises.
    """
    found = item if isinstance(item, Path) else item.fetch()
    wide = isinstance(found, Image.Image) and holds_wide(found)
    return Stored(np.array(found)) if wide else found


def upright(image: Image.Image) -> Image.Image:
    """Return a copy of an image, turned as its EXIF says."""
    with suppress(Exception):  # a viewer shows an image with broken EXIF as it is stored
        return ImageOps.exif_transpose(image)
    return image.copy()


def digests(items: tuple[Item, ...]) -> Iterator[bytes]:
    """Return the sha256 of each item: of a file's bytes, wherever these lie, or of the pixels of a decoded image.

    A file in a folder and its content in a table have one digest. ``b"unreadable"`` stands for an item that cannot be
    read.
    """
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_digest, items)


def _digest(item: Item) -> bytes:
    if isinstance(item, Path):
        return content_digest(item)
    try:
        found = fetch(item)
        if isinstance(found, Path):
            return content_digest(found)
        if isinstance(found, bytes):
            return hashlib.sha256(found).digest()
        return _pixel_digest(found)
    except Exception:  # decoding reports the item by name
        return UNREADABLE


def _pixel_digest(found: Image.Image | Stored) -> bytes:
    if isinstance(found, Stored):
        parts = [part for part in (found.values, found.alpha) if part is not None]
    else:
        shown = upright(found)
        parts = [np.asarray(shown.convert("RGBA" if shown.has_transparency_data else "RGB"))]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return digest.digest()


def as_picture(value: Any) -> Picture:
    """Turn what a dataset calls an image into one.

    Args:
        value: A path, the bytes of an image file, a dictionary of ``bytes`` and ``path`` as Hugging Face stores images,
            a Pillow image, or an array or tensor, ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` with 1, 3 or 4 channels.

    Returns:
        The image; one of Pillow is the value itself.

    Raises:
        DataError: If the value is not an image.
    """
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str | os.PathLike) and str(value).strip():
        return Path(value).expanduser()
    if isinstance(value, bytes | bytearray | memoryview) and len(value):
        return bytes(value)
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, Tensor):
        return _from_array(value.detach().cpu().numpy(), channels_first=True)
    if isinstance(value, np.ndarray):
        return _from_array(value, channels_first=False)
    raise DataError(
        f"{type(value).__name__} is not an image; expected a path, bytes, a PIL image, an array or a tensor"
    )


def _from_array(array: Any, *, channels_first: bool) -> Image.Image | Stored:
    first = array.ndim == 3 and array.shape[0] in _CHANNELS
    if first and (channels_first or array.shape[2] not in _CHANNELS):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype.kind not in "buif" or not array.size or array.shape[2:] not in ((), (3,), (4,)) or array.ndim < 2:
        raise DataError(
            f"an array of {array.dtype} with the shape {list(array.shape)} is not an image; expected numbers, "
            "[H, W], [H, W, 3] or [3, H, W]"
        )
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    return Stored(array[..., :3] if array.ndim == 3 else array)
