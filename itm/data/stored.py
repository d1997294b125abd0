"""Stored values of an image file: 8-bit images as Pillow reads them, wider values and many bands as arrays."""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from itm.core.errors import DataError
from itm.data.files import check_regular, check_size, formats, opened
from itm.data.tiff import NODATA_TAG, PHOTOMETRIC_TAG, WHITE_IS_ZERO, is_tiff, pick_bands, read_tiff

ORIENTATION_TAG = 0x0112
"""Tag of EXIF and TIFF: how the image is turned."""

_BITS, _SAMPLES, _PLANES = 258, 277, 284  # tags of TIFF
_COLOUR_PART = 3  # a third of the pixels that other images may have: arrays of colours take three times the memory
_NEVER_WIDE = (".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp")
# Pillow also logs what it raises; damaged files are reported by name, once.
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_PNG = b"\x89PNG\r\n\x1a\n"
_SHOWN_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")


class Stored(NamedTuple):
    """Values that are wider than 8 bits, or bands that were picked.

    Args:
        values: ``[H, W]`` or ``[H, W, 3]``, any type of numbers.
        alpha: Opacity, uint8, ``[H, W]``, or None.
        nodata: The file's mark of a missing pixel, or None.
        orientation: How EXIF turns the image, 1 to 8; 1 is upright.
        negative: Whether small values are bright, as in some X-rays.
    """

    values: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    nodata: float | None = None
    orientation: int = 1
    negative: bool = False

    def sample(self, count: int = 20_000) -> NDArray[Any]:
        """Return about ``count`` values on a regular grid, without pixels that the file marks as missing."""
        step = max(1, round((self.values.size / count) ** 0.5))
        some: NDArray[Any] = self.values[::step, ::step].ravel()
        measured: NDArray[Any] = some[some != self.nodata] if self.nodata is not None else some
        return measured if measured.size else some


def read(source: Path | bytes, bands: Sequence[int] | None = None) -> Image.Image | Stored:
    """Read a file: a Pillow image that is loaded where its values are plain 8-bit ones, its values otherwise.

    Args:
        source: The file, or its content.
        bands: The bands to pick, counted from 1.

    Raises:
        DataError: If the image is too large, or lacks a band, or has bands and none were picked.
        Exception: Any that a decoder raises for a damaged file.
    """
    try:
        return _read(BytesIO(source) if isinstance(source, bytes) else source, source, bands)
    except (DataError, FileNotFoundError, MemoryError):
        raise
    except Exception:
        # Viewers show a PNG whose text or colour profile cannot be read; Pillow refuses it.
        shown = _without_texts(source)
        if shown is None:
            raise
    return _read(BytesIO(shown), source, bands)


def is_wide(source: Path | bytes) -> bool:
    """Return whether a file's header announces values wider than 8 bits, or bands that Pillow does not know."""
    if isinstance(source, Path) and source.suffix.lower() in _NEVER_WIDE:
        return False
    try:
        if isinstance(source, Path):
            check_regular(source)
        with opened(source) as file, Image.open(file, formats=formats()) as image:
            return holds_wide(image) or _raw_layout(image)[1] != "" or _beyond_pillow(image, None)
    except UnidentifiedImageError:
        return is_tiff(source)
    except Exception:  # decoding reports the file by name
        return False


def holds_wide(image: Image.Image) -> bool:
    """Return whether an image is grey with values wider than 8 bits."""
    return image.mode.startswith(("I", "F"))


def _read(stream: Path | BytesIO, source: Path | bytes, bands: Sequence[int] | None) -> Image.Image | Stored:
    try:
        image = Image.open(stream, formats=formats())
    except UnidentifiedImageError:
        if is_tiff(source):
            return Stored(*read_tiff(source, bands))
        raise
    with image:
        if _beyond_pillow(image, bands):
            return Stored(*read_tiff(source, bands))
        _shrink(image)
        found = _grey(image) or _colours(image, stream)
        if found is None and bands:
            check_size(image.width, image.height, _COLOUR_PART)
            image.load()
            plain = image.convert("RGB") if image.mode in ("P", "PA", "1", "CMYK", "YCbCr", "LAB", "HSV") else image
            found = Stored(np.asarray(plain))
        if found is None:
            image.load()
            return image
        values = pick_bands(found.values, bands) if bands else found.values
        return found._replace(values=values, orientation=_orientation(image))


