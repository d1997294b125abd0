"""Images as a person sees them: RGB, upright, white behind what is transparent."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from itm.core.errors import DataError
from itm.data.files import check_regular
from itm.data.items import Item, Picture, fetch, label, upright
from itm.data.stored import ORIENTATION_TAG, Stored, read
from itm.data.tiff import pick_bands
from itm.data.value_range import PLAIN, PixelSettings, choose_range, to_bytes

MOST_STRETCHED = 50
"""Of an image more than this many times as long as wide, the middle is shown: resizing its short side to a network's
input would make the long one take gigabytes, of which a centre crop keeps the middle."""

REFUSED_STRETCHED = 100_000
"""An image more than this many times as long as wide is refused."""

_STRIP = 256  # rows that are converted at a time, so that a large image is in memory once, not four times

# Pillow warns at every image above its mark; such images are shrunk or refused by name here. The filter is set once:
# changing it around each image would make Python forget which other warnings it has shown, and is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(item: Item | str, pixels: PixelSettings = PLAIN) -> Image.Image:
    """Decode one image file, or an image that a table or a dataset holds.

    Orientation from EXIF is applied; palette, alpha, grey, 1-bit, CMYK, 16-bit and floating-point images become 8-bit
    RGB; colour profiles are ignored; of several frames the first is taken. Values wider than 8 bits are scaled from
    ``pixels.range`` to 0 to 255, or from a range chosen from the image alone
    (:func:`itm.data.value_range.choose_range`).

    Images above ``PIL.Image.MAX_IMAGE_PIXELS`` (89 megapixels, decoded 0.3 GB; a third as many for colours of 16 bits)
    are too large for a worker's memory: a JPEG of up to twice as many pixels is decoded at half its width and height,
    which does not show at a network's input size, anything else is refused. An image more than 50 times as long as
    wide is cut to its middle.

    Args:
        item: The file, or the image of a table or dataset.
        pixels: The range of values, and the bands of multi-band images.

    Returns:
        The image, mode ``"RGB"``, its own size.

    Raises:
        DataError: If the file is missing, truncated, too large or not an image; the message names it.
    """
    item = Path(item) if isinstance(item, str) else item
    try:
        found = read_values(fetch(item), pixels)
        return as_rgb(found) if isinstance(found, Image.Image) else _from_values(found, pixels)
    except Exception as error:  # damaged files make decoders raise nearly anything, from OSError to struct.error
        raise DataError(f"{label(item)}: not readable as an image ({_reason(error)}).") from error


def read_values(picture: Picture, pixels: PixelSettings) -> Image.Image | Stored:
    """Read an image: a Pillow image, which may be changed, or values that are wider than 8 bits or were picked.

    Raises:
        DataError: If a file is not a regular one, or the image is too large or lacks a band.
        Exception: Any that a decoder raises for a damaged file.
    """
    if isinstance(picture, Path):
        check_regular(picture)
    if isinstance(picture, Path | bytes):
        return read(picture, pixels.bands)
    if isinstance(picture, Stored):
        return picture._replace(values=pick_bands(picture.values, pixels.bands)) if pixels.bands else picture
    if pixels.bands:
        return Stored(pick_bands(np.asarray(picture), pixels.bands))
    return upright(picture)


def as_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded 8-bit image of any mode into upright RGB, cut to its middle where it is extremely long.

    Args:
        image: The image, loaded; it may be changed.

    Raises:
        DataError: If the image is too long to be cut.
        ValueError: If Pillow cannot convert the image's mode to RGB.
    """
    with suppress(Exception):  # a viewer shows an image with broken EXIF as it is stored
        ImageOps.exif_transpose(image, in_place=True)
    box = _middle(*image.size)
    if box is not None:
        image = image.crop(box)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    shown = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        # Pillow reaches RGBA from its two-band modes by way of LA only.
        rgba = (strip.convert("LA") if image.mode == "La" else strip).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        shown.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
    return shown


def _from_values(stored: Stored, pixels: PixelSettings) -> Image.Image:
    values, alpha = stored.values, stored.alpha
    box = _middle(values.shape[1], values.shape[0])
    if box is not None:
        left, top, right, bottom = box
        values = values[top:bottom, left:right]
        alpha = None if alpha is None else alpha[top:bottom, left:right]
    if values.dtype == np.uint8:
        shown = values.copy()
    else:
        if not np.isfinite(values).any():
            raise DataError("it holds no finite value")
        span = (pixels.range[0], pixels.range[1]) if pixels.range else choose_range(stored.sample())
        shown = np.empty(values.shape, np.uint8)
        for start in range(0, len(values), _STRIP):
            rows = slice(start, start + _STRIP)
            shown[rows] = to_bytes(values[rows], span, stored.nodata)
        if stored.negative:
            shown = 255 - shown
    image = Image.fromarray(shown)
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    image.getexif()[ORIENTATION_TAG] = stored.orientation
    return as_rgb(image)


def _middle(width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the box of the middle of an extremely long image; None if all of the image is kept."""
    short, long = min(width, height), max(width, height)
    if long > short * REFUSED_STRETCHED:
        raise DataError(f"{width} x {height} pixels are longer than {REFUSED_STRETCHED:,} times the short side")
    if long <= short * MOST_STRETCHED:
        return None
    kept = short * MOST_STRETCHED
    start = (long - kept) // 2
    return (start, 0, start + kept, height) if width > height else (0, start, width, start + kept)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if "cannot identify" in str(error):
        return "no known image format"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
