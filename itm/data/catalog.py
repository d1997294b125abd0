"""Datasets known by name, each with the source of its images, labels and official split.

The paper's eleven datasets come through torchvision and are downloaded on first use. As in the paper (table 7) the
official training split trains, without the official validation split (Flowers-102, DTD, FGVC-Aircraft, VOC 2007), and
the official test split tests. Earlier benchmarks (SFDA, PED) train on both. Oxford-IIIT Pets has one split of both.
Two datasets have no official split in torchvision, so theirs is seeded and counts as in Kornblith et al. (2019, "Do
Better ImageNet Models Transfer Better?", table 1):

* Caltech-101: 30 images per class train, the others test; the background class is left out.
* SUN397: 50 images per class train, 50 others test.

Five small ones are the targets of the benchmark in miniature (``experiments/miniature`` in the repository) and share no
image with its corpus: 100 of Fashion-MNIST's test images per class train and 200 others test; characters, icons and
clip art are drawn from Debian packages. ``miniature_corpus`` is that corpus.

Pascal VOC 2007 shows several objects per image, while the paper reports plain accuracy. Our reading: the class of an
image is that of its largest object by bounding box.

Five have masks and are targets for segmentation: ``land_cover``, which needs no network, ``cityscapes``, ``voc2012``,
``pets_trimaps`` and ``camvid`` (:mod:`itm.data.mask_catalog`).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch

from itm.core.errors import DataError
from itm.core.splits import sample_per_class
from itm.data import land_cover, mask_catalog
from itm.data.fetch import from_torchvision
from itm.data.folders import Listing, list_classes, seeded_part
from itm.data.mask_catalog import VOC_CLASSES

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package ``dataset-fashion-mnist``."""

DRAWN_BY = "experiments.miniature.targets"
"""Module of a clone that draws the benchmark in miniature; a name, because the installed package lacks it."""
REGISTERED_BY = "experiments.miniature.registered"
"""Module of a clone that reads the registered targets of that benchmark."""
NAMED_BY = "experiments.vlm_miniature.targets"
"""Module of a clone that draws the tasks of the small vision-language models."""

ELPV_CLASSES = {
    0.0: "functional 0%",
    0.33: "functional, unsure 33%",
    0.67: "defective, unsure 67%",
    1.0: "defective 100%",
}
"""Class by the rounded probability of a defect: an expert's verdict and confidence (Deitsch et al., 2019)."""

_CARS_LAYOUT = (
    "The authors' address no longer works, so copy the files there by hand: stanford_cars/devkit/, "
    "stanford_cars/cars_train/, stanford_cars/cars_test/ and stanford_cars/cars_test_annos_withlabels.mat."
)


@dataclass(frozen=True)
class CatalogEntry:
    """One dataset of the catalogue.

    Args:
        read: Returns the listing of a split, given the root of all datasets, the split and the seed.
        license: Licence or terms of the images, as the authors state them.
        masks: Whether the images have masks: a target for segmentation.
    """

    read: Callable[[Path, str, int], Listing]
    license: str
    masks: bool = False


def _pixels(name: str, root: Path, split: str, seed: int) -> Listing:
    """List a torchvision dataset that holds its pixels in memory."""
    data = from_torchvision(name, root, train=split == "train")
    return Listing(np.asarray(data.data), torch.as_tensor(data.targets).tolist(), data.classes)


def _files(name: str, root: Path, split: str, seed: int, *, train: str = "train") -> Listing:
    """List a split of a torchvision dataset that knows its files; ``train`` is its own name of the training split."""
    data = from_torchvision(name, root, split=train if split == "train" else "test")
    labels = [int(label) for label in data._labels]
    items = [Path(file) for file in (data._images if name == "OxfordIIITPet" else data._image_files)]
    # Flowers102 has names only in newer releases of torchvision.
    classes = getattr(data, "classes", None) or [f"class {label + 1}" for label in range(max(labels) + 1)]
    return Listing(items, labels, classes)


def _cars(root: Path, split: str, seed: int) -> Listing:
    data = from_torchvision("StanfordCars", root, split=split, advice=_CARS_LAYOUT)
    files, labels = zip(*data._samples, strict=True)
    return Listing([Path(file) for file in files], [int(label) for label in labels], data.classes)


def _per_class(listing: Listing, split: str, seed: int, train: int, test: int | None) -> Listing:
    """Draw ``train`` images of each class for training, and ``test`` others, or all others, for testing."""
    start, stop = (0, train) if split == "train" else (train, None if test is None else train + test)
    return listing.take(sample_per_class(torch.as_tensor(listing.labels), start, stop, seed).tolist())


