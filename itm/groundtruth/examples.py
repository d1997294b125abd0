"""Test images with true and predicted masks for the loggers of a trial that can show them."""

from __future__ import annotations

from typing import Any

import lightning as L

from itm.data.image_set import ImageSet
from itm.data.masks import IGNORE
from itm.groundtruth.segmentation import SegmentationModule

EXAMPLES = 4
"""Images that are logged."""


class ExamplePredictions(L.Callback):
    """Logs the first test images with their masks and those predicted after the last epoch.

    Loggers without ``log_image`` get nothing; W&B's shows both masks over the image.

    Args:
        images: The test images.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images.select(range(min(EXAMPLES, len(images))))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the module keep the predictions that are logged."""
        assert isinstance(pl_module, SegmentationModule)
        pl_module.keep = len(self.images)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the predictions after the last epoch."""
        assert isinstance(pl_module, SegmentationModule)
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            return
        names = {**dict(enumerate(self.images.classes)), IGNORE: "ignored"}
        masks = [self._masks(index, predicted, names) for index, predicted in enumerate(pl_module.predictions)]
        pictures = [self.images.image(index) for index in range(len(masks))]
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("examples", pictures, masks=masks)

    def _masks(self, index: int, predicted: Any, names: dict[int, str]) -> dict[str, Any]:
        return {
            "true": {"mask_data": self.images.mask(index), "class_labels": names},
            "predicted": {"mask_data": predicted.numpy(), "class_labels": names},
        }
