"""Contact sheets of datasets: a row of training images per class, for a check by eye.

``python -m experiments.miniature.contact_sheet stamps emoji`` writes one JPEG per dataset.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.miniature.backdrops import SIZE
from itm.core.errors import ItmError
from itm.data.image_set import ImageSet, load_images

FOLDER = Path(__file__).parent / "contact_sheets"
_COLUMNS, _MARGIN = 16, 2


def contact_sheet(images: ImageSet, columns: int = _COLUMNS) -> NDArray[np.uint8]:
    """Return the first images of each class, one class per row.

    Args:
        images: A dataset in memory.
        columns: Images per row.

    Returns:
        uint8, ``[rows * 34, columns * 34, 3]``; white where a class has fewer images.
    """
    side = SIZE + _MARGIN
    sheet = np.full((len(images.classes) * side, columns * side, 3), 255, np.uint8)
    for label in range(len(images.classes)):
        rows = np.flatnonzero(images.labels.numpy() == label)[:columns]
        for column, row in enumerate(rows):
            top, left = label * side, column * side
            pixels = Image.fromarray(np.asarray(images.items[row])).convert("RGB").resize((SIZE, SIZE))
            sheet[top : top + SIZE, left : left + SIZE] = np.asarray(pixels)
    return sheet


def main() -> None:
    """Write the contact sheets of the datasets named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.miniature.contact_sheet", description=main.__doc__)
    parser.add_argument("data", nargs="+", help="names of datasets")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the sheets (%(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in arguments.data:
            train, test = (load_images(name, split) for split in ("train", "test"))
            sheet = Image.fromarray(contact_sheet(train))
            sheet.save(arguments.folder / f"{name}.jpg", quality=80)
            print(f"{name}: {len(train)} training and {len(test)} test images, {len(train.classes)} classes")
    except ItmError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