def _caltech101(root: Path, split: str, seed: int) -> Listing:
    data = from_torchvision("Caltech101", root)
    listing = list_classes(Path(data.root, "101_ObjectCategories"), exclude=("BACKGROUND_Google",))
    return _per_class(listing, split, seed, train=30, test=None)


def _sun397(root: Path, split: str, seed: int) -> Listing:
    data = from_torchvision("SUN397", root)
    # Torchvision lists the files in the order of the disk; a seeded choice needs the same order everywhere.
    pairs = sorted(zip(map(Path, data._image_files), data._labels, strict=True))
    listing = Listing([file for file, _ in pairs], [label for _, label in pairs], data.classes)
    return _per_class(listing, split, seed, train=50, test=50)


def _voc2007(root: Path, split: str, seed: int) -> Listing:
    data = from_torchvision("VOCDetection", root, year="2007", image_set=split)
    labels = [VOC_CLASSES.index(_largest_object(Path(file))) for file in data.annotations]
    return Listing([Path(file) for file in data.images], labels, VOC_CLASSES)


def _largest_object(annotation: Path) -> str:
    """Return the class of the object with the largest bounding box."""

    def area(item: ElementTree.Element) -> float:
        left, top, right, bottom = (
            float(item.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        return (right - left) * (bottom - top)

    return max(ElementTree.parse(annotation).iterfind("object"), key=area).findtext("name", "")


def _fashion_mnist(root: Path, split: str, seed: int) -> Listing:
    if not SYSTEM_FASHION_MNIST.is_dir():
        return _pixels("FashionMNIST", root, split, seed)
    from torchvision.datasets import FashionMNIST

    stem = SYSTEM_FASHION_MNIST / ("train" if split == "train" else "t10k")
    images = np.frombuffer(gzip.decompress(Path(f"{stem}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress(Path(f"{stem}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return Listing(images.reshape(-1, 28, 28), labels.tolist(), FashionMNIST.classes)


def _fashion_mnist_test(root: Path, split: str, seed: int) -> Listing:
    return _per_class(_fashion_mnist(root, "test", seed), split, seed, train=100, test=200)


def _drawn(function: str, root: Path, split: str, seed: int, module: str | None = None) -> Listing:
    """Read a dataset that a function of a module draws, by default :data:`DRAWN_BY`; it is imported on first use."""
    module = module or DRAWN_BY
    try:
        read: Callable[[Path, str, int], Listing] = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "-"):
            raise
        raise DataError(
            f"its images are drawn by experiments/{module.split('.')[1]}, which is not part of the installed package; "
            "run `python estimate.py` or `python train_groundtruth.py` in a clone of the project's repository."
        ) from error
    return read(root, split, seed)


def _registered(function: str, root: Path, split: str, seed: int) -> Listing:
    return _drawn(function, root, split, seed, module=REGISTERED_BY)


def _digits(root: Path, split: str, seed: int) -> Listing:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # the bundled values are 0 to 16
    return seeded_part(Listing(images, data.target.tolist(), [str(name) for name in data.target_names]), split, seed)


class SolarCell(NamedTuple):
    """One photograph of ELPV.

    Args:
        file: The image, grey, 300 x 300 pixels.
        defect: Index into the classes of :data:`ELPV_CLASSES`.
        crystal: ``"mono"`` or ``"poly"``.
    """

    file: Path
    defect: int
    crystal: str


def elpv_cells() -> list[SolarCell]:
    """List the photographs of ELPV.

    Raises:
        DataError: If their package is not installed.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DataError(
            "the photographs come with the package elpv-dataset (CC BY-NC-SA 4.0), which is not installed. "
            "Run the command with `uv run --extra demo`, or install it with `pip install 'itm[demo]'`."
        )
    folder = Path(spec.origin).parent / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
    probabilities = list(ELPV_CLASSES)
    return [SolarCell(folder / row[0], probabilities.index(round(float(row[1]), 2)), row[2]) for row in rows]


def _elpv(root: Path, split: str, seed: int) -> Listing:
    cells = elpv_cells()
    listing = Listing([cell.file for cell in cells], [cell.defect for cell in cells], list(ELPV_CLASSES.values()))
    return seeded_part(listing, split, seed)


CATALOG: Mapping[str, CatalogEntry] = {
    "aircraft": CatalogEntry(partial(_files, "FGVCAircraft"), "non-commercial research use only"),
    "animal_outlines": CatalogEntry(partial(_registered, "animal_outlines"), "MIT"),
    "brain_regions": CatalogEntry(partial(_registered, "brain_regions"), "BSD-3-Clause"),
    "caltech101": CatalogEntry(_caltech101, "CC BY 4.0"),
    "chess_pieces": CatalogEntry(partial(_registered, "chess_pieces"), "GPL-3+, GPL-2"),
    "cifar10": CatalogEntry(partial(_pixels, "CIFAR10"), "not stated by its authors"),
    "cifar100": CatalogEntry(partial(_pixels, "CIFAR100"), "not stated by its authors"),
    "camvid": CatalogEntry(mask_catalog.camvid, "not stated by its authors", masks=True),
    "cityscapes": CatalogEntry(mask_catalog.cityscapes, "non-commercial research use only", masks=True),
    "clipart": CatalogEntry(partial(_drawn, "clipart"), "public domain"),
    "cyrillic_letters": CatalogEntry(partial(_drawn, "cyrillic_letters", module=NAMED_BY), "OFL-1.1"),
    "decorative_fonts": CatalogEntry(partial(_drawn, "fonts"), "free to use, change and redistribute with attribution"),
    "digits": CatalogEntry(_digits, "CC BY 4.0"),
    "dtd": CatalogEntry(partial(_files, "DTD"), "research use only"),
    "elpv": CatalogEntry(_elpv, "CC BY-NC-SA 4.0"),
    "emoji": CatalogEntry(partial(_registered, "emoji"), "OFL-1.1"),
    "faba_words": CatalogEntry(partial(_drawn, "faba_words", module=NAMED_BY), "GPL-3 or CC BY-SA 4.0"),
    "fashion_mnist": CatalogEntry(_fashion_mnist, "MIT"),
    "fashion_mnist_test": CatalogEntry(_fashion_mnist_test, "MIT"),
    "flowers": CatalogEntry(partial(_files, "Flowers102"), "not stated by its authors"),
    "food101": CatalogEntry(partial(_files, "Food101"), "images from Foodspotting, scientific fair use"),
    "game_creatures": CatalogEntry(partial(_registered, "game_creatures"), "GPL-2+ or CC BY-SA 3.0"),
    "game_terrain": CatalogEntry(partial(_registered, "game_terrain"), "GPL-2+, newer artwork CC BY-SA 4.0"),
    "game_tiles": CatalogEntry(partial(_registered, "game_tiles"), "GPL-2+"),
    "game_units": CatalogEntry(partial(_registered, "game_units"), "GPL-2+, newer artwork CC BY-SA 4.0"),
    "greek_letters": CatalogEntry(partial(_drawn, "greek_letters", module=NAMED_BY), "OFL-1.1"),
    "icon_themes": CatalogEntry(partial(_drawn, "themes"), "Moka: CC BY-SA 4.0 or GPL-3+; Oxygen: LGPL-3+"),
    "land_cover": CatalogEntry(land_cover.land_cover, land_cover.LICENSE, masks=True),
    "land_tiles": CatalogEntry(partial(_registered, "land_tiles"), land_cover.LICENSE),
    "miniature_corpus": CatalogEntry(partial(_drawn, "corpus"), "see python -m experiments.miniature.corpus"),
    "music_signs": CatalogEntry(partial(_registered, "music_signs"), "GPL-3+ with font exception or OFL-1.1"),
    "numix_words": CatalogEntry(partial(_drawn, "numix_words", module=NAMED_BY), "GPL-3+"),
    "obsidian_words": CatalogEntry(partial(_drawn, "obsidian_words", module=NAMED_BY), "GPL-3"),
    "oxygen_icons": CatalogEntry(partial(_registered, "oxygen_icons"), "LGPL-3+"),
    "oxygen_words": CatalogEntry(partial(_drawn, "oxygen_words", module=NAMED_BY), "LGPL-3+"),
    "paper_words": CatalogEntry(partial(_drawn, "paper_words", module=NAMED_BY), "CC BY-SA 4.0"),
    "pets": CatalogEntry(partial(_files, "OxfordIIITPet", train="trainval"), "CC BY-SA 4.0"),
    "pets_trimaps": CatalogEntry(mask_catalog.pets_trimaps, "CC BY-SA 4.0", masks=True),
    "solar_cells": CatalogEntry(partial(_registered, "solar_cells"), "CC BY-NC-SA 4.0"),
    "stamps": CatalogEntry(partial(_registered, "stamps"), "public domain or GPL-2, by stamp"),
    "stanford_cars": CatalogEntry(_cars, "non-commercial research use only"),
    "sun397": CatalogEntry(_sun397, "not stated by its authors"),
    "thai_digits": CatalogEntry(
        partial(_drawn, "script"),
        "GPL-2+ with font exception; Arundina and Waree: Bitstream Vera",
    ),
    "voc2007": CatalogEntry(_voc2007, "images from Flickr under Flickr's terms of use"),
    "voc2012": CatalogEntry(mask_catalog.voc2012, "images from Flickr under Flickr's terms of use", masks=True),
}
"""Datasets by the name that ``data=<name>`` takes."""

CATALOG_PREFIX = "catalog:"
"""Written before a name, it means the dataset even if a folder has the same name."""
