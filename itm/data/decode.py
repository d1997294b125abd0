"""Image files as a person sees them: RGB, upright, white behind what is transparent."""

from __future__ import annotations

import hashlib
import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from itm.core.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Endings, in lower or upper case, of the files that count as images in a folder."""

# Pillow warns at every image above its mark; such images are shrunk or refused by name here. The filter is set once:
# changing it around each image would make Python forget which other warnings it has shown, and is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: Path) -> Image.Image:
    """Decode one image file.

    Orientation from EXIF is applied; palette, alpha, grey, 1-bit, CMYK, 16-bit and floating-point images become 8-bit
    RGB (see :func:`as_rgb`); colour profiles are ignored; of several frames the first is taken. Images above
    ``PIL.Image.MAX_IMAGE_PIXELS`` (89 megapixels, decoded 0.3 GB) are too large for a worker's memory: a JPEG of up to
    twice as many pixels is decoded at half its width and height, which no backbone's input size can tell, anything
    else is refused.

    Args:
        path: The file.

    Returns:
        The image, mode ``"RGB"``, its own size.

    Raises:
        DataError: If the file is missing, truncated, too large or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            _shrink(image)
            image.load()
            return as_rgb(image)
    except Exception as error:  # damaged files make decoders raise nearly anything, from OSError to struct.error
        raise DataError(f"{display(path)}: not readable as an image ({_reason(error)}).") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded image of any mode into upright 8-bit RGB.

    Wider numbers than bytes are scaled, never clipped: 16-bit grey (and 32-bit grey that fits) by 255/65535, floating
    point in 0 to 1 by 255, in 0 to 255 not at all; any other range is stretched from its minimum to its maximum.

    Args:
        image: The image, loaded; it may be changed.

    Raises:
        DataError: If a floating-point image holds no finite value.
        ValueError: If Pillow knows no way from the image's mode to RGB.
    """
    with suppress(Exception):  # a viewer shows an image with broken EXIF as it is stored
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        return _bytes_of(image).convert("RGB")
    if image.has_transparency_data:
        # Pillow reaches RGBA from its two-band modes by way of LA only.
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def display(path: Path) -> str:
    """The path as text that can always be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def content(path: Path) -> bytes:
    """The sha256 of a file's bytes; ``b"unreadable"`` where they cannot be read, which :func:`decode` then reports."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"


def _shrink(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or image.width * image.height <= limit:
        return
    size = f"{image.width} x {image.height}"
    image.draft(None, (image.width // 2, image.height // 2))  # does nothing where the format cannot
    if image.width * image.height > limit:
        raise DataError(f"{size} pixels are more than the {limit / 1e6:.0f} million that are decoded; make it smaller")


def _bytes_of(image: Image.Image) -> Image.Image:
    values = np.array(image, dtype=np.float32)
    if isinstance(clear := image.info.get("transparency"), int):
        values[values == clear] = 65535
    finite = np.isfinite(values)
    if not finite.any():
        raise DataError("it holds no finite value")
    low, high = float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))
    values = np.clip(np.nan_to_num(values, nan=low), low, high) if not finite.all() else values
    units = (1, 255, 65535) if image.mode == "F" else (65535,)
    unit = next((unit for unit in units if low >= 0 and high <= unit), None)
    scaled = values * (255 / unit) if unit else (values - low) * (255 / (high - low or 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if "cannot identify" in str(error):
        return "no known image format"
    return str(error).rstrip(".") or type(error).__name__
