"""Masks as small pictures for the page."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itm.data.masks import IGNORE
from itm.report.pictures import thumbnail

if TYPE_CHECKING:
    from itm.evaluation.predicted_masks import MaskExamples

SIDE = 108
"""Longer side of a picture, pixels."""
_IGNORED = "#ffffff"
# of Paul Tol's bright, muted and light palettes, so that neighbouring classes differ for most colour vision
_COLOURS = (
    *("#4477AA", "#117733", "#88CC66", "#CCBB44", "#EE7733", "#AA3377", "#66CCEE", "#CC6677", "#DDDDDD", "#332288"),
    *("#999933", "#882255", "#44AA99", "#EE3377", "#555555", "#BBAA88"),
)


def class_colour(label: int) -> str:
    """Return the colour of a class as ``#rrggbb``; classes past the palette get hues that are far apart."""
    if label < len(_COLOURS):
        return _COLOURS[label]
    red, green, blue = colorsys.hls_to_rgb(label * 0.618034 % 1, (0.35, 0.55, 0.75)[label % 3], 0.7)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def mask_rows(examples: MaskExamples) -> list[tuple[str, list[str]]]:
    """Return the pictures of the images, of their masks and of each model's masks as data addresses, by caption."""
    images = examples.images
    rows = [("image", [thumbnail(images.image(index), SIDE) for index in range(len(images))])]
    named: dict[str, Any] = {"true mask": examples.true, **examples.predicted}
    return rows + [(name, [thumbnail(mask_image(mask), SIDE) for mask in masks]) for name, masks in named.items()]


def legend(examples: MaskExamples) -> list[tuple[str, str]]:
    """Return name and colour of each class in the masks, and of ignored pixels where there are some."""
    entries = [(name, class_colour(label)) for label, name in examples.classes.items()]
    return entries + ([("ignored", _IGNORED)] if any((mask == IGNORE).any() for mask in examples.true) else [])


def mask_image(mask: NDArray[np.uint8]) -> Image.Image:
    """Return a mask ``[H, W]`` in the colours of its classes."""
    colours = [class_colour(label) for label in range(IGNORE)] + [_IGNORED]
    image = Image.fromarray(mask)
    image.putpalette(bytes.fromhex("".join(colour[1:] for colour in colours)))
    return image
