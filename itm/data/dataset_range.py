"""The range of values of a dataset whose images are wider than 8 bits, from a sample of its training images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from itm.data.decode import read_values
from itm.data.folders import Listing
from itm.data.items import Item, fetch
from itm.data.stored import Stored, is_wide
from itm.data.value_range import PixelSettings, choose_range

_CANDIDATES, _SAMPLED = 1000, 64  # files whose header is read; images that are decoded and decide the range
_log = logging.getLogger(__name__)


def choose_pixels(name: str, training: Listing, pixels: PixelSettings, seed: int, *, announce: bool) -> PixelSettings:
    """Choose the range of values once for a dataset, from a seeded sample of images; plain 8-bit ones need none.

    Args:
        name: The dataset's name, for the log.
        training: The whole training split: both splits share its range.
        pixels: The settings as typed; a range that is set is kept, unless no image is wide.
        seed: Decides the sample.
        announce: Whether to log the range.

    Returns:
        The settings with the range that was chosen.
    """
    order = np.random.default_rng(seed).permutation(len(training.items))
    candidates = [training.items[i] for i in order[: _CANDIDATES if _has_files(training) else _SAMPLED]]
    wide = [item for item in candidates if _is_wide(item)]
    if pixels.range is not None:
        if wide or pixels.bands:
            return pixels
        if announce:
            _log.warning("data=%s: data.range has no effect, since the images hold plain 8-bit values.", name)
        return replace(pixels, range=None)
    samples = [sample for item in wide[:_SAMPLED] if (sample := _sample(item, pixels)) is not None]
    try:
        low, high = choose_range(np.concatenate([np.empty(0), *samples]))
    except ValueError:  # no value, or none that is finite
        return pixels
    if low == high:
        return pixels
    if announce:
        _log.info(
            "data=%s: values wider than 8 bits: %g appears as black and %g as white, by %d training images; "
            "data.range=[%g,%g] sets it.", name, low, high, len(samples), low, high,
        )  # fmt: skip
    return replace(pixels, range=(low, high))


def _has_files(listing: Listing) -> bool:
    return all(isinstance(item, Path) for item in listing.items)


def _is_wide(item: Item) -> bool:
    try:
        picture = fetch(item)
    except Exception:  # decoding reports the item by name
        return False
    return is_wide(picture) if isinstance(picture, Path | bytes) else isinstance(picture, Stored)


def _sample(item: Item, pixels: PixelSettings) -> NDArray[np.float64] | None:
    try:
        found = read_values(fetch(item), pixels)
    except Exception:  # decoding reports the item by name
        return None
    if not isinstance(found, Stored) or found.values.dtype == np.uint8:
        return None
    return found.sample().astype(np.float64)
