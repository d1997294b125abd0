"""Measured images that packages ship, cut to 32 x 32 pixels: solar cells, a satellite image, a brain, outlines."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.miniature.backdrops import SIZE
from experiments.miniature.packages import Package
from experiments.miniature.targets import Drawings, at_most
from itm.core.errors import DataError
from itm.data import land_cover
from itm.data.catalog import ELPV_CLASSES, elpv_cells
from itm.data.masks import IGNORE

SOLAR_CLASSES = tuple(f"{kind}crystalline, {name}" for kind in ("mono", "poly") for name in ELPV_CLASSES.values())

BRAIN = Package("mricron-data", "BSD-3-Clause")
BRAIN_FOLDER = Path("/usr/share/mricron/templates")
BRAIN_CLASSES = {
    "frontal": (1, 28),
    "insula": (29, 30),
    "cingulum": (31, 36),
    "limbic": (37, 42),
    "occipital": (43, 56),
    "parietal": (57, 70),
    "deep nuclei": (71, 78),
    "temporal": (79, 90),
    "cerebellum": (91, 116),
}
"""First and last region of the Automated Anatomical Labelling (AAL) in each class."""

ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")

_TILES_OF_A_CLASS, _PATCHES_OF_A_CLASS, _ANIMALS_OF_A_CLASS = 120, 100, 120
_BAND = 10  # tiles of a band of longitude, 21 degrees; slices of a block, 10 mm
_PURE = 0.5  # smallest share of the dominant land cover


def solar_cells() -> Drawings:
    """Return the photographs of solar cells: the class is the kind of crystal and the probability of a defect."""
    images, labels = [], []
    for cell in elpv_cells():
        with Image.open(cell.file) as photograph:
            images.append(np.asarray(photograph.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)))
        labels.append(len(ELPV_CLASSES) * (cell.crystal == "poly") + cell.defect)
    return Drawings(np.stack(images), np.array(labels), np.arange(len(images)))


def land_tiles() -> Drawings:
    """Return tiles of 2.1 degrees of a satellite image with the dominant land cover; bands of longitude are groups."""
    picture, cover = land_cover.maps()
    images, labels, groups = [], [], []
    for row in range(cover.shape[0] // SIZE):
        for column in range(cover.shape[1] // SIZE):
            window = np.s_[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            counts = np.bincount(cover[window].ravel(), minlength=IGNORE + 1)[: len(land_cover.CLASSES)]
            if counts.max() >= _PURE * SIZE**2:
                images.append(picture[window])
                labels.append(int(counts.argmax()))
                groups.append(column // _BAND)
    return at_most(_TILES_OF_A_CLASS, Drawings(np.stack(images), np.array(labels), np.array(groups)))


def brain_regions(folder: Path = BRAIN_FOLDER) -> Drawings:
    """Return patches of axial slices of a brain, labelled by the region at their centre; blocks of slices are groups.

    Raises:
        DataError: If a volume cannot be read.
    """
    brain, regions = (read_volume(folder / name) for name in ("ch2.nii.gz", "aal.nii.gz"))
    table = np.full(256, -1)
    for label, (first, last) in enumerate(BRAIN_CLASSES.values()):
        table[first : last + 1] = label
    classes = table[regions.astype(np.uint8)]
    half = SIZE // 2
    inside = np.zeros(classes.shape, bool)
    inside[half:-half:4, half:-half:4, ::4] = True  # neighbours differ by four voxels or more
    places = np.argwhere(inside & (classes >= 0))
    labels = classes[tuple(places.T)]
    kept = at_most(_PATCHES_OF_A_CLASS, Drawings(places.astype(np.uint8), labels, places[:, 2] // _BAND))
    images = []
    for x, y, z in kept.images.tolist():
        # grey matter lies near 80 of 255, and only fat above 127
        patch = brain[x - half : x + half, y - half : y + half, z].T[::-1]
        images.append(np.repeat(np.minimum(patch, 127)[..., None] * 2, 3, axis=-1))
    return Drawings(np.stack(images), kept.labels, kept.groups)


def animal_outlines() -> Drawings:
    """Return silhouettes of ten animals, 28 x 28 pixels with a margin of two.

    Raises:
        DataError: If the package is not installed.
    """
    spec = find_spec("animal_mnist")
    if spec is None or spec.origin is None:
        raise DataError(
            "the pictures come with the package animal-mnist (MIT), which is not installed. Run the command with "
            "`uv run --group pictures`, or install it with `pip install --no-deps animal-mnist`: its files do not need "
            "the packages that it asks for."
        )
    folder = Path(spec.origin).parent / "data" / "Animal_MNIST"
    pixels = read_arrays(folder / "animal_data_version_3.gz").reshape(-1, 28, 28)
    labels = read_arrays(folder / "animal_label_version_3.gz").ravel().astype(np.int64)
    padded = np.pad(pixels.astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    images = np.repeat(padded[..., None], 3, axis=-1)
    return at_most(_ANIMALS_OF_A_CLASS, Drawings(images, labels, np.arange(len(labels))))


def read_volume(file: Path) -> NDArray[np.uint8]:
    """Read a volume of one byte per voxel from a NIfTI-1 file, ``[x, y, z]``.

    Raises:
        DataError: If the file is missing or another kind of file.
    """
    try:
        content = gzip.decompress(file.read_bytes())
        dimensions, kind = struct.unpack_from("<8h", content, 40), struct.unpack_from("<h", content, 70)[0]
        start = int(struct.unpack_from("<f", content, 108)[0])
        if kind != 2 or dimensions[0] != 3:
            raise ValueError(f"data type {kind} and {dimensions[0]} dimensions, expected 2 and 3")
        values = np.frombuffer(content, np.uint8, offset=start)
        return values.reshape(dimensions[1:4], order="F")
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{file}: not readable as a volume ({error}).") from error


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled arrays of numpy and refuses everything else: a pickle may run any function that it names."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_arrays(file: Path) -> NDArray[Any]:
    """Read a compressed pickle that holds an array, or arrays of one shape.

    Raises:
        DataError: If it cannot be read, or holds anything but arrays of numpy.
    """
    try:
        return np.asarray(_ArraysOnly(io.BytesIO(gzip.decompress(file.read_bytes()))).load())
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{file}: not readable as arrays ({error}).") from error
