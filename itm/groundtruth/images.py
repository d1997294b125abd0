"""The images of a grid: the part that trains, the test split, and the part that chooses the best epoch and setting."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from itm.core.errors import DataError, SettingError
from itm.core.files import json_digest
from itm.core.splits import split_indices
from itm.data.catalog import CATALOG, CATALOG_PREFIX
from itm.data.image_set import ImageSet, count_shared, load_from_settings
from itm.groundtruth.protocol import Select

_TRAINING_SHARE = 0.8  # the rest validates
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSplits:
    """The images that every trial of a grid sees.

    Args:
        train: Images that train.
        test: Images of the test split.
        validation: Images that choose the best epoch and setting; None where the test split does.
        skipped: Reason of each image left out because it cannot be read.
    """

    train: ImageSet
    test: ImageSet
    validation: ImageSet | None = None
    skipped: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the training images and, where there are some, of the validation images."""
        if self.validation is None:
            return self.train.fingerprint
        return json_digest([self.train.fingerprint, self.validation.fingerprint])


def default_select(data: str) -> Select:
    """Return how the best epoch is chosen by default: on the test split for datasets by name, as in the paper."""
    return "test" if data.removeprefix(CATALOG_PREFIX) in CATALOG else "validation"


def load_splits(data: Mapping[str, Any], seed: int, select: Select) -> ImageSplits:
    """Load the images of the settings ``data``, or their samples.

    Args:
        data: Settings ``name``, ``root``, ``limit``, ``test_limit``, ``on_error``, ``range``, ``bands``, ``columns``,
            ``config``.
        seed: Seed of the split where the dataset has no official one, of the samples and of the validation part.
        select: ``"validation"`` takes a stratified fifth of the training images away for choosing.

    Raises:
        SettingError: If the dataset is unknown or a sample is too small for one image per class.
        DataError: If images are missing, or none of a class can be read.
    """
    load = partial(load_from_settings, data, seed)
    train = load("train", data["limit"])
    try:
        test = load("test", data["test_limit"])
    except SettingError as error:
        raise SettingError(str(error).replace("data.limit=", "data.test_limit=")) from error
    skipped: list[str] = []
    if data["on_error"] == "skip":
        train, test = _readable(train, skipped), _readable(test, skipped)
    if shared := count_shared(train, test):
        _log.warning(
            "data=%s: %d of %d test images are identical to training images, so the accuracies are too high.",
            *(train.name, shared, len(test)),
        )
    if select == "test":
        return ImageSplits(train, test, skipped=tuple(skipped))
    rows, held_out = split_indices(train.labels, _TRAINING_SHARE, seed, train.groups)
    return ImageSplits(train.select(rows), test, train.select(held_out), tuple(skipped))


def _readable(images: ImageSet, skipped: list[str]) -> ImageSet:
    """Return the images that can be decoded and add the reasons of the others to ``skipped``."""
    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(lambda index: _decoding_error(images, index), range(len(images))))
    bad = [reason for reason in reasons if reason is not None]
    if not bad:
        return images
    for reason in bad:
        _log.warning("Image skipped: %s", reason)
    skipped += bad
    good = torch.tensor([index for index, reason in enumerate(reasons) if reason is None], dtype=torch.int64)
    lost = set(images.labels.tolist()) - set(images.labels[good].tolist())
    if lost:
        names = ", ".join(images.classes[label] for label in sorted(lost))
        raise DataError(f"data={images.name}: no image of the class {names} can be read in the {images.split} split.")
    return images.select(good)


def _decoding_error(images: ImageSet, index: int) -> str | None:
    try:
        images.image(index)
    except DataError as error:
        return str(error)
    return None
