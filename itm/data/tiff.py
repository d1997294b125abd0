"""TIFF files that Pillow cannot read: more than four bands, colours in floating point, 64-bit numbers."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itm.core.errors import DataError
from itm.data.files import check_size, opened

NODATA_TAG = 42113
"""GDAL's tag: the value of missing pixels, as text."""

PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0
"""Tag of what the values mean, and its word for grey images in which small values are bright."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NONE, _LZW, _PACKBITS = 1, 5, 32773
_DEFLATE = (8, 32946)
_ORIENTATION, _RGB, _OPACITY = 274, 2, 2  # a tag, and its words for colours and for a fourth band
_MOST_BYTES = 1 << 28  # of the decoded image with all its bands


def is_tiff(source: Path | bytes) -> bool:
    """Return whether a file begins as a TIFF does."""
    with opened(source) as file:
        return file.read(4) in _MAGIC


def read_tiff(
    source: Path | bytes, bands: Sequence[int] | None
) -> tuple[NDArray[Any], NDArray[np.uint8] | None, float | None, int, bool]:
    """Read the first page of a TIFF.

    Args:
        source: The file, or its content.
        bands: The bands to pick, counted from 1; None takes a grey or an RGB image as it is.

    Returns:
        The values, ``[H, W]`` or ``[H, W, 3]``, the opacity, uint8, ``[H, W]`` or None, the value that marks missing
        pixels or None, the orientation, 1 to 8, and whether small values are bright.

    Raises:
        DataError: If the page is too large, is not a picture of real numbers, lacks a band, or has several bands of
            which none were picked.
        Exception: Any that the decoder raises for a damaged file.
    """
    import tifffile  # only for the files that Pillow cannot read

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damaged files are reported by name, once
    with opened(source) as stream, tifffile.TiffFile(stream) as file:
        page: Any = file.pages[0]
        rgb = int(page.photometric) == _RGB
        count = int(page.samplesperpixel)
        if not bands and count not in (1, 3) and not (rgb and count > 3):
            raise DataError(
                f"it has {count} bands; set data.bands to the three that appear as red, green and blue, counted from "
                "1, as in data.bands=[3,2,1], or to one"
            )
        _check(page)
        whole = page.asarray(squeeze=False)[:, 0]  # separate planes, height, width, samples of a pixel
        values = np.moveaxis(whole, 0, 2).reshape(*whole.shape[1:3], -1)
        nodata = None
        with suppress(KeyError, TypeError, ValueError):
            nodata = float(str(page.tags[NODATA_TAG].value).strip("\0 "))
        turned = page.tags.get(_ORIENTATION)
        orientation = int(turned.value) if turned else 1
        if bands:
            return pick_bands(values, bands), None, nodata, orientation, False
        negative = int(page.photometric) == WHITE_IS_ZERO
        return *_colours(values, page.extrasamples), nodata, orientation, negative


def pick_bands(values: NDArray[Any], bands: Sequence[int]) -> NDArray[Any]:
    """Pick the bands of ``[H, W]`` or ``[H, W, B]``, counted from 1: ``[H, W]`` if one is picked, else ``[H, W, 3]``.

    Raises:
        DataError: If the image has fewer bands.
    """
    every = values.reshape(*values.shape[:2], -1)
    if max(bands) > every.shape[2]:
        raise DataError(f"it has {every.shape[2]} band(s), and data.bands={list(bands)} picks band {max(bands)}")
    picked = every[..., [band - 1 for band in bands]]
    return picked[..., 0] if len(bands) == 1 else picked


def _colours(values: NDArray[Any], extra: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return grey ``[H, W]`` or colours ``[H, W, 3]``, and the opacity where the fourth band is one."""
    count = values.shape[2]
    if count == 1:
        return values[..., 0], None
    if count == 4 and tuple(extra) == (_OPACITY,) and values.dtype.kind == "u":
        highest_byte = values[..., 3] >> (8 * (values.dtype.itemsize - 1))
        return values[..., :3], highest_byte.astype(np.uint8)
    return values[..., :3], None


def _check(page: Any) -> None:
    """Refuse what cannot be shown or would decode to more memory than there may be."""
    check_size(page.imagewidth, page.imagelength)
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise DataError("its numbers are not real ones")
    if page.imagedepth != 1:
        raise DataError("it is a volume, not a picture")
    if page.nbytes > _MOST_BYTES:
        raise DataError(
            f"{page.imagewidth} x {page.imagelength} pixels of {page.samplesperpixel} bands are more than "
            f"{_MOST_BYTES >> 20} MB; make it smaller"
        )
    compression = int(page.compression)
    if compression not in (_NONE, _PACKBITS, *_DEFLATE) and not (compression == _LZW and find_spec("imagecodecs")):
        advice = "install 'itm[tiff]' or save it with deflate" if compression == _LZW else "save it with deflate"
        raise DataError(f"a TIFF of these bands with compression {page.compression.name} is not read; {advice}")
    block = int(np.prod(page.chunks)) * page.dtype.itemsize
    if block > _MOST_BYTES:
        raise DataError("its blocks are larger than the image may be")
    if compression in _DEFLATE:
        _check_blocks(page, block)


def _check_blocks(page: Any, size: int) -> None:
    """Refuse a block that unpacks to more than its size, which tifffile would hold in memory."""
    handle = page.parent.filehandle
    for offset, packed in zip(page.dataoffsets, page.databytecounts, strict=True):
        handle.seek(offset)
        if len(zlib.decompressobj().decompress(handle.read(packed), size + 1)) > size:
            raise DataError("a block unpacks to more pixels than it has")