def _beyond_pillow(image: ImageFile.ImageFile, bands: Sequence[int] | None) -> bool:
    """Return whether Pillow shows fewer bands of a TIFF than are picked, or lacks a decoder for its layout."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if image.format != "TIFF":
        return False
    if bands and max(bands) > len(image.getbands()):
        return True
    wide = max(tags.get(_BITS, (1,))) > 8
    return wide and tags.get(_PLANES) == 2 and tags.get(_SAMPLES, 1) > 1


def _shrink(image: ImageFile.ImageFile) -> None:
    """Decode a JPEG of up to twice the allowed pixels at half its width and height; refuse other large images."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        width, height = image.size
        image.draft(None, (width // 2, height // 2))  # does nothing where the format cannot
        if image.width * image.height > limit:
            check_size(width, height)


def _grey(image: ImageFile.ImageFile) -> Stored | None:
    """Read a grey image of integers or floating-point numbers wider than 8 bits."""
    if not holds_wide(image):
        return None
    values = np.array(image)
    clear = image.info.get("transparency")
    alpha = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
    # Pillow inverts such images of 8 bits itself
    negative = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO
    return Stored(values, alpha, _nodata(image), negative=negative)


def _colours(image: ImageFile.ImageFile, stream: Path | BytesIO) -> Stored | None:
    """Read a colour image of 16 bits, of which Pillow keeps only one byte at a time: the first, then the second."""
    name, depth = _raw_layout(image)
    if not depth:
        return None
    check_size(image.width, image.height, _COLOUR_PART)
    low_first = depth == "16L" or (depth == "16N" and sys.byteorder == "little")
    if name == "LA":
        both = _reread(image, "RGBA", "RGBA")  # four bytes of a pixel: two of grey, two of opacity
        first, second = both[..., 0::2], both[..., 1::2]
    else:
        first = _reread(image, image.mode, f"{name};16B")
        with Image.open(stream, formats=formats()) as again:
            second = _reread(again, image.mode, f"{name};16L")
    high, low = (second, first) if low_first else (first, second)
    values = high.astype(np.uint16) << 8 | low
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        return Stored(values, np.where((values == clear).all(-1), 0, 255).astype(np.uint8))
    grey = values[..., 0] if name == "LA" else values[..., :3]
    return Stored(grey, high[..., -1] if name in ("RGBA", "LA") else None, _nodata(image))


def _raw_layout(image: ImageFile.ImageFile) -> tuple[str, str]:
    """Return the channels and the byte order of a colour image of 16 bits, or empty texts for any other."""
    layouts = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile if tile.args]
    name, _, depth = str(layouts[0] if layouts else "").partition(";")
    wide = name in ("RGB", "RGBA", "RGBX", "LA") and depth in ("16B", "16L", "16N")
    return (name, depth) if wide else ("", "")


def _reread(image: ImageFile.ImageFile, mode: str, raw: str) -> NDArray[np.uint8]:
    """Decode with another layout of raw bytes than the one that Pillow chose."""
    image._mode = mode
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    return np.array(image)


def _nodata(image: ImageFile.ImageFile) -> float | None:
    text = getattr(image, "tag_v2", {}).get(NODATA_TAG)
    with suppress(TypeError, ValueError):
        return float(str(text).strip("\0 "))
    return None


def _orientation(image: ImageFile.ImageFile) -> int:
    # After decoding: Pillow decodes a PNG to find its EXIF, and would not report damage a second time.
    with suppress(Exception):  # a viewer shows an image with broken EXIF as it is stored
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    return 1


def _without_texts(source: Path | bytes) -> bytes | None:
    """Return a PNG without chunks that do not change its pixels; None if there are none, or the file is not a PNG."""
    with opened(source) as file:
        data = file.read(len(_PNG))
        if data != _PNG:
            return None
        data += file.read()
    kept, start = [data[:8]], 8
    while start + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[start : start + 8])
        if name in _SHOWN_CHUNKS:
            kept.append(data[start : start + length + 12])
        start += length + 12
    shown = b"".join(kept)
    return shown if len(shown) < len(data) else None
