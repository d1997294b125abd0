"""Datasets of masks known by name: torchvision's, and CamVid as its authors' copies lay it out."""

from __future__ import annotations

from pathlib import Path

from itm.core.errors import DataError
from itm.data.fetch import from_torchvision
from itm.data.folders import Listing
from itm.data.mask_folders import Coding, has_masks, listing_of, read_mask_folder
from itm.data.masks import IGNORE, Masks

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# of the copy with trainannot/: 11 classes, then the pixels to ignore
_CAMVID = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist"),
)
_CAMVID_CODING = Coding(_CAMVID, {index: index for index in range(len(_CAMVID))} | {len(_CAMVID): IGNORE}, False)

_CITYSCAPES_LAYOUT = (
    "It needs an account at its authors' site; put leftImg8bit/ and gtFine/ of the archives leftImg8bit_trainvaltest "
    "and gtFine_trainvaltest into the folder cityscapes/ of data.root."
)


def cityscapes(root: Path, split: str, seed: int) -> Listing:
    """List Cityscapes with its 19 training classes; the official validation split tests."""
    part = "train" if split == "train" else "val"
    settings = {"split": part, "mode": "fine", "target_type": "semantic"}
    data = from_torchvision("Cityscapes", root / "cityscapes", advice=_CITYSCAPES_LAYOUT, **settings)
    trained = [entry for entry in data.classes if entry.train_id not in (-1, IGNORE)]
    codes = {entry.id: entry.train_id if entry in trained else IGNORE for entry in data.classes if entry.id >= 0}
    classes = [entry.name for entry in sorted(trained, key=lambda entry: entry.train_id)]
    masks = Masks(tuple(Path(files[0]) for files in data.targets), codes)
    return listing_of([Path(file) for file in data.images], masks, classes, training=split == "train")


def voc2012(root: Path, split: str, seed: int) -> Listing:
    """List Pascal VOC 2012 with background and 20 classes; the official validation split tests."""
    data = from_torchvision("VOCSegmentation", root, year="2012", image_set="train" if split == "train" else "val")
    classes = ("background", *VOC_CLASSES)
    masks = Masks(tuple(Path(file) for file in data.masks), {index: index for index in range(len(classes))})
    return listing_of([Path(file) for file in data.images], masks, classes, training=split == "train")


def pets_trimaps(root: Path, split: str, seed: int) -> Listing:
    """List Oxford-IIIT Pets as pet and background; the border between them is ignored."""
    part = "trainval" if split == "train" else "test"
    data = from_torchvision("OxfordIIITPet", root, split=part, target_types="segmentation")
    masks = Masks(tuple(Path(file) for file in data._segs), {1: 0, 2: 1, 3: IGNORE})
    return listing_of([Path(file) for file in data._images], masks, ("pet", "background"), training=split == "train")


def camvid(root: Path, split: str, seed: int) -> Listing:
    """List CamVid from the folder ``camvid/``, in either of its copies' layouts.

    Raises:
        DataError: If the folder is missing or has another layout.
    """
    folder = root / "camvid"
    if not folder.is_dir() or not has_masks(folder):
        raise DataError(
            f"CamVid is not in data.root={root}, and no library downloads it; put train/ and trainannot/ (or "
            "train_labels/ with class_dict.csv), and the same for val/ and test/, into its folder camvid/."
        )
    return read_mask_folder(folder, split, seed, _CAMVID_CODING)
