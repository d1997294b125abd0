"""The range of values of a dataset whose images are wider than 8 bits, from a sample of its training images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from itm.data.folders import Listing
from itm.data.stored import Stored, is_wide, read
from itm.data.value_range import PixelSettings, choose_range

_CANDIDATES, _SAMPLED = 1000, 64  # files whose header is read, and images whose values decide the range
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
    order = np.random.default_rng(seed).permutation(len(training.items))[:_CANDIDATES]
    wide = [Path(training.items[i]) for i in order if is_wide(Path(training.items[i]))]
    if pixels.range is not None:
        if wide or pixels.bands:
            return pixels
        if announce:
            _log.warning("data=%s: data.range has no effect, since the images hold plain 8-bit values.", name)
        return replace(pixels, range=None)
    samples = [sample for path in wide[:_SAMPLED] if (sample := _sample(path, pixels.bands)) is not None]
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


def _sample(path: Path, bands: Sequence[int] | None) -> NDArray[np.float64] | None:
    try:
        found = read(path, bands)
    except Exception:  # decoding reports the file by name
        return None
    if not isinstance(found, Stored) or found.values.dtype == np.uint8:
        return None
    return found.sample().astype(np.float64)
