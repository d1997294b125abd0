"""Mean IoU of a ridge probe on frozen features, on the test split of land cover.

It separates features from the fine-tuning protocol: a network with good frozen features and a low fine-tuned mean IoU
was not fine-tuned well.

    python -m experiments.segmentation.probe                                   # the demo's models at their own size
    python -m experiments.segmentation.probe --image-size 224 dinov2_small     # DINOv2 takes multiples of 14
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from itm.cli.api import default_store
from itm.cli.models import named_zoo
from itm.core.features import Features
from itm.data.image_set import ImageSet, load_images
from itm.data.masks import IGNORE
from itm.evaluation.predicted_masks import RidgeProbe
from itm.extraction.extract import extract
from itm.extraction.pool import ROWS
from itm.extraction.readouts.dense import Dense
from itm.extraction.store import FeatureStore
from itm.groundtruth.segmentation import class_ious
from itm.models.backbone import Backbone, load_backbone
from itm.models.pixels import RAW_RGB


def probe_iou(features: Features, backbone: Backbone, test: ImageSet) -> float:
    """Fit a ridge probe and return its mean IoU over every pixel of the test masks, percent."""
    classes = len(test.classes)
    probe = RidgeProbe.fit(features, classes)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for index, predicted in enumerate(probe.predict_masks(backbone, test)):
        true = torch.from_numpy(test.mask(index).astype("int64")).flatten()
        guessed = torch.from_numpy(predicted).flatten().long()
        known = true != IGNORE
        cells = true[known] * classes + guessed[known]
        confusion += torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    return 100 * float(class_ious(confusion).nanmean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names in the zoo demo, or raw_rgb; all by default")
    parser.add_argument("--image-size", type=int, help="pixels that every model sees")
    options = parser.parse_args()
    zoo: dict[str, dict[str, Any]] = {**named_zoo("demo"), RAW_RGB: {"model": RAW_RGB}}
    train, test = load_images("land_cover"), load_images("land_cover", "test")
    readout, store = Dense.for_images(train, ROWS, 0), FeatureStore(str(default_store()))
    print("| model | pixels | test mIoU of the probe |\n|---|---|---|")
    for name in options.models or zoo:
        size = {} if options.image_size is None else {"image_size": options.image_size}
        backbone = load_backbone(name, **{**zoo[name], **size})
        features = extract(backbone, train, store, readout=readout, progress=False).features
        print(f"| {name} | {backbone.input_size} | {probe_iou(features, backbone, test):.1f} |", flush=True)


if __name__ == "__main__":
    main()
